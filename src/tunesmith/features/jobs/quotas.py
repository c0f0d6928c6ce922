"""Quotas of those who submit jobs: how much is used, and what is refused."""

from __future__ import annotations

from datetime import datetime

from tunesmith.core.clock import utc_now
from tunesmith.core.errors import QuotaExceeded
from tunesmith.features.accounts import quotas
from tunesmith.features.accounts.repository import UserRepository
from tunesmith.features.accounts.tables import UserRow
from tunesmith.features.jobs.repository import JobRepository
from tunesmith.features.jobs.tables import JobRow
from tunesmith.schemas.accounts import Quota
from tunesmith.settings import Settings
from tunesmith.storage.database import Session

ASK = "Wait until one ends, stop one, or ask an administrator for more."


def read(settings: Settings, session: Session, user: UserRow) -> list[Quota]:
    """Each with what is used of it."""
    used = {
        "storage_bytes": float(UserRepository(session).stored_bytes(user.id)),
        "jobs": float(JobRepository(session).count_at_work(user.id)),
        "gpu_hours": gpu_hours(session, user.id),
    }
    return [Quota(name=name, used=used[name], limit=quotas.limit(settings, user, name)) for name in quotas.NAMES]  # type: ignore[arg-type]


def check_submit(settings: Settings, session: Session, num_gpus: int) -> None:
    """Raises `QuotaExceeded` when the account that asks may not have another job now."""
    user = quotas.submitter(session)
    if user is None:
        return
    quotas.check_storage(settings, session)
    allowed = quotas.limit(settings, user, "jobs")
    at_work = JobRepository(session).count_at_work(user.id)
    if allowed is not None and at_work >= allowed:
        raise QuotaExceeded(
            f"{at_work} of your jobs wait or run, and your account may have {allowed:.0f} at a time.",
            hint=ASK,
            details=[{"loc": "jobs", "message": f"{at_work + 1} of {allowed:.0f}"}],
        )
    hours = quotas.limit(settings, user, "gpu_hours")
    if num_gpus and hours is not None and (used := gpu_hours(session, user.id)) >= hours:
        raise QuotaExceeded(
            f"Your jobs have used {used:.1f} of the {hours:.1f} GPU hours that your account may have this month.",
            hint="Train without a GPU (resources.num_gpus: 0), or ask an administrator for more.",
            details=[{"loc": "gpu_hours", "message": f"{used:.1f} of {hours:.1f}"}],
        )


def gpu_hours(session: Session, user_id: int) -> float:
    """Of this calendar month (UTC), with jobs that were deleted since."""
    now = utc_now()
    began = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    seconds = JobRepository(session).gpu_seconds(user_id, began)
    return (seconds + UserRepository(session).past_gpu_seconds(user_id, month(now))) / 3600


def remember(session: Session, job: JobRow) -> None:
    """A job goes: the GPU time that it has used stays."""
    seconds = job.elapsed_s * int(job.resources.get("num_gpus", 0))
    if job.owner_id is not None and seconds:
        UserRepository(session).add_past_use(job.owner_id, month(job.created_at), seconds)


def month(instant: datetime) -> str:
    return f"{instant:%Y-%m}"
