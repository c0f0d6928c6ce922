"""The time, in one place so that tests can set it."""

from __future__ import annotations

import time
from datetime import UTC, datetime


def utc_now() -> datetime:
    """Now, timezone-aware, in UTC."""
    return datetime.now(UTC)


def monotonic_s() -> float:
    """Seconds on a clock that never jumps; for durations only."""
    return time.monotonic()


def as_utc(instant: datetime) -> datetime:
    """The same instant in UTC; one without a zone is taken for UTC."""
    return instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant.astimezone(UTC)
