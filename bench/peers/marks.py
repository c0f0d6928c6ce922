"""When a peer begins, ends and logs each step: one JSON object a line, read by the bench that started it.

Runs in the peer's own environment, so it imports nothing of Tunesmith.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

IGNORE = -100


class Marks(TrainerCallback):
    """Appends to `path`; times are seconds since 1970."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", encoding="utf-8", buffering=1)

    def _mark(self, event: str, **what: Any) -> None:
        self._file.write(json.dumps({"at": time.time(), "event": event, **what}) + "\n")

    def on_train_begin(self, *_: Any, train_dataloader: Any = None, **__: Any) -> None:
        """The rows that the peer will really train on, after all that it did to them."""
        rows = train_dataloader.dataset
        tokens = [len(row["input_ids"]) for row in rows]
        supervised = [sum(label != IGNORE for label in row["labels"][1:]) for row in rows]
        self._mark("train_begin", num_rows=len(rows), tokens=sum(tokens), supervised=sum(supervised))

    def on_step_begin(self, _args: Any, state: Any, *_: Any, **__: Any) -> None:
        self._mark("step_begin", step=state.global_step + 1)

    def on_step_end(self, _args: Any, state: Any, *_: Any, **__: Any) -> None:
        self._mark("step_end", step=state.global_step)

    def on_log(self, _args: Any, state: Any, *_: Any, logs: dict[str, float] | None = None, **__: Any) -> None:
        if logs and "loss" in logs:
            self._mark("loss", step=state.global_step, loss=float(logs["loss"]))
