"""Talking to a model: which process answers, and with which adapter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from tunesmith.core.errors import Conflict
from tunesmith.core.job_spec import ModelRef
from tunesmith.core.job_status import JobStatus
from tunesmith.features.catalog.service import resolve_model
from tunesmith.features.jobs.lifecycle import Lifecycle
from tunesmith.live.bus import Bus
from tunesmith.recipes.catalog import get_recipe
from tunesmith.recipes.model_about import ModelAbout, about
from tunesmith.schemas.jobs import ChatRequest
from tunesmith.settings import Settings

if TYPE_CHECKING:
    from tunesmith.features.jobs.tables import JobRow
    from tunesmith.storage.database import Session


class Partner(NamedTuple):
    """Who answers."""

    name: str
    base: ModelRef
    """Without the adapter: one process serves it to all adapters."""
    adapter_path: str | None
    about: ModelAbout | None = None
    """Of a model that does not chat."""


def partner(settings: Settings, session: Session | None, name: str) -> Partner:
    """Who chats: a base model or `job:<id>`. Raises `NotFound` saying which there are, and `Conflict` for one that does not."""
    ref = resolve_model(settings, session, name)
    if told := about(ref):
        job = name.removeprefix("job:")
        where = f"/api/v1/jobs/{job}/predict" if job != name else "predict of a deployment of it"
        raise Conflict(f"{name} is for {told.title.lower()} and does not chat.", hint=f"Send its inputs to {where}.")
    return Partner(name, ref.model_copy(update={"adapter_path": None}), ref.adapter_path)


def partner_of_job(settings: Settings, session: Session, job_id: int) -> Partner:
    """The model that a job made. Raises `NotFound`, or `Conflict` while it is not finished."""
    job = _finished(session, job_id)
    if get_recipe(job.method).model_output is None:
        raise Conflict(f"Job {job_id} made no language model to talk to.")
    return partner(settings, session, f"job:{job_id}")


def predictor_of_job(settings: Settings, session: Session, job_id: int) -> Partner:
    """The model that a job made, where it does not chat. Raises `NotFound`, or `Conflict` for one that does, and while it is not
    finished."""
    _finished(session, job_id)
    ref = resolve_model(settings, session, f"job:{job_id}")
    told = about(ref)
    if told is None:
        raise Conflict(f"The model of job {job_id} chats.", hint=f"Talk to it at /api/v1/jobs/{job_id}/chat.")
    return Partner(f"job:{job_id}", ref.model_copy(update={"kind": told.kind}), None, told)


def _finished(session: Session, job_id: int) -> JobRow:
    """Raises `NotFound` or `Conflict`."""
    job = Lifecycle(session, Bus()).jobs.get(job_id)
    if job.status != JobStatus.COMPLETED:
        raise Conflict(
            f"Job {job_id} is {job.status}, so its model cannot answer yet.", hint="Wait until it is completed."
        )
    return job


def completion_body(who: Partner, request: ChatRequest) -> dict[str, Any]:
    """What the serving process is asked."""
    return request.model_dump(exclude_none=True) | {"model": who.name, "adapter_path": who.adapter_path}
