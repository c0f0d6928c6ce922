"""How much an account may have: what an administrator has set for it, else what the settings say."""

from __future__ import annotations

from tunesmith.core.acting import current
from tunesmith.core.errors import QuotaExceeded
from tunesmith.features.accounts.repository import UserRepository
from tunesmith.features.accounts.tables import UserRow
from tunesmith.settings import Settings
from tunesmith.storage.database import Session

NAMES = ("storage_bytes", "jobs", "gpu_hours")


def limit(settings: Settings, user: UserRow, name: str) -> float | None:
    """The limit called `name`, one of `NAMES`; None means none."""
    own: float | None = getattr(user, f"quota_{name}")
    return own if own is not None else getattr(settings, f"quota_{name}")


def submitter(session: Session) -> UserRow | None:
    """The account that asks, locked, so that two requests cannot both take the last of a quota; None where there are none."""
    who = current()
    return UserRepository(session).get(who.user_id, for_update=True) if who.user_id else None


def check_storage(settings: Settings, session: Session, more_bytes: int = 0) -> None:
    """Raises `QuotaExceeded` when `more_bytes` would be too much."""
    user = submitter(session)
    allowed = limit(settings, user, "storage_bytes") if user else None
    if user is None or allowed is None:
        return
    used = UserRepository(session).stored_bytes(user.id)
    if used + more_bytes > allowed or (more_bytes == 0 and used >= allowed):
        raise QuotaExceeded(
            f"Your things take {used / 1e9:.2f} GB of the {allowed / 1e9:.2f} GB that your account may have.",
            hint="Delete datasets or jobs that you no longer need, or ask an administrator for more.",
            details=[{"loc": "storage_bytes", "message": f"{used + more_bytes} of {allowed:.0f}"}],
        )
