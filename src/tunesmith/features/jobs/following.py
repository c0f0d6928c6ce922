"""What follows a job: evaluations and compressions of the model that it makes, submitted in its owner's name."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from tunesmith.core.acting import ROLE_SCOPES, Act, Identity, Role, acting
from tunesmith.core.errors import TunesmithError
from tunesmith.features.jobs.lifecycle import Lifecycle
from tunesmith.features.jobs.submission import create
from tunesmith.features.jobs.tables import JobRow
from tunesmith.live.bus import Bus
from tunesmith.recipes.catalog import get_recipe
from tunesmith.schemas.jobs import FollowUp, JobCreate
from tunesmith.settings import Settings
from tunesmith.storage.database import Session


def request_for(job: JobRow, follow: FollowUp) -> JobCreate:
    """The job to make of the model of `job`."""
    return JobCreate(
        name=f"{job.name} {follow.method}"[:200],
        method=follow.method,
        model=f"job:{job.id}",
        dataset_id=follow.dataset_id,
        hyperparameters=follow.hyperparameters,
        priority={0: "low", 1: "normal", 2: "high"}[job.priority],  # type: ignore[arg-type]
        tags=job.tags[:50],
    )


def submit(settings: Settings, session: Session, bus: Bus, job: JobRow) -> list[JobRow]:
    """Make what `job` asks for. What cannot be made is a notice on the job, and holds up nothing else."""
    made = []
    for told in job.request.get("follow_up") or ():
        try:
            with in_the_name_of(job), session.begin_nested():
                made.append(create(settings, session, bus, request_for(job, FollowUp.model_validate(told))))
        except TunesmithError as error:
            why = "; ".join(str(detail["message"]) for detail in error.details[:3]) or error.message
            message = f"{get_recipe(told['method']).title} of the model could not be started: {why}"
            Lifecycle(session, bus).notice(job, message, error.hint)
    return made


@contextlib.contextmanager
def in_the_name_of(job: JobRow) -> Iterator[None]:
    """Within the block the job's owner is at work: what is made is theirs, and counts against their quotas."""
    if job.owner_id is None:
        yield
        return
    owner = Identity(job.owner_id, job.owner or "", Role.MEMBER, ROLE_SCOPES[Role.MEMBER], "system", f"job {job.id}")
    with acting(Act(owner)):
        yield
