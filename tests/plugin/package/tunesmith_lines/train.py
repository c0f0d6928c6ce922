from __future__ import annotations

import json
import time

import numpy as np
import pyarrow.parquet as pq

from tunesmith.core.errors import FailureCode, JobFailure
from tunesmith.core.events import EvaluationEvent, StepEvent
from tunesmith.core.recipe import Outcome, RunContext
from tunesmith_lines.kind import FILE
from tunesmith_lines.spec import LineParams

HELD_OUT = 5
"""Every so many rows one is held out."""


def train(params: LineParams, run: RunContext) -> str:
    data = run.spec.dataset
    assert data is not None
    table = pq.read_table(data.path)
    for column in (params.x, params.y):
        if column not in table.column_names:
            raise JobFailure(FailureCode.INVALID_SETTINGS, f"There is no column {column}.", hint="Name another.")
    x, y = (table[name].to_numpy().astype(float) for name in (params.x, params.y))
    held_out = np.arange(len(x)) % HELD_OUT == 0
    centre, width = x[~held_out].mean(), x[~held_out].std() or 1.0
    known = run.latest_checkpoint()
    step, slope, intercept = json.loads((known / "state.json").read_text()) if known else (0, 0.0, 0.0)
    run.phase("training")
    scores = {}
    while step < params.steps:
        control = run.control()
        if control.stop:
            return Outcome.CANCELLED
        if control.pause:
            return Outcome.PAUSED
        off = slope * (x - centre) / width + intercept - y
        train_off = off[~held_out]
        slope -= params.learning_rate * float((train_off * (x[~held_out] - centre) / width).mean())
        intercept -= params.learning_rate * float(train_off.mean())
        step += 1
        scores = measured(off[held_out], y[held_out])
        run.report(StepEvent(step=step, total_steps=params.steps, values=measured(train_off, y[~held_out])))
        run.report(EvaluationEvent(step=step, values=scores))
        with run.checkpoint(step) as folder:
            (folder / "state.json").write_text(json.dumps([step, slope, intercept]))
        run.prune_checkpoints(2)
        time.sleep(params.step_s)
    with run.artifact("line_model") as folder:
        told = {"x": params.x, "y": params.y, "slope": slope / width, "intercept": intercept - slope * centre / width}
        (folder / FILE).write_text(json.dumps(told))
    run.metrics({f"eval_{name}": value for name, value in scores.items()})
    return Outcome.COMPLETED


def measured(off: np.ndarray, y: np.ndarray) -> dict[str, float]:
    return {"rmse": float(np.sqrt((off**2).mean())), "r2": float(1 - (off**2).mean() / y.var())}
