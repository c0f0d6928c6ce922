"""What should happen to a job that has, or had, a process. Pure: values in, one step out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tunesmith.core.errors import FAILURE_HINTS, FailureCode
from tunesmith.core.job_spec import ExitRecord, Failure, ShimRecord
from tunesmith.core.job_status import JobStatus
from tunesmith.executors.base import Stillness

STOP_GRACE_S = 10.0
"""Seconds a worker may take to stop after it was asked."""
PAUSE_GRACE_S = 300.0
"""Seconds a worker may take to keep a checkpoint after it was asked to pause."""
TIMES_SLOWEST = 20
"""A phase that once stood still for so long and went on may stand still this many times as long."""
PHASE_TIMES = {"starting": 4, "loading": 2, "saving": 2, "compiling": 4}
"""How many times the usual a phase may stand still: in these, libraries are busy for long without a word."""
MAX_OUT_OF_MEMORY_KILLS = 4
"""Attempts that the kernel may end for want of memory, each with half the micro-batch of the one before."""


@dataclass(frozen=True)
class View:
    """All that the decision rests on."""

    state: Literal["alive", "ended", "gone"]
    wants_stop: bool = False
    wants_pause: bool = False
    asked_for_s: float = 0.0
    """Seconds since the worker was asked to stop or pause."""
    heartbeat_age_s: float = 0.0
    lease_s: float = 30.0
    stillness: Stillness | None = None
    stall_s: float = 0.0
    """Seconds without progress after which a worker counts as stalled; 0: never."""
    exit: ExitRecord | None = None
    """Of this attempt."""
    shim: ShimRecord | None = None
    restarts: int = 0
    max_restarts: int = 3
    out_of_memory_kills: int = 0
    worker_memory_bytes: int | None = None
    """Most that the worker may use, where there is such a limit."""


@dataclass(frozen=True)
class Nothing:
    """All is as it should be."""


@dataclass(frozen=True)
class Kill:
    """End every process of the attempt; the next look decides what becomes of the job."""

    reason: str
    dump: bool = False
    """Let it write down first where it stands."""


@dataclass(frozen=True)
class Finish:
    """The attempt is over and so is the job, or it waits for its owner."""

    status: JobStatus
    reason: str = ""
    failure: Failure | None = None


@dataclass(frozen=True)
class Requeue:
    """Start again from the last complete checkpoint."""

    reason: str
    out_of_memory: bool = False
    counts: bool = True
    """Whether it uses up one of the restarts."""


Step = Nothing | Kill | Finish | Requeue


def next_step(view: View) -> Step:
    """What to do now. `exit.json` is the worker's last word; but of success there must be two witnesses, the worker that
    says so and the shim that saw it end with code 0."""
    if view.state == "alive":
        return _while_alive(view)
    if view.exit is None or (view.exit.outcome == "completed" and not _ended_well(view.shim)):
        return _lost(view)
    return _told(view, view.exit)


def _ended_well(shim: ShimRecord | None) -> bool:
    return shim is not None and shim.exit_code == 0 and not shim.timed_out


def _while_alive(view: View) -> Step:
    if view.wants_stop and view.asked_for_s > STOP_GRACE_S:
        return Kill("It did not stop in time.")
    if view.wants_pause and view.asked_for_s > PAUSE_GRACE_S:
        return Kill("It did not pause in time.")
    if view.heartbeat_age_s > view.lease_s:
        return Kill(f"No sign of life for {view.heartbeat_age_s:.0f} s.")
    if stalled := stalled_how(view):
        return Kill(f"It {stalled}.", dump=True)
    return Nothing()


def stalled_how(view: View) -> str:
    """How the worker stalled, in words; empty when it did not. The last heartbeat tells it also of one that was ended for it."""
    still = view.stillness
    if still is None or not view.stall_s:
        return ""
    limit_s = max(view.stall_s * PHASE_TIMES.get(still.phase, 1), TIMES_SLOWEST * still.slowest_s)
    if still.still_s <= limit_s:
        return ""
    took = f"{still.still_s / 60:.0f} minutes" if still.still_s >= 120 else f"{still.still_s:.0f} seconds"
    return f"made no progress for {took} in the phase {still.phase}; its stack is in the log"


def _told(view: View, record: ExitRecord) -> Step:
    if record.outcome == "completed":
        return Finish(JobStatus.COMPLETED)
    if record.outcome == "cancelled":
        return Finish(JobStatus.CANCELLED, "Stopped by its owner.")
    if record.outcome == "paused":
        if view.wants_stop:
            return Finish(JobStatus.CANCELLED, "Stopped by its owner.")
        if view.wants_pause:
            return Finish(JobStatus.PAUSED, "Paused by its owner.")
        return Requeue("The worker was asked to end from outside and kept a checkpoint.", counts=False)
    failure = record.failure or _failure(FailureCode.INTERNAL, "The job failed.")
    if failure.code == FailureCode.DISK_FULL:  # nobody's fault, and its last checkpoint is whole
        if view.wants_stop:
            return Finish(JobStatus.CANCELLED, "Stopped by its owner.")
        return Finish(JobStatus.PAUSED, failure=failure)
    return Finish(JobStatus.FAILED, failure=failure)


def _lost(view: View) -> Step:
    if view.wants_stop:
        return Finish(JobStatus.CANCELLED, "Stopped by its owner.")
    if view.wants_pause:
        return Finish(JobStatus.PAUSED, "Paused at its last checkpoint.")
    shim = view.shim
    if shim and shim.timed_out:
        return Finish(JobStatus.FAILED, failure=_failure(FailureCode.TIMEOUT, "The job ran longer than its limit."))
    if shim and shim.out_of_memory:
        limit = f" (it may use {view.worker_memory_bytes >> 20} MiB)" if view.worker_memory_bytes else ""
        if view.out_of_memory_kills >= MAX_OUT_OF_MEMORY_KILLS:
            message = f"The kernel ended the worker for want of memory{limit}, even with the smallest batch tried."
            return Finish(JobStatus.FAILED, failure=_failure(FailureCode.OUT_OF_MEMORY, message))
        reason = f"The kernel ended the worker for want of memory{limit}; trying half the batch."
        return Requeue(reason, out_of_memory=True)
    if stalled := stalled_how(view):
        if view.restarts >= view.max_restarts:
            message = f"The worker {stalled}. It was restarted {view.restarts} times without a new checkpoint."
            return Finish(JobStatus.FAILED, failure=_failure(FailureCode.STALLED, message))
        return Requeue(f"The worker {stalled}. Going on from the last checkpoint.")
    how = _how(shim)
    if view.restarts >= view.max_restarts:
        message = f"The worker was lost {view.restarts + 1} times without a new checkpoint; the last time {how}."
        return Finish(JobStatus.FAILED, failure=_failure(FailureCode.LOST_WORKER, message))
    return Requeue(f"The worker was lost: {how}. Going on from the last checkpoint.")


def _how(shim: ShimRecord | None) -> str:
    if shim is None:
        return "its process is gone and nobody saw how it ended"
    if shim.signal is not None:
        return f"it was ended by signal {shim.signal}"
    return f"it ended with code {shim.exit_code} and no last word"


def _failure(code: FailureCode, message: str) -> Failure:
    return Failure(code=code, message=message, hint=FAILURE_HINTS[code])
