"""Every query on jobs and their events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, and_, delete, func, or_, select, text, update
from sqlalchemy.exc import IntegrityError

from tunesmith.core.errors import Conflict
from tunesmith.core.job_status import JobStatus
from tunesmith.features.jobs.tables import NO_LOSS, AllocationRow, EventRow, JobRow, JobValueRow
from tunesmith.features.jobs.values import Key
from tunesmith.storage.database import EVERYONES
from tunesmith.storage.repository import Repository, contains

SCHEDULER_LOCK = 7461002
"""PostgreSQL advisory lock under which servers decide about the queue, one after the other."""


SORTS: dict[str, ColumnElement[Any] | None] = {
    "created": None,
    "name": func.lower(JobRow.name),
    "eval_loss": func.coalesce(JobRow.best_eval_loss, NO_LOSS),
}
"""What a list can be sorted by; each has an index."""

ORDER_OF_START = (JobRow.priority.desc(), JobRow.position, JobRow.id)
DECIDES_TURN = (
    JobRow.id, JobRow.name, JobRow.priority, JobRow.position, JobRow.resources, JobRow.not_before, JobRow.off_peak,
    JobRow.after_job_id, JobRow.after_failure,
)  # fmt: skip
AT_WORK = (JobStatus.QUEUED, JobStatus.RUNNING)
MAX_IDLE_S = 20
"""How long a server may hold a job, or the queue, without a word to PostgreSQL."""


OVER = (JobStatus.COMPLETED, JobStatus.CANCELLED, JobStatus.FAILED)


def _having(name: str, keys: Sequence[Key] = ()) -> Select[Any]:
    """The jobs that have a value of that name, or one of those values."""
    query = select(JobValueRow.job_id).where(JobValueRow.name == name)
    those = [and_(JobValueRow.number == number, JobValueRow.text == text) for number, text in keys]
    return query.where(or_(*those)) if those else query


class JobRepository(Repository[JobRow]):
    row = JobRow
    noun = "job"

    def filtered(
        self,
        *,
        status: Sequence[str] = (),
        method: str | None = None,
        tag: str | None = None,
        text_like: str | None = None,
        dataset_id: int | None = None,
        batch_id: str | None = None,
        model: str | None = None,
        where: Mapping[str, Sequence[Key]] | None = None,
    ) -> Select[Any]:
        """A query for `page`. `where` are values of `job_values`, any of which will do; none stands for jobs without a value."""
        query = self.query()
        if status:
            query = query.where(JobRow.status.in_(status))
        if method:
            query = query.where(JobRow.method == method)
        if dataset_id:
            query = query.where(JobRow.dataset_id == dataset_id)
        if model:
            query = query.where(JobRow.model == model)
        if batch_id:
            query = query.where(JobRow.batch_id == batch_id)
        if text_like:
            query = query.where(contains(text_like, JobRow.name, JobRow.output_name, JobRow.model))
        if tag:
            query = query.where(self.has_tag(JobRow.tags, tag))
        for name, keys in (where or {}).items():
            query = query.where(JobRow.id.in_(_having(name, keys)) if keys else JobRow.id.not_in(_having(name)))
        return query

    def count(self, query: Select[Any]) -> int:
        return int(self.session.scalar(select(func.count()).select_from(query.subquery())) or 0)

    def many(self, ids: Sequence[int]) -> list[JobRow]:
        """The jobs in the order of `ids`. Raises `NotFound` for the first that is not there."""
        return [self.get(job_id) for job_id in ids]

    def queue(self) -> list[JobRow]:
        """Waiting jobs in the order in which they will start."""
        query = self.query().where(JobRow.status == JobStatus.QUEUED)
        return list(self.session.scalars(query.order_by(*ORDER_OF_START)))

    def turns(self, *, everyones: bool = False) -> Sequence[Row[Any]]:
        """Of waiting jobs, in the same order, what decides about their turn: there may be thousands, and the whole of each
        takes five times as long to read. With `everyones` also those that may not be shown."""
        query = select(*DECIDES_TURN).where(JobRow.status == JobStatus.QUEUED).order_by(*ORDER_OF_START)
        return self.session.execute(query, execution_options=EVERYONES if everyones else {}).all()

    def has_waiting(self) -> bool:
        return self.session.scalar(select(JobRow.id).where(JobRow.status == JobStatus.QUEUED).limit(1)) is not None

    def count_at_work(self, user_id: int) -> int:
        """Jobs of an account that wait or have a worker."""
        query = select(func.count()).select_from(JobRow).where(JobRow.owner_id == user_id, JobRow.status.in_(AT_WORK))
        return self.session.scalar(query, execution_options=EVERYONES) or 0

    def gpu_seconds(self, user_id: int, since: datetime) -> float:
        """Training time of an account's jobs that were made since then, times their GPUs."""
        spent = func.sum(JobRow.elapsed_s * JobRow.resources["num_gpus"].as_integer())
        query = select(spent).where(JobRow.owner_id == user_id, JobRow.created_at >= since)
        return self.session.scalar(query, execution_options=EVERYONES) or 0.0

    def ids(self) -> frozenset[int]:
        """Of all jobs that may be seen."""
        return frozenset(self.session.scalars(select(JobRow.id)))

    def with_process(self) -> list[JobRow]:
        """Jobs that may have a process, whatever their status."""
        return list(self.session.scalars(self.query().where(JobRow.launch.is_not(None)).order_by(JobRow.id)))

    def take(self, job_id: int) -> JobRow | None:
        """The job, locked for this transaction; None when it is gone or another server has it in hand just now. A server
        that falls asleep over it loses the lock, and with it the transaction, rather than hold up the others."""
        self._sleep_no_longer()
        query = self.query().where(JobRow.id == job_id).with_for_update(skip_locked=True)
        return self.session.scalars(query).one_or_none()

    def running(self) -> list[JobRow]:
        return list(self.session.scalars(self.query().where(JobRow.status == JobStatus.RUNNING).order_by(JobRow.id)))

    def statuses(self, ids: Sequence[int]) -> dict[int, str]:
        """Status by id; ids that are not there are left out."""
        if not ids:
            return {}
        found = self.session.execute(select(JobRow.id, JobRow.status).where(JobRow.id.in_(ids)))
        return {job_id: status for job_id, status in found}

    def count_by_status(self, **filters: Any) -> dict[str, int]:
        """`filters` are those of `filtered`."""
        query = self.filtered(**filters).with_only_columns(JobRow.status, func.count()).group_by(JobRow.status)
        return {status: count for status, count in self.session.execute(query)}

    def output_names(self, base: str) -> set[str]:
        """Output names taken that begin like `base`."""
        query = select(JobRow.output_name).where(JobRow.output_name.like(base.replace("_", "\\_") + "%", escape="\\"))
        return set(self.session.scalars(query, execution_options=EVERYONES))

    def add_named(self, job: JobRow, base: str) -> JobRow:
        """Add `job` under the first free output name that begins like `base`, whoever else is adding one now."""
        taken = self.output_names(base)
        names = [base, *(f"{base}-{number}" for number in range(2, len(taken) + 100))]
        for name in (name for name in names if name not in taken):
            job.output_name = name
            try:
                with self.session.begin_nested():
                    return self.add(job)
            except IntegrityError:
                continue  # another server took it between our look and our insert
        raise Conflict("No output name is free.", hint="Give the job another name.")

    def uses_dataset(self, dataset_id: int) -> list[JobRow]:
        """Jobs that are not over and need this dataset, whoever's they are."""
        query = self.query().where(or_(JobRow.dataset_id == dataset_id, JobRow.eval_dataset_id == dataset_id))
        query = query.where(JobRow.status.not_in(OVER)).limit(20)
        return list(self.session.scalars(query, execution_options=EVERYONES))

    def registered_models_in_work(self) -> list[tuple[int, str]]:
        """Jobs that are not over and begin with a version of the registry: their numbers and what they call it."""
        query = select(JobRow.id, JobRow.model).where(JobRow.status.not_in(OVER), JobRow.model.contains("@"))
        return [(number, model or "") for number, model in self.session.execute(query, execution_options=EVERYONES)]

    def based_on(self, job_id: int) -> list[JobRow]:
        """Jobs that go on from this job's model."""
        query = self.query().where(JobRow.model == f"job:{job_id}").limit(20)
        return list(self.session.scalars(query, execution_options=EVERYONES))

    def completed(self, limit: int = 500) -> list[JobRow]:
        query = self.query().where(JobRow.status == JobStatus.COMPLETED).order_by(JobRow.id.desc()).limit(limit)
        return list(self.session.scalars(query))

    def to_register(self, *, without: Sequence[int] = (), limit: int = 20) -> list[int]:
        """Completed jobs that `registering.py` has still to look at, oldest first; those in `without` are left out."""
        query = select(JobRow.id).where(JobRow.status == JobStatus.COMPLETED, JobRow.registered_at.is_(None))
        return list(self.session.scalars(query.where(JobRow.id.not_in(without)).order_by(JobRow.id).limit(limit)))

    def lock_for_scheduling(self) -> bool:
        """Whether this server may decide now (PostgreSQL: others wait their turn; SQLite: writers are one at a time)."""
        if self.session.get_bind().dialect.name != "postgresql":
            return True
        self._sleep_no_longer()
        return bool(self.session.scalar(text(f"SELECT pg_try_advisory_xact_lock({SCHEDULER_LOCK})")))

    def _sleep_no_longer(self) -> None:
        if self.session.get_bind().dialect.name == "postgresql":
            self.session.execute(text(f"SET LOCAL idle_in_transaction_session_timeout = '{MAX_IDLE_S}s'"))

    # -- events ---------------------------------------------------------------------------------------------------

    def add_events(self, rows: Sequence[EventRow]) -> None:
        self.session.add_all(rows)

    def events(
        self, job_id: int, *, after: int = 0, types: Sequence[str] = (), limit: int = 1000, newest: bool = False
    ) -> list[EventRow]:
        """Events after a sequence number, in order; with `newest` the last `limit` of them."""
        query = select(EventRow).where(EventRow.job_id == job_id, EventRow.seq > after)
        if types:
            query = query.where(EventRow.type.in_(types))
        if newest:
            return list(self.session.scalars(query.order_by(EventRow.seq.desc()).limit(limit)))[::-1]
        return list(self.session.scalars(query.order_by(EventRow.seq).limit(limit)))

    def last_event(self, job_id: int, event_type: str) -> EventRow | None:
        found = self.events(job_id, types=(event_type,), limit=1, newest=True)
        return found[0] if found else None

    def bodies(self, job_id: int, *types: str, after: int = 0, limit: int | None = None) -> list[dict[str, Any]]:
        """The bodies of every event of some types, in order."""
        query = select(EventRow.body).where(EventRow.job_id == job_id, EventRow.type.in_(types), EventRow.seq > after)
        return list(self.session.scalars(query.order_by(EventRow.seq).limit(limit)))

    def numbers(
        self,
        job_id: int,
        event_type: str,
        paths: Sequence[tuple[str | int, ...]],
        *,
        after: int = 0,
        until: int | None = None,
        steps: tuple[int | None, int | None] = (None, None),
    ) -> list[tuple[Any, ...]]:
        """`(step, time, one number a path …)` of events of one type, in order: those after one sequence number, up to another,
        and between two steps. The database takes the numbers out of the bodies; text such as NaN stays text there."""
        wanted = [EventRow.body[path].as_float() for path in paths]
        query = select(EventRow.step, EventRow.body["at"].as_string(), *wanted)
        query = query.where(EventRow.job_id == job_id, EventRow.type == event_type, EventRow.seq > after)
        if until is not None:
            query = query.where(EventRow.seq <= until)
        if steps[0] is not None:
            query = query.where(EventRow.step >= steps[0])
        if steps[1] is not None:
            query = query.where(EventRow.step <= steps[1])
        return [tuple(row) for row in self.session.execute(query.order_by(EventRow.seq))]

    # -- devices --------------------------------------------------------------------------------------------------

    def held_devices(self, host: str) -> dict[int, int]:
        """Device → job."""
        query = select(AllocationRow.device, AllocationRow.job_id).where(AllocationRow.host == host)
        return {device: job_id for device, job_id in self.session.execute(query)}

    def hold_devices(self, host: str, job_id: int, devices: Sequence[int]) -> None:
        self.session.add_all([AllocationRow(host=host, device=device, job_id=job_id) for device in devices])

    def release_devices(self, job_id: int) -> None:
        self.session.execute(delete(AllocationRow).where(AllocationRow.job_id == job_id))

    def renew_lease(self, job: JobRow, server_id: str, seconds: float) -> bool:
        """Take or keep the watch over a job; False when another server has it. Compared in the database's own time."""
        free = or_(
            JobRow.server_id == server_id,
            JobRow.server_id.is_(None),
            JobRow.lease_until.is_(None),
            JobRow.lease_until < self._now(),
        )
        result = self.session.execute(
            update(JobRow)
            .where(JobRow.id == job.id, JobRow.attempt == job.attempt, free)
            .values(server_id=server_id, lease_until=self._later(seconds))
            .execution_options(synchronize_session=False)
        )
        self.session.refresh(job, ["server_id", "lease_until"])
        return bool(result.rowcount)  # type: ignore[attr-defined]

    def _now(self) -> Any:
        """The database's time, in the form in which it is stored."""
        return self._later(0)

    def _later(self, seconds: float) -> Any:
        if self.session.get_bind().dialect.name == "postgresql":
            return text(f"clock_timestamp() + interval '{float(seconds)} seconds'")
        return text(f"strftime('%Y-%m-%d %H:%M:%f000', 'now', '+{float(seconds)} seconds')")
