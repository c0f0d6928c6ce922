"""How a job moves from state to state, and how what its worker wrote comes into the database.

`transition` is the only place where a status changes. Each change and its event are one transaction; watchers hear of it
once that is committed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tunesmith.core.clock import utc_now
from tunesmith.core.errors import Conflict
from tunesmith.core.events import NoticeEvent, StatusEvent
from tunesmith.core.job_spec import Control, Failure
from tunesmith.core.job_status import JobStatus, check_transition
from tunesmith.core.metrics import MetricSpec, better_of
from tunesmith.features.jobs import permission
from tunesmith.features.jobs.curves import Sparkline, last_and_best, shown_values
from tunesmith.features.jobs.repository import JobRepository
from tunesmith.features.jobs.tables import EventRow, JobRow
from tunesmith.live.bus import Bus
from tunesmith.recipes.catalog import get_recipe, metrics_of
from tunesmith.storage.database import after_commit

if TYPE_CHECKING:
    from tunesmith.storage.database import Session


MAX_STEP = 2**63
"""Steps beyond are no steps: a database cannot count them."""


class Lifecycle:
    """Changes of jobs within one unit of work."""

    def __init__(self, session: Session, bus: Bus) -> None:
        self.session, self.bus = session, bus
        self.jobs = JobRepository(session)

    def transition(self, job: JobRow, new: JobStatus, reason: str = "", failure: Failure | None = None) -> None:
        """Move `job` to `new`. Raises `Conflict` when the table does not allow it."""
        old = JobStatus(job.status)
        check_transition(old, new)
        reason, failure = _storable(reason), failure and Failure.model_validate(_storable(failure.model_dump()))
        now = utc_now()
        job.status, job.status_reason = new, reason
        if new == JobStatus.QUEUED:
            job.queued_at, job.ended_at = now, None
            job.wants_stop = job.wants_pause = False
            job.stopping_since = None
        elif new == JobStatus.RUNNING and job.started_at is None:
            job.started_at = now
        elif new.is_final:
            job.ended_at = now
        if new != JobStatus.RUNNING:
            job.phase = None
        job.failure_code = failure.code if failure else None
        job.hint = failure.hint if failure else ""
        job.details = failure.details if failure else []
        if failure:
            job.status_reason = failure.message
        event = StatusEvent(
            attempt=job.attempt, old=old, new=new, reason=job.status_reason,
            failure_code=job.failure_code or "", hint=job.hint,
        )  # fmt: skip
        self._append(job, [event])

    def notice(self, job: JobRow, message: str, hint: str = "") -> None:
        """Something about the job that its owner should read."""
        self._append(job, [NoticeEvent(attempt=job.attempt, level="warning", message=message, hint=hint)])

    def record_events(self, job: JobRow, events: Sequence[Any], next_offset: int) -> None:
        """Take in what the worker wrote, and the offset, in one transaction. Lines of older attempts are refused."""
        kept = [
            event
            for event in events
            if event.attempt == job.attempt
            and event.type != "status"
            and abs(getattr(event, "step", 0) or 0) < MAX_STEP
        ]
        for event in kept:
            if event.type == "phase":
                job.phase = event.phase
            elif event.type == "checkpoint" and event.step > job.last_checkpoint_step:
                job.last_checkpoint_step = event.step
                job.restarts = job.out_of_memory_kills = 0
            elif event.type == "metrics" and event.step is None:
                job.metrics = {**(job.metrics or {}), **_storable(event.model_dump(mode="json")["values"])}
        _take_in(job, kept)
        job.events_offset = next_offset
        self._append(job, kept)

    def _append(self, job: JobRow, events: Sequence[Any]) -> None:
        rows = []
        for event in events:
            job.last_seq += 1
            body = _storable(event.model_dump(mode="json"))
            rows.append(
                EventRow(job_id=job.id, seq=job.last_seq, type=event.type, step=getattr(event, "step", None), body=body)
            )
        self.jobs.add_events(rows)
        messages = [{"job_id": row.job_id, "seq": row.seq, "event": row.body} for row in rows]

        def publish() -> None:
            for message in messages:
                self.bus.publish(f"job:{job.id}", message)
                self.bus.publish("jobs", message)

        after_commit(self.session, publish)

    # -- what an owner may ask ------------------------------------------------------------------------------------

    def enqueue(self, job: JobRow, reason: str = "") -> None:
        """Let the scheduler start it when its turn comes. Raises `PermissionDenied` for who may not run its method."""
        permission.check(get_recipe(job.method))
        job.position = float(job.id)
        self.transition(job, JobStatus.QUEUED, reason)

    def start(self, job: JobRow) -> None:
        if job.status != JobStatus.CREATED:
            raise Conflict(f"Job {job.id} is {job.status}, so it cannot be started.", hint=_hint(job.status))
        self.enqueue(job)

    def stop(self, job: JobRow) -> None:
        """Cancel: at once when no worker has it, after the present step otherwise."""
        status = JobStatus(job.status)
        if status.is_final:
            raise Conflict(f"Job {job.id} is {status} already.", hint=_hint(status))
        if status == JobStatus.RUNNING:
            job.wants_stop = True
        else:
            self.transition(job, JobStatus.CANCELLED, "Stopped by its owner.")

    def pause(self, job: JobRow) -> None:
        """Keep a checkpoint and give the machine back."""
        if job.status == JobStatus.QUEUED:
            self.transition(job, JobStatus.PAUSED, "Paused by its owner while waiting.")
        elif job.status == JobStatus.RUNNING:
            job.wants_pause = True
        else:
            raise Conflict(f"Job {job.id} is {job.status}, so it cannot be paused.", hint=_hint(job.status))

    def resume(self, job: JobRow) -> None:
        """Go on from the last checkpoint: after a pause, a failure or a stop."""
        if job.status == JobStatus.RUNNING and job.wants_pause:
            raise Conflict(f"Job {job.id} is still being paused.", hint="Try again in a moment.")
        if job.status not in (JobStatus.PAUSED, JobStatus.FAILED, JobStatus.CANCELLED):
            raise Conflict(f"Job {job.id} is {job.status}, so there is nothing to resume.", hint=_hint(job.status))
        job.restarts = 0
        self.enqueue(job, "Resumed by its owner.")

    def checkpoint_now(self, job: JobRow) -> None:
        self._running(job, "write a checkpoint")
        job.checkpoint_seq += 1

    def set_learning_rate(self, job: JobRow, learning_rate: float) -> None:
        self._running(job, "change its learning rate")
        job.learning_rate = learning_rate
        job.learning_rate_seq += 1

    def _running(self, job: JobRow, what: str) -> None:
        if job.status != JobStatus.RUNNING:
            raise Conflict(f"Job {job.id} is {job.status}; only a running job can {what}.", hint=_hint(job.status))


def _take_in(job: JobRow, events: Sequence[Any]) -> None:
    """Keep on the job's own row what lists of jobs show."""
    line, scores = Sparkline(**(job.sparkline or {})), dict(job.scores or {})
    metrics = metrics_of(job.method)
    for event in events:
        for name, value in shown_values(event).items():
            scores[name] = last_and_best(better_of(name, metrics), value, scores.get(name))
        loss = _finite(event.loss) if event.type in ("step", "evaluation") else None
        if event.type == "step":
            job.step, job.total_steps, job.loss = event.step, max(0, min(event.total_steps, MAX_STEP - 1)), loss
            job.elapsed_s, job.remaining_s = _finite(event.elapsed_s) or 0.0, _finite(event.remaining_s)
            drawn = _drawn(event.values, metrics)
            line = line if drawn is None else line.with_point(event.step, drawn)
        elif event.type == "progress" and event.unit == "steps":  # of a job that has no steps of an optimizer
            job.total_steps = max(0, min(event.total, MAX_STEP - 1))
            job.step = max(0, min(event.done, job.total_steps))
        elif event.type == "evaluation" and loss is not None:
            job.eval_loss = loss
            job.best_eval_loss = loss if job.best_eval_loss is None else min(loss, job.best_eval_loss)
    job.sparkline, job.scores = line._asdict(), scores


