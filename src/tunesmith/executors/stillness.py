"""How long a worker has shown no progress, counted by the shim beside it.

Only time counts in which the worker could have worked: not while it is held by SIGSTOP, not while the shim itself was held or
the machine slept. So what is told is a sum of short looks, and never the difference of two clocks.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from tunesmith.core.job_dir import JobDir
from tunesmith.core.progress import read_progress
from tunesmith.executors.base import Stillness

LONGEST_LOOK_S = 5.0
"""Most that one look adds: who was away for longer did not watch."""
BYTES_COUNT_AFTER_S = 20.0
"""Stillness after which the bytes are looked at too that the worker moves; it takes a walk through all processes."""
BYTES_A_S = 32 * 1024
"""More than that, to or from disk, is progress: a download, a model being loaded or written. The few bytes that a stuck worker's
other threads write are not."""


class StillnessMeter:
    """`look` now and then; `told` is what goes into the heartbeat."""

    def __init__(self, job_dir: JobDir, attempt: int) -> None:
        self._path, self._attempt = job_dir.progress, attempt
        self._moves = 0
        self._moved_bytes: int | None = None
        self.phase, self.still_s = "starting", 0.0
        self._slowest_s: dict[str, float] = {}

    def look(self, passed_s: float, *, is_stopped: bool) -> None:
        """`passed_s` since the last look, on a clock that rests while the machine sleeps."""
        if is_stopped:
            self._moved_bytes = None
            return
        self.still_s += min(passed_s, LONGEST_LOOK_S)
        found = read_progress(self._path)
        if found and found.attempt == self._attempt and found.moves != self._moves:
            self._restart()
            self._moves, self.phase = found.moves, found.phase
        elif self.still_s > BYTES_COUNT_AFTER_S:
            before, self._moved_bytes = self._moved_bytes, moved_bytes(os.getpid())
            if before is not None and self._moved_bytes - before > BYTES_A_S * max(1.0, passed_s):
                self._restart()

    def _restart(self) -> None:
        self._slowest_s[self.phase] = max(self.still_s, self._slowest_s.get(self.phase, 0.0))
        self.still_s, self._moved_bytes = 0.0, None

    def told(self) -> Stillness:
        return Stillness(self.phase, round(self.still_s, 1), round(self._slowest_s.get(self.phase, 0.0), 1))


def moved_bytes(session: int) -> int:
    """Bytes that the living processes of a session have written, or read from disk; 0 where nobody counts them."""
    total = 0
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError, ValueError):
            if int((folder / "stat").read_text().rpartition(")")[2].split()[3]) != session:
                continue
            counters = dict(line.split(": ") for line in (folder / "io").read_text().splitlines())
            total += int(counters["wchar"]) + int(counters["read_bytes"])
    return total
