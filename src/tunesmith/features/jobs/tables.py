"""Jobs, their events, the values they are sorted by, saved tables of them, and the devices they hold."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ColumnClause, ForeignKey, Index, Integer, String, Text, func, literal_column, text
from sqlalchemy.orm import Mapped, mapped_column

from tunesmith.storage.tables import Base, BigId, JsonValue, Owned, UtcDateTime

NO_LOSS: ColumnClause[float] = literal_column("1e300")
"""Where jobs without a held-out loss stand when they are sorted by it."""


class JobRow(Owned, Base):
    """One job. `status` is what it is; `wants_…` is what its owner asked for and the scheduler has still to do."""

    __tablename__ = "jobs"
    noun = "job"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    name: Mapped[str] = mapped_column(String(200))
    method: Mapped[str] = mapped_column(String(50))
    model: Mapped[str | None] = mapped_column(String(500))
    dataset_id: Mapped[int | None] = mapped_column(BigId, index=True)
    dataset_version: Mapped[str | None] = mapped_column(String(64))
    eval_dataset_id: Mapped[int | None] = mapped_column(BigId)
    hyperparameters: Mapped[dict[str, Any]] = mapped_column(JsonValue)
    reasons: Mapped[dict[str, str]] = mapped_column(JsonValue)
    request: Mapped[dict[str, Any]] = mapped_column(JsonValue)
    """What was submitted, for cloning."""
    spec: Mapped[dict[str, Any]] = mapped_column(JsonValue)
    """Becomes `spec.json`."""
    resources: Mapped[dict[str, Any]] = mapped_column(JsonValue)
    tags: Mapped[list[str]] = mapped_column(JsonValue)
    output_name: Mapped[str] = mapped_column(String(120), unique=True)
    batch_id: Mapped[str | None] = mapped_column(String(36), index=True)

    status: Mapped[str] = mapped_column(String(20))
    status_reason: Mapped[str] = mapped_column(Text, default="")
    phase: Mapped[str | None] = mapped_column(String(20))
    failure_code: Mapped[str | None] = mapped_column(String(40))
    hint: Mapped[str] = mapped_column(Text, default="")
    details: Mapped[list[Any]] = mapped_column(JsonValue, default=list)
    metrics: Mapped[dict[str, float]] = mapped_column(JsonValue, default=dict)

    step: Mapped[int] = mapped_column(BigInteger, default=0)
    total_steps: Mapped[int] = mapped_column(BigInteger, default=0)
    loss: Mapped[float | None]
    """Of the last step; null where it was not a number."""
    eval_loss: Mapped[float | None]
    best_eval_loss: Mapped[float | None] = mapped_column()
    scores: Mapped[dict[str, Any]] = mapped_column(JsonValue, default=dict, server_default="{}")
    """Of each curve `[last, best]`; best is null where neither high nor low is better."""
    elapsed_s: Mapped[float] = mapped_column(default=0.0)
    remaining_s: Mapped[float | None]
    sparkline: Mapped[dict[str, Any]] = mapped_column(JsonValue, default=dict)
    """`curves.Sparkline`: the loss in few points, so that a list of jobs reads no events."""

    priority: Mapped[int] = mapped_column(Integer, default=1)
    """0 low, 1 normal, 2 high."""
    position: Mapped[float] = mapped_column(default=0.0)
    """Order within one priority; the id unless somebody moved it."""
    not_before: Mapped[datetime | None] = mapped_column(UtcDateTime)
    off_peak: Mapped[bool] = mapped_column(default=False)
    after_job_id: Mapped[int | None] = mapped_column(BigId)
    after_failure: Mapped[bool] = mapped_column(default=True)
    timeout_s: Mapped[float | None]

    wants_stop: Mapped[bool] = mapped_column(default=False)
    wants_pause: Mapped[bool] = mapped_column(default=False)
    checkpoint_seq: Mapped[int] = mapped_column(default=0)
    learning_rate: Mapped[float | None]
    learning_rate_seq: Mapped[int] = mapped_column(default=0)

    attempt: Mapped[int] = mapped_column(default=0)
    """Launches so far: the fencing number of the present one."""
    launch: Mapped[dict[str, Any] | None] = mapped_column(JsonValue)
    """`core.job_spec.Launch` of the present attempt; null when no process can exist."""
    server_id: Mapped[str | None] = mapped_column(String(80))
    """Which server watches it."""
    lease_until: Mapped[datetime | None] = mapped_column(UtcDateTime)
    size_bytes: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")
    """Of its folder, when its last attempt ended."""
    restarts: Mapped[int] = mapped_column(default=0)
    """Lost workers since the last new checkpoint."""
    out_of_memory_kills: Mapped[int] = mapped_column(default=0)
    stopping_since: Mapped[datetime | None] = mapped_column(UtcDateTime)
    events_offset: Mapped[int] = mapped_column(BigInteger, default=0)
    """Bytes of events.jsonl that are in the database."""
    last_seq: Mapped[int] = mapped_column(default=0)
    last_checkpoint_step: Mapped[int] = mapped_column(BigInteger, default=-1)

    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    queued_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    started_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    ended_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    registered_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    """When `registering.py` was through with it."""

    __table_args__ = (
        Index("ix_jobs_queue", "status", "priority", "position"),
        Index("ix_jobs_by_name", func.lower(name), "id"),
        Index("ix_jobs_by_eval_loss", func.coalesce(best_eval_loss, NO_LOSS), "id"),
        Index("ix_jobs_method", "method"),
        Index("ix_jobs_made", "created_at", "status"),
        Index("ix_jobs_ended", "status", "ended_at"),
        Index("ix_jobs_registered", "status", "registered_at"),
        {"sqlite_autoincrement": True},  # an id names folders and models: it is never given twice
    )


class EventRow(Base):
    """One event, numbered within its job."""

    __tablename__ = "job_events"

    job_id: Mapped[int] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    type: Mapped[str] = mapped_column(String(20))
    step: Mapped[int | None] = mapped_column(BigInteger)
    body: Mapped[dict[str, Any]] = mapped_column(JsonValue)

    __table_args__ = (Index("ix_job_events_type", "job_id", "type", "seq"),)


class JobValueRow(Base):
    """A metric, a parameter or another value of a job, by which tables of jobs are sorted, grouped and filtered. What writes
    it is `values.py`; `number` and `text` are never null, so that rows can be compared with both."""

    __tablename__ = "job_values"

    job_id: Mapped[int] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    name: Mapped[str] = mapped_column(String(200), primary_key=True)
    number: Mapped[float]
    """`values.TEXT` for what is no number."""
    text: Mapped[str] = mapped_column(String(200), default="")

    __table_args__ = (Index("ix_job_values_order", "name", "number", "text", "job_id"),)


class JobViewRow(Owned, Base):
    """A saved table of jobs: its columns, order, group and filters."""

    __tablename__ = "job_views"
    noun = "view"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    name: Mapped[str] = mapped_column(String(100))
    view: Mapped[dict[str, Any]] = mapped_column(JsonValue)
    """`schemas.runs.RunTable`."""
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)

    __table_args__ = (
        Index("uq_job_views_name", text("coalesce(owner_id, 0)"), "name", unique=True),
        {"sqlite_autoincrement": True},
    )


class AllocationRow(Base):
    """A device that a job holds. The key makes a second holder impossible even if the scheduler were wrong."""

    __tablename__ = "job_allocations"

    host: Mapped[str] = mapped_column(String(80), primary_key=True)
    device: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    job_id: Mapped[int] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), index=True)
