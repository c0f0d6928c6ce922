"""Parts of the server that look after something again and again, each in a thread of its own.

Every round may be repeated, so whatever one fails with is written to the log and the next one comes: a full disk, a database
that is away or a defect that one row brings must not end the supervision of everything else.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import ClassVar

log = logging.getLogger(__name__)


@contextlib.contextmanager
def carried_on(what: str) -> Iterator[None]:
    """Write what the block fails with to the log and go on behind it. For work that is tried again."""
    try:
        yield
    except OSError as error:  # a full disk, say: nobody needs to read where in the code
        log.warning("%s is not possible now, trying again: %s", what, error)
    except Exception:
        log.exception("%s failed, trying again", what)


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
