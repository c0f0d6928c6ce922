"""The states of a job, and which may follow which. Every change of state in the system goes through `check_transition`."""

from __future__ import annotations

from enum import StrEnum

from tunesmith.core.errors import Conflict


class JobStatus(StrEnum):
    """What a job is doing, as far as its owner is concerned."""

    CREATED = "created"
    """Saved, not asked to start."""
    QUEUED = "queued"
    """Waiting for its turn: for devices, for its time, or for a restart after a lost worker."""
    RUNNING = "running"
    """A worker has it."""
    PAUSED = "paused"
    """Stopped at a complete checkpoint; resume goes on from there."""
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Whether the job has ended. `failed` and `cancelled` may still be resumed by their owner."""
        return self in (JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED)


TRANSITIONS: dict[JobStatus, frozenset[JobStatus]] = {
    JobStatus.CREATED: frozenset({JobStatus.QUEUED, JobStatus.CANCELLED}),
    JobStatus.QUEUED: frozenset({JobStatus.RUNNING, JobStatus.PAUSED, JobStatus.CANCELLED, JobStatus.FAILED}),
    JobStatus.RUNNING: frozenset(
        {JobStatus.PAUSED, JobStatus.QUEUED, JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED}
    ),
    JobStatus.PAUSED: frozenset({JobStatus.QUEUED, JobStatus.CANCELLED}),
    JobStatus.COMPLETED: frozenset(),
    JobStatus.FAILED: frozenset({JobStatus.QUEUED}),
    JobStatus.CANCELLED: frozenset({JobStatus.QUEUED}),
}


class Phase(StrEnum):
    """What a running job is busy with."""

    STARTING = "starting"
    LOADING = "loading"
    TOKENIZING = "tokenizing"
    COMPILING = "compiling"
    TRAINING = "training"
    EVALUATING = "evaluating"
    SAVING = "saving"


class Priority(StrEnum):
    """How urgent a job is; within one priority the older goes first."""

    LOW = "low"
    NORMAL = "normal"
    HIGH = "high"


def check_transition(old: JobStatus, new: JobStatus) -> None:
    """Raise `Conflict` when a job in state `old` cannot go to `new`."""
    if new not in TRANSITIONS[old]:
        allowed = ", ".join(sorted(TRANSITIONS[old])) or "nothing: it has ended"
        raise Conflict(f"A job that is {old} cannot become {new}.", hint=f"From {old} a job can become: {allowed}.")
