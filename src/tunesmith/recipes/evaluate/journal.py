"""What is known of each row, kept as it comes: a job that was killed or paused goes on where it was."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tunesmith.core.job_dir import end_half_line
from tunesmith.core.progress import moved
from tunesmith.core.recipe import Outcome, RunContext

UNIT = "steps"
"""Of progress through the whole job."""


class Halted(Exception):
    """Somebody has asked the job to pause or to stop."""

    def __init__(self, outcome: str) -> None:
        super().__init__(outcome)
        self.outcome = outcome


def check_control(run: RunContext) -> None:
    """Raises `Halted` when the job should end now. Asked after every token and every part: the job gets on."""
    moved()
    control = run.control()
    if control.stop:
        raise Halted(Outcome.CANCELLED)
    if control.pause:
        raise Halted(Outcome.PAUSED)


class Steps:
    """How much of the whole evaluation is done: a row measured, answered, timed or judged is a step each, and so is each row
    of a benchmark, told when the benchmark ends."""

    def __init__(self, run: RunContext) -> None:
        self._run = run
        self._totals: dict[str, int] = {}
        self._done: dict[str, int] = {}

    def expect(self, **totals: int) -> None:
        """Parts that are to come, with the steps of each."""
        self._totals |= totals

    def expected(self, part: str) -> int:
        """All steps of a part."""
        return self._totals[part]

    def tell(self, part: str, done: int) -> None:
        """So many steps of a part are done."""
        self._done[part] = min(done, self._totals[part])
        self._run.progress(sum(self._done.values()), sum(self._totals.values()), UNIT)


class Journal:
    """JSON lines, one a row; only ever appended to. A half line that a kill left is cut."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        end_half_line(path)
        lines = path.read_text().splitlines() if path.exists() else []
        self.entries: dict[int, dict[str, Any]] = {entry["row"]: entry for entry in map(json.loads, lines)}

    def add(self, entries: Iterable[dict[str, Any]]) -> None:
        """Append and flush."""
        new = list(entries)
        with self.path.open("a") as file:
            file.writelines(json.dumps(entry, ensure_ascii=False) + "\n" for entry in new)
            file.flush()
            os.fsync(file.fileno())
        self.entries.update((entry["row"], entry) for entry in new)
