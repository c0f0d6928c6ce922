"""Which waiting jobs start now, on which devices, and why the others wait. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from tunesmith.core.job_status import JobStatus
from tunesmith.core.words import plural


@dataclass(frozen=True)
class Waiting:
    """A queued job, as far as its turn is concerned."""

    job_id: int
    num_gpus: int = 0
    not_before: datetime | None = None
    off_peak: bool = False
    after_job_id: int | None = None
    after_status: JobStatus | None = None
    """Of the job it waits for; None when that job is not there any more."""
    after_failure: bool = True


@dataclass(frozen=True)
class Machine:
    """What this machine has to give."""

    free_gpus: Sequence[int] = ()
    num_gpus: int = 0
    free_cpu_slots: int = 1
    disk_is_low: bool = False
    is_off_peak: bool = True
    off_peak: str = ""
    cpu_slots: int = 1
    """Jobs without a GPU that may run at the same time."""


@dataclass
class Placement:
    """The outcome."""

    starts: list[tuple[int, list[int]]] = field(default_factory=list)
    """`(job, devices)`, in order."""
    waits: dict[int, str] = field(default_factory=dict)
    """Job → why it waits, for a person."""


def place(queue: Sequence[Waiting], machine: Machine, now: datetime) -> Placement:
    """`queue` is in order. A gang of devices is given whole or not at all; a job that waits for devices is not passed by a
    later one that needs devices too, so that large jobs are never starved."""
    result = Placement()
    gpus, slots = list(machine.free_gpus), machine.free_cpu_slots
    blocked_by: int | None = None
    for job in queue:
        why = not_yet(job, machine, now)
        if why is None and machine.disk_is_low:
            why = "the disk is nearly full: free some space"
        if why is None and job.num_gpus:
            why = _gpus_missing(job, machine, gpus, blocked_by)
            if why is not None and job.num_gpus <= machine.num_gpus and blocked_by is None:
                blocked_by = job.job_id
        elif why is None and not slots:
            why = _slots_missing(machine)
        if why is not None:
            result.waits[job.job_id] = why
            continue
        devices, gpus = gpus[: job.num_gpus], gpus[job.num_gpus :]
        slots -= 0 if job.num_gpus else 1
        result.starts.append((job.job_id, devices))
    return result


def not_yet(job: Waiting, machine: Machine, now: datetime) -> str | None:
    """Why its time has not come, or None."""
    if job.not_before and now < job.not_before:
        return f"it starts at {job.not_before.astimezone():%Y-%m-%d %H:%M %Z}"
    if job.off_peak and not machine.is_off_peak:
        return f"it starts in off-peak hours, {machine.off_peak}"
    if job.after_job_id is None or job.after_status is None or job.after_status == JobStatus.COMPLETED:
        return None
    if job.after_status.is_final:
        if job.after_failure:
            return None
        return f"job {job.after_job_id} is {job.after_status}, and this one was to follow its success only"
    return f"job {job.after_job_id} comes first and is {job.after_status}"


def _slots_missing(machine: Machine) -> str:
    if machine.cpu_slots == 0:
        return "the queue is held: the settings let no job start"
    if machine.free_cpu_slots:
        return "jobs before it start first"
    if machine.cpu_slots == 1:
        return "another job is running; this machine trains one at a time"
    return f"{machine.cpu_slots} jobs are running, as many as may at the same time"


def _gpus_missing(job: Waiting, machine: Machine, free: Sequence[int], blocked_by: int | None) -> str | None:
    if job.num_gpus > machine.num_gpus:
        return f"it needs {plural(job.num_gpus, 'GPU')} and this machine has {machine.num_gpus}"
    if blocked_by is not None:
        return f"job {blocked_by} is before it and waits for GPUs"
    if job.num_gpus > len(free):
        return f"it needs {plural(job.num_gpus, 'GPU')}; {len(free)} of {machine.num_gpus} are free"
    return None


def in_window(window: str, now_local: datetime) -> bool:
    """Whether local time is within `HH:MM-HH:MM`, which may go over midnight."""
    start, _, end = window.partition("-")
    time = f"{now_local:%H:%M}"
    return start <= time < end if start <= end else time >= start or time < end