def _drawn(values: Mapping[str, float], metrics: Sequence[MetricSpec]) -> float | None:
    """What of a step the small curve of a job shows: the loss, else the primary metric, else the first value."""
    names = ["loss", *(metric.name for metric in metrics if metric.is_primary), *values]
    return _finite(next((values[name] for name in names if name in values), None))


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _storable(value: Any) -> Any:
    """The same without what PostgreSQL and browsers cannot keep: NUL characters, and numbers that are not finite, which
    become text (`NaN`, `Infinity`)."""
    if isinstance(value, str):
        return value.replace("\0", "\N{REPLACEMENT CHARACTER}")
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, dict):
        return {_storable(key): _storable(item) for key, item in value.items()}
    return [_storable(item) for item in value] if isinstance(value, list) else value


def control_of(job: JobRow) -> Control:
    """What `control.json` should say now."""
    return Control(
        stop=job.wants_stop,
        pause=job.wants_pause,
        checkpoint_seq=job.checkpoint_seq,
        learning_rate=job.learning_rate,
        learning_rate_seq=job.learning_rate_seq,
    )


def _hint(status: str) -> str:
    return {
        JobStatus.CREATED: "Start it first.",
        JobStatus.QUEUED: "It starts when its turn comes; see the queue.",
        JobStatus.RUNNING: "Pause or stop it first.",
        JobStatus.PAUSED: "Resume it first.",
        JobStatus.COMPLETED: "It is finished; clone it to train again.",
        JobStatus.FAILED: "Resume it to go on from its last checkpoint, or clone it.",
        JobStatus.CANCELLED: "Resume it to go on from its last checkpoint, or clone it.",
    }[JobStatus(status)]
