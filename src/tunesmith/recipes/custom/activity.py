"""Whether a script that says nothing is busy: one that computes gets on, one that waits for nothing to come does not."""

from __future__ import annotations

import contextlib

import psutil

from tunesmith.core.clock import monotonic_s
from tunesmith.core.progress import moved

LOOK_EVERY_S = 10.0
BUSY_SHARE = 0.05
"""Of one core, over all its processes; a waiting script's threads take less."""


class Activity:
    """Looks after the processor time of a script and all it started."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._looked_s, self._used_s = monotonic_s(), 0.0

    def look(self) -> None:
        """May be called often."""
        now_s = monotonic_s()
        passed_s = now_s - self._looked_s
        if passed_s < LOOK_EVERY_S:
            return
        used_s = 0.0
        with contextlib.suppress(psutil.Error):
            script = psutil.Process(self._pid)
            for process in (script, *script.children(recursive=True)):
                with contextlib.suppress(psutil.Error):
                    used_s += sum(process.cpu_times()[:2])
        if used_s - self._used_s > BUSY_SHARE * passed_s:
            moved()
        self._looked_s, self._used_s = now_s, used_s
