"""Small tables with something to learn, and a job on them in this very process."""

from __future__ import annotations

import hashlib
import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tunesmith.core.job_dir import JobDir, read_new_events, write_atomic
from tunesmith.core.job_spec import JobSpec, Launch
from tunesmith.recipes.catalog import get_recipe
from tunesmith.worker.run import Run
from tunesmith.worker.stopping import StopSignals

QUICK = {
    "folds": 2,
    "max_iterations": 12,
    "early_stopping_rounds": 5,
    "time_limit_s": None,
    "learning_rate": 0.3,
    "seed": 3,
}
WORDS = ["invoice", "refund", "delivery", "broken", "thanks", "login", "password", "cancel", "upgrade", "price"]


def customers(rows: int = 160, seed: int = 0) -> dict[str, list[Any]]:
    """Numbers, categories, dates and texts, some missing; `left` depends on age, plan and the message."""
    rng = np.random.default_rng(seed)
    age = rng.integers(18, 80, rows)
    plan = rng.choice(["basic", "family", "pro"], rows, p=[0.5, 0.3, 0.2])
    words = [" ".join(rng.choice(WORDS, 6)) for _ in range(rows)]
    logit = (
        (age - 45) / 8
        + 2 * (plan == "pro")
        - 2 * np.asarray(["cancel" in text for text in words])
        + rng.normal(0, 0.5, rows)
    )
    day = rng.integers(0, 1500, rows)
    since = np.datetime64("2020-01-01") + day
    return {
        "age": [None if rng.random() < 0.1 else int(a) for a in age],
        "plan": [None if rng.random() < 0.1 else str(p) for p in plan],
        "since": [str(d) for d in since],
        "message": words,
        "left": ["yes" if value > 0 else "no" for value in logit],
        "spent": [float(v) for v in 5 * np.abs(age - 48) + 40 * (plan == "pro") + rng.normal(0, 10, rows)],
    }


def as_text(table: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """As the server stores a CSV file: every cell a text, a missing one null."""
    return {name: [None if value is None else str(value) for value in values] for name, values in table.items()}


class Tables:
    """Makes job directories below one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._count = folder, 0

    def run(self, table: dict[str, list[Any]], *, data: dict[str, Any] | None = None, **params: Any) -> Run:
        self._count += 1
        folder = self.folder / f"job{self._count}"
        folder.mkdir()
        path = folder / "data.parquet"
        arrow = pa.table(table)
        pq.write_table(arrow, path)
        told = {"name": "rows", "path": str(path), "digest": hashlib.sha256(repr(table).encode()).hexdigest(), "shape": "tabular",
                "num_rows": len(arrow), **(data or {})}  # fmt: skip
        spec = JobSpec(
            job_id=self._count, name="test", recipe="tabular", params={**QUICK, **params}, dataset=told,
            cache_dir=str(self.folder / "cache"), offline=True, resources={"cpu_threads": 1},
        )  # fmt: skip
        write_atomic(folder / "spec.json", spec)
        return open_run(JobDir(folder), 1)


def open_run(job_dir: JobDir, attempt: int) -> Run:
    write_atomic(job_dir.launch, Launch(attempt=attempt))
    run = Run(job_dir, job_dir.read_spec(), attempt, StopSignals())
    run.start()
    return run


def again(run: Run) -> Run:
    return open_run(run.dir, run.attempt + 1)


def train(run: Run) -> str:
    """As the worker calls it."""
    recipe = get_recipe("tabular")
    module, _, function = recipe.train.partition(":")
    return getattr(importlib.import_module(module), function)(recipe.params.model_validate(run.spec.params), run)


def events(run: Run, kind: str) -> list[Any]:
    run._reporter.flush()
    return [event for event in read_new_events(run.dir.events, 0).events if event.type == kind]


def notices(run: Run) -> str:
    return "\n".join(event.message for event in events(run, "notice"))


def model_folder(run: Run) -> Path:
    return run.dir.artifacts / "tabular_model"


def rows_of(table: dict[str, list[Any]], *without: str) -> list[dict[str, Any]]:
    names = [name for name in table if name not in without]
    return [dict(zip(names, row, strict=True)) for row in zip(*(table[name] for name in names), strict=True)]
