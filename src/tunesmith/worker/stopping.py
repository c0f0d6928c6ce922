"""Requests from outside the job directory: SIGTERM and SIGINT mean "keep what you have and go"."""

from __future__ import annotations

import os
import signal
from types import FrameType

from tunesmith.core.clock import monotonic_s

SAME_REQUEST_S = 1.0
"""A second signal within this time is the same request: shim, launcher and process group may each pass it on."""


class StopSignals:
    """The first signal asks for a checkpoint and an orderly end; a second one, a second or more later, ends at once."""

    def __init__(self) -> None:
        self._first_s: float | None = None

    @property
    def stop_asked(self) -> bool:
        return self._first_s is not None

    def listen(self) -> None:
        """Take over SIGTERM and SIGINT. Main thread only."""
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        now = monotonic_s()
        if self._first_s is None:
            self._first_s = now
        elif now - self._first_s > SAME_REQUEST_S:
            os._exit(128 + number)
