"""What is finished of a job, in its folder and in checkpoints: the encoding, each fitted member, and what it predicted."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith.core.recipe import RunContext
from tunesmith.recipes.tabular.curves import State
from tunesmith.recipes.tabular.encoding import JSON_FILE, Encoding
from tunesmith.recipes.tabular.schedule import Schedule

STATE_FILE, PREDICTIONS_FILE = "state.json", "predictions.safetensors"
WORK = "tabular"
"""Folder of the job in which members lie until the artifact is written."""


class Store:
    """The state and the files that belong to it. A checkpoint is a copy of the folder; one that is resumed replaces it."""

    def __init__(self, run: RunContext, params: dict[str, Any]) -> None:
        self.run, self.folder = run, run.dir.path / WORK
        data = [each.digest if each else "" for each in (run.spec.dataset, run.spec.eval_dataset)]
        told = json.dumps([params, data], sort_keys=True, default=str)
        self.state = State(hashlib.sha256(told.encode()).hexdigest())
        self.predictions: dict[str, np.ndarray] = {}
        """`model-fold` → what it predicted for the held-out rows of its fold, in their order."""

    def resume(self) -> bool:
        """Take up the latest checkpoint. Whether there was one of this very job."""
        shutil.rmtree(self.folder, ignore_errors=True)
        found = self.run.latest_checkpoint()
        state = _state_in(found) if found else None
        if found is None or state is None or state.fingerprint != self.state.fingerprint:
            if found is not None:
                self.run.notice(
                    "The checkpoint is of other settings or data; starting from the beginning.", level="warning"
                )
            self.folder.mkdir()
            return False
        from safetensors.numpy import load_file

        shutil.copytree(found, self.folder, ignore=shutil.ignore_patterns("complete.json"))
        self.state, self.predictions = state, load_file(self.folder / PREDICTIONS_FILE)
        return True

    def encoding(self) -> Encoding | None:
        """The one that the checkpoint holds."""
        return Encoding.load(self.folder) if (self.folder / JSON_FILE).is_file() else None

    def decide(self, schedule: Schedule) -> None:
        """Note what is to be fitted: model by model, each on all its folds."""
        self.state.schedule = [[model, fold] for model in schedule.models for fold in range(schedule.num_folds)]
        self.state.rates, self.state.weights = schedule.rates, schedule.weights

    def done(self, model: str, fold: int) -> dict[str, Any] | None:
        """What is known of a fit that is finished."""
        return next((fit for fit in self.state.fits if (fit["model"], fit["fold"]) == (model, fold)), None)

    def checkpoint(self, reason: str = "schedule") -> None:
        """Write what is finished. What a fit under way has done so far is not in it."""
        from safetensors.numpy import save_file

        with self.run.checkpoint(self.state.step, reason=reason) as folder:
            names = [fit["file"] for fit in self.state.fits] + [path.name for path in self.folder.glob("encoding.*")]
            for name in names:
                shutil.copyfile(self.folder / name, folder / name)
            arrays = {name: np.ascontiguousarray(array) for name, array in self.predictions.items()}
            save_file(arrays, folder / PREDICTIONS_FILE)
            (folder / STATE_FILE).write_text(json.dumps(self.state.as_json(), indent=1))
        self.run.prune_checkpoints(2)

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def _state_in(folder: Path) -> State | None:
    try:
        return State(**json.loads((folder / STATE_FILE).read_bytes()))
    except (OSError, ValueError, TypeError):
        return None
