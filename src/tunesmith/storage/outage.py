"""A database that is away: how that is known from an error of another kind, what is answered, and what the log says of it."""

from __future__ import annotations

import logging
import threading
import time
from typing import Any
from urllib.parse import unquote, urlsplit

from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as NoConnectionFree

from tunesmith.core.errors import Unavailable

log = logging.getLogger(__name__)

AWAY_STATES = ("08", "57P", "53300")
"""SQLSTATEs, or how they begin: connection lost or refused, server shut down or starting, too many connections."""
NO_AWAY_STATES = ("57P04", "57P05")
"""Database dropped, session idle: waiting does not help."""
SQLITE_AWAY = ("database is locked", "disk i/o error", "unable to open database file")
REMIND_EVERY_S = 60.0
RETRY_AFTER_S = 5
"""When who asked is to come back."""


class DatabaseAway(SQLAlchemyError):
    """The database does not answer. No `TunesmithError`, which would tell of the thing that was asked for: who catches those
    for a model or a file must not take it for ill because the database is away."""

    def __init__(self, answer: Unavailable) -> None:
        super().__init__(answer.message)
        self.answer = answer
        """What is said to who asked; neither SQL nor values are in it."""


class Outage:
    """Whether a database answers, as the last transactions have found it. Thread-safe."""

    def __init__(self, url: str) -> None:
        self.name = name_of(url)
        self._lock = threading.Lock()
        self._began_s: float | None = None
        self._told_s = -REMIND_EVERY_S
        self._is_told = False
        self._failed = 0

    def failed(self, error: DBAPIError | NoConnectionFree) -> DatabaseAway:
        """Count it, and write it down when it is the first."""
        why, now_s = reason_of(error), time.monotonic()
        with self._lock:
            self._failed += 1
            if self._began_s is None:
                self._began_s, self._failed = now_s, 1
            if now_s - self._told_s >= REMIND_EVERY_S:
                self._told_s, self._is_told = now_s, True
                log.error("%s does not answer: %s (failed so far: %s)", self.name, why, self._failed)
        message = f"{self.name} is busy." if "locked" in why else f"{self.name} does not answer."
        return DatabaseAway(Unavailable(message, hint="Try again in a moment; the server's log says why."))

    def worked(self) -> None:
        """A transaction has come through."""
        if self._began_s is None:
            return
        with self._lock:
            began_s, failed, is_told = self._began_s, self._failed, self._is_told
            self._began_s, self._is_told = None, False
        if is_told and began_s is not None:
            log.warning("%s answers again after %.1f s; %s failed", self.name, time.monotonic() - began_s, failed)


def is_away(error: DBAPIError | NoConnectionFree) -> bool:
    """Whether it is the connection, and not what was asked over it."""
    if isinstance(error, NoConnectionFree):
        return True
    if error.connection_invalidated:
        return True
    if not isinstance(error, OperationalError | InterfaceError):
        return False
    if type(error.orig).__module__.startswith("psycopg"):
        state = str(getattr(error.orig, "sqlstate", None) or "08")  # none: there was no server to give one
        return state.startswith(AWAY_STATES) and state not in NO_AWAY_STATES
    return any(words in str(error.orig).lower() for words in SQLITE_AWAY)


def reason_of(error: DBAPIError | NoConnectionFree) -> str:
    """The driver's own words in one line, without the statement."""
    if isinstance(error, NoConnectionFree):
        return "no connection has become free"
    return " ".join(str(error.orig).split())[:300]


def name_of(url: str) -> str:
    """Kind and name, without host, user and password."""
    path = unquote(urlsplit(url).path)
    kind = "SQLite" if url.startswith("sqlite") else "PostgreSQL"
    return f"The database {path.rpartition('/')[2] or 'of its user'} ({kind})"


def is_told_elsewhere(record: logging.LogRecord) -> bool:
    """Whether a line of the log is about a database that is away: `Outage` writes those, once."""
    error: Any = record.exc_info[1] if record.exc_info else None
    while error is not None:
        if isinstance(error, DatabaseAway):
            return True
        error = error.__cause__ or error.__context__
    return False


def keep_quiet(record: logging.LogRecord) -> bool:
    """Filter of a log's handlers."""
    return not is_told_elsewhere(record)
