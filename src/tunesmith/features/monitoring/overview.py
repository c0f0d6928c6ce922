"""All at a glance: how many, how busy, what waits, and what somebody should look at."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import date, datetime, timedelta

from tunesmith.core.clock import utc_now
from tunesmith.core.job_status import JobStatus
from tunesmith.core.words import plural
from tunesmith.features.catalog.service import list_models
from tunesmith.features.datasets.service import Datasets
from tunesmith.features.jobs import service as jobs
from tunesmith.features.jobs.tables import JobRow
from tunesmith.features.monitoring.repository import Monitored
from tunesmith.live.bus import Bus
from tunesmith.schemas.system import ActivityDay, Attention, MachineUse, Overview, RunningJob
from tunesmith.settings import Settings
from tunesmith.storage.database import Session

DAYS = 30
"""Days of activity."""
RECENT = timedelta(days=7)
"""How long a failed job is worth a look."""
LONG_WAIT = timedelta(hours=1)
MAX_SHOWN = 20
MAX_OF_A_KIND = 5
LOOKED_AT = 50
"""Newest datasets whose reports are looked at."""
LOW_SHARE = 0.05
"""Free part of a disk, and of memory, under which it is worth a warning."""


def read(
    settings: Settings, session: Session, bus: Bus, use: MachineUse, why_waiting: Callable[[Session], dict[int, str]]
) -> Overview:
    """Everything from counts and short lists that an index gives."""
    monitored, models = Monitored(session), [model.kind for model in list_models(settings)]
    reasons = why_waiting(session)
    return Overview(
        datasets=monitored.dataset_counts(),
        jobs=monitored.job_counts(),
        models={"base": models.count("base"), "tuned": models.count("tuned")},
        activity=activity(monitored, datetime.now().astimezone()),
        running=[_running(row) for row in monitored.running_jobs(MAX_SHOWN)],
        queue=jobs.queue(session, reasons)[:MAX_SHOWN],
        attention=[
            *_machine(settings, use),
            *_failed_jobs(monitored),
            *_datasets(settings, session, bus, monitored),
            *_waiting(monitored, reasons),
        ],
        use=use,
    )


def activity(monitored: Monitored, now: datetime) -> list[ActivityDay]:
    """The last 30 days in the time zone of `now`, each with the jobs that were made on it."""
    offset = now.utcoffset() or timedelta()
    first = now.date() - timedelta(days=DAYS - 1)
    days = {first + timedelta(days=number): ActivityDay(day=first + timedelta(days=number)) for number in range(DAYS)}
    since = datetime.combine(first, datetime.min.time(), now.tzinfo)
    for text, status, count in monitored.jobs_by_day(since, int(offset.total_seconds())):
        day = days.get(date.fromisoformat(text))
        if day is not None:
            waits = status in (JobStatus.QUEUED, JobStatus.CREATED)
            name = status if JobStatus(status).is_final else "waiting" if waits else "open"
            setattr(day, name, getattr(day, name) + count)
    return list(days.values())


def _running(row: JobRow) -> RunningJob:
    return RunningJob(
        id=row.id,
        name=row.name,
        method=row.method,
        model=row.model,
        phase=row.phase,
        progress=min(1.0, row.step / max(1, row.total_steps)),
        step=row.step,
        total_steps=row.total_steps,
        loss=row.loss,
        remaining_s=row.remaining_s,
        started_at=row.started_at,
        sparkline=[loss for _, loss in (row.sparkline or {}).get("points", ())],
    )


def _machine(settings: Settings, use: MachineUse) -> Iterator[Attention]:
    free, gb = use.disk_free_bytes, 1e9
    if free < settings.min_free_bytes:
        yield Attention(
            kind="disk", level="error", title="The disk is nearly full",
            message=f"{free / gb:.1f} GB are free; no job starts and no upload is taken under {settings.min_free_bytes / gb:.1f} GB.",
            hint="Clean up, or delete finished jobs and datasets.",
        )  # fmt: skip
    elif free < max(3 * settings.min_free_bytes, LOW_SHARE * use.disk_total_bytes):
        yield Attention(
            kind="disk", level="warning", title="The disk is getting full", message=f"{free / gb:.1f} GB are free.",
            hint="Clean up before jobs have to wait.",
        )  # fmt: skip
    if use.memory_total_bytes - use.memory_used_bytes < LOW_SHARE * use.memory_total_bytes:
        yield Attention(
            kind="memory", level="warning", title="Memory is nearly used up",
            message=f"{(use.memory_total_bytes - use.memory_used_bytes) / gb:.1f} GB are left.",
            hint="Close other programs, or train with a smaller batch.",
        )  # fmt: skip


def _failed_jobs(monitored: Monitored) -> Iterator[Attention]:
    for row in monitored.failed_jobs(utc_now() - RECENT, MAX_OF_A_KIND):
        title, message = f"{row.name} failed", row.status_reason
        yield Attention(
            kind="job_failed", level="error", id=row.id, title=title, message=message, hint=row.hint, at=row.ended_at
        )


def _datasets(settings: Settings, session: Session, bus: Bus, monitored: Monitored) -> Iterator[Attention]:
    for row in monitored.failed_datasets(MAX_OF_A_KIND):
        error = row.error or {}
        yield Attention(
            kind="dataset_failed", level="error", id=row.id, title=f"{row.name} could not be read",
            message=error.get("message", ""), hint=error.get("hint", ""), at=row.updated_at,
        )  # fmt: skip
    newest = Datasets(settings, session, bus).page(status="ready", limit=LOOKED_AT).items
    for dataset in [dataset for dataset in newest if dataset.num_errors][:MAX_OF_A_KIND]:
        yield Attention(
            kind="dataset_errors", level="warning", id=dataset.id, title=f"{dataset.name} has errors",
            message=f"Its report names {plural(dataset.num_errors, 'error')}.", hint="Repair the rows, or tell which columns hold what.",
            at=dataset.updated_at,
        )  # fmt: skip


def _waiting(monitored: Monitored, reasons: dict[int, str]) -> Iterator[Attention]:
    """Jobs that have waited for long, and not because somebody wanted them to."""
    for row in monitored.waiting_since(utc_now() - LONG_WAIT, MAX_OF_A_KIND):
        if not row.off_peak and (row.not_before is None or row.not_before < utc_now()):
            yield Attention(
                kind="job_waiting", level="warning", id=row.id, title=f"{row.name} still waits",
                message=reasons.get(row.id, "it starts in a moment"), at=row.queued_at,
            )  # fmt: skip
