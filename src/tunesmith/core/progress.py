"""How a worker proves that it gets on: a counter in its job's folder that moves with every phase, batch, token and line.

The code that does the work moves it, never a timer: a counter that a thread moved beside a stuck training would prove nothing.
`moved()` may be called from anywhere, as often as one likes; outside a worker it does nothing.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import NamedTuple

WRITE_EVERY_S = 0.5
"""Least time between two writes, seconds; a counter that stands still has been written at most this long before."""
RECORD_BYTES = 64
"""Written in place, over itself: once the first is there, a full disk takes no later one away."""


class Progress(NamedTuple):
    """What the file says."""

    attempt: int
    moves: int
    phase: str


class _Counter:
    def __init__(self, path: Path, attempt: int) -> None:
        self._path, self._attempt = path, attempt
        self._count, self._phase, self._next_s = 0, "starting", 0.0
        self._fd = -1

    def move(self, phase: str | None) -> None:
        self._count += 1
        now_s = time.monotonic()
        if phase is None and now_s < self._next_s:
            return
        self._phase, self._next_s = phase or self._phase, now_s + WRITE_EVERY_S
        record = f"{self._attempt} {self._count} {self._phase}".ljust(RECORD_BYTES - 1) + "\n"
        with contextlib.suppress(OSError):  # a full disk; the next write may find room
            if self._fd < 0:
                self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
            os.pwrite(self._fd, record.encode(), 0)


_counter: _Counter | None = None


def begin(path: Path, attempt: int) -> None:
    """Count for that attempt from now on, in `path`."""
    global _counter
    _counter = _Counter(path, attempt)
    _counter.move("starting")


def moved(phase: str | None = None) -> None:
    """Something was done: a phase begun, a batch or a token computed, a part of a file written."""
    if _counter:
        _counter.move(phase)


def read_progress(path: Path) -> Progress | None:
    """What was last written; None where there is nothing that can be read."""
    with contextlib.suppress(OSError, ValueError):
        attempt, count, phase = path.read_bytes()[:RECORD_BYTES].decode().split()
        return Progress(int(attempt), int(count), phase)
    return None
