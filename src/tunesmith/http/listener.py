"""The socket that connections come in by, which goes on when no more files can be opened."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import resource
import socket
import time
from typing import Any

from tunesmith.core.errors import Unavailable
from tunesmith.http.connections import TELL_EVERY_S, raw_answer

log = logging.getLogger(__name__)

OUT_OF_FILES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
ENOUGH_FILES = 65_536
KEPT_FILES = 256
"""Files for all but connections."""
REST_S = 0.05


def raise_file_limit() -> int:
    """Let this process open as many files as it may; how many connections that is room for."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = ENOUGH_FILES if hard == resource.RLIM_INFINITY else min(hard, ENOUGH_FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
            soft = most
    return max(16, (ENOUGH_FILES if soft == resource.RLIM_INFINITY else soft) - KEPT_FILES)


class Listener(socket.socket):
    """Keeps one file open for the case that no other can be: then it is closed, and whoever knocks is told to come back.
    asyncio would write a traceback for each place in the queue, every second, and answer nobody."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._spare: int | None = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        self._refused, self._told_s = 0, -TELL_EVERY_S

    def accept(self) -> tuple[socket.socket, Any]:
        """The next connection. Raises `BlockingIOError` when there is none."""
        while True:
            try:
                return super().accept()
            except OSError as error:
                if error.errno not in OUT_OF_FILES:
                    raise
                self._refuse_one(error)

    def _refuse_one(self, error: OSError) -> None:
        """Raises `BlockingIOError` when there is none, or when others took even that file."""
        self._refused += 1
        if time.monotonic() - self._told_s > TELL_EVERY_S:
            self._told_s = time.monotonic()
            log.error("connections are refused: %s; ulimit -n raises it (so far: %s)", error.strerror, self._refused)
        if self._spare is not None:
            os.close(self._spare)
            self._spare = None
        try:
            refused, _ = super().accept()
        except OSError as again:
            if again.errno not in OUT_OF_FILES:
                raise
            time.sleep(REST_S)  # else the event loop comes back here at once
            raise BlockingIOError from None
        else:
            refused.setblocking(False)
            with refused, contextlib.suppress(OSError):
                refused.send(
                    raw_answer(Unavailable("The server has too many files open.", hint="Try again in a moment."))
                )
                refused.shutdown(socket.SHUT_WR)
                refused.recv(65_536)  # what is left unread when it is closed would take the answer with it
        finally:
            with contextlib.suppress(OSError):
                self._spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def close(self) -> None:
        super().close()
        if self._spare is not None:
            os.close(self._spare)
            self._spare = None
