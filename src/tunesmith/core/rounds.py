"""Parts of the server that look after something again and again, each in a thread of its own.

Every round may be repeated, so whatever one fails with is written to the log and the next one comes: a full disk, a database
that is away or a defect that one row brings must not end the supervision of everything else. What goes on failing in the same
way is written once and then counted: rounds come five times a second, and the log may be on the disk that is full.
"""

from __future__ import annotations

import contextlib
import logging
import re
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import ClassVar, NamedTuple

from tunesmith.core.clock import monotonic_s

log = logging.getLogger(__name__)

COUNT_FOR_S = 60.0
"""How long the same failure is only counted after it was written."""
MAX_KINDS = 200
"""Kinds of failures that are remembered."""


class _Failures:
    """Which failures were written, and how often each has come again since. Used by all threads."""

    class Kind(NamedTuple):
        written_s: float
        repeated: int

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kinds: dict[str, _Failures.Kind] = {}

    def count(self, kind: str, now_s: float) -> int | None:
        """How often it was repeated since it was last written, if it should be written now; 0 the first time."""
        with self._lock:
            known = self._kinds.pop(kind, None)
            if known and now_s - known.written_s < COUNT_FOR_S:
                self._kinds[kind] = known._replace(repeated=known.repeated + 1)
                return None
            self._kinds[kind] = self.Kind(now_s, 0)
            while len(self._kinds) > MAX_KINDS:
                del self._kinds[next(iter(self._kinds))]
            return known.repeated + 1 if known and known.repeated else 0


_failures = _Failures()


def _tell(what: str, error: Exception) -> None:
    """Write a failure to the log, unless the same was written a moment ago. Those of jobs that differ in their number only are
    the same."""
    first_line = (str(error).strip().splitlines() or [""])[0][:500]
    repeated = _failures.count(re.sub(r"\d+", "#", f"{what}: {type(error).__name__}: {first_line}"), monotonic_s())
    if repeated:
        log.warning("%s failed again, repeated %s times in the last minute or more: %s", what, repeated, first_line)
    elif repeated == 0 and isinstance(error, OSError):  # a full disk, say: nobody needs to read where in the code
        log.warning("%s is not possible now, trying again: %s", what, error)
    elif repeated == 0:
        log.error("%s failed, trying again", what, exc_info=error)


@contextlib.contextmanager
def carried_on(what: str) -> Iterator[None]:
    """Write what the block fails with to the log and go on behind it. For work that is tried again."""
    try:
        yield
    except Exception as error:
        _tell(what, error)


class Rounds(ABC):
    """A thread that calls `look` until it is stopped."""

    name: ClassVar[str]
    rest_s: float
    """Pause before the next round, seconds; `wake` ends it."""

    def __init__(self) -> None:
        self._wake, self._stop = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None

    @abstractmethod
    def look(self) -> None:
        """One round. Safe to repeat after it failed at any point."""

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Wait for the round that is under way."""
        self._stop.set()
        self._wake.set()
        if self._thread:
            self._thread.join(30)

    def wake(self) -> None:
        """Begin the next round now."""
        self._wake.set()

    def _run(self) -> None:
        while not self._stop.is_set():
            with carried_on(f"a round of {self.name}"):
                self.look()
            self._wake.wait(self.rest_s)
            self._wake.clear()
