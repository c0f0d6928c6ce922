"""Questions about datasets and jobs together, each answered by an index."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, delete, func, literal_column, select

from tunesmith.core.job_status import JobStatus
from tunesmith.features.datasets.tables import DatasetRow, UploadRow
from tunesmith.features.jobs.tables import JobRow
from tunesmith.storage.database import Session

ALIVE = (JobStatus.CREATED, JobStatus.QUEUED, JobStatus.RUNNING, JobStatus.PAUSED)
OVER = (JobStatus.COMPLETED, JobStatus.CANCELLED, JobStatus.FAILED)


class Monitored:
    """Reads only, but for `forget_uploads`."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def dataset_counts(self) -> dict[str, int]:
        """How many of each status."""
        query = select(DatasetRow.status, func.count()).group_by(DatasetRow.status)
        return {status: count for status, count in self.session.execute(query)}

    def job_counts(self) -> dict[str, int]:
        query = select(JobRow.status, func.count()).group_by(JobRow.status)
        return {status: count for status, count in self.session.execute(query)}

    def jobs_by_day(self, since: datetime, utc_offset_s: int) -> list[tuple[str, str, int]]:
        """`(day, status, count)` of the jobs made since; a day is `2026-11-21`, in the time zone `utc_offset_s` from UTC."""
        day = self._day(JobRow.created_at, utc_offset_s).label("day")
        query = select(day, JobRow.status, func.count()).where(JobRow.created_at >= since).group_by(day, JobRow.status)
        return [(str(found), status, count) for found, status, count in self.session.execute(query)]

    def failed_jobs(self, since: datetime, limit: int) -> list[JobRow]:
        """Jobs that have failed since, newest first."""
        query = select(JobRow).where(JobRow.status == JobStatus.FAILED, JobRow.ended_at >= since)
        return list(self.session.scalars(query.order_by(JobRow.ended_at.desc()).limit(limit)))

    def running_jobs(self, limit: int) -> list[JobRow]:
        query = select(JobRow).where(JobRow.status == JobStatus.RUNNING)
        return list(self.session.scalars(query.order_by(JobRow.id.desc()).limit(limit)))

    def waiting_since(self, before: datetime, limit: int) -> list[JobRow]:
        """Jobs in the queue that came there before that moment, in the order in which they start."""
        query = select(JobRow).where(JobRow.status == JobStatus.QUEUED, JobRow.queued_at < before)
        return list(self.session.scalars(query.order_by(JobRow.priority.desc(), JobRow.position).limit(limit)))

    def with_process(self) -> list[JobRow]:
        """Jobs that may have a process. Only those that are not over can."""
        query = select(JobRow).where(JobRow.status.in_(ALIVE), JobRow.launch.is_not(None))
        return list(self.session.scalars(query.order_by(JobRow.id)))

    def failed_datasets(self, limit: int) -> list[DatasetRow]:
        """Newest first."""
        query = select(DatasetRow).where(DatasetRow.status == "failed")
        return list(self.session.scalars(query.order_by(DatasetRow.id.desc()).limit(limit)))

    def over_among(self, job_ids: Sequence[int]) -> set[int]:
        """Those of the jobs that are over and have no process."""
        query = select(JobRow.id).where(JobRow.id.in_(job_ids), JobRow.status.in_(OVER), JobRow.launch.is_(None))
        return set(self.session.scalars(query))

    def forget_uploads(self, upload_ids: Sequence[str]) -> None:
        self.session.execute(delete(UploadRow).where(UploadRow.id.in_(upload_ids)))

    def _day(self, column: Any, utc_offset_s: int) -> ColumnElement[Any]:
        if self.session.get_bind().dialect.name == "postgresql":
            shift: ColumnElement[Any] = literal_column(f"interval '{int(utc_offset_s)} seconds'")
            return func.to_char(func.timezone("UTC", column) + shift, "YYYY-MM-DD")
        return func.date(column, f"{int(utc_offset_s):+d} seconds")
