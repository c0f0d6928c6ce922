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
from tunesmith.schemas.jobs import ChatRequest
from tunesmith.settings import Settings

if TYPE_CHECKING:
    from tunesmith.storage.database import Session


class Partner(NamedTuple):
    """Who answers."""

    name: str
    base: ModelRef
    """Without the adapter: one process serves it to all adapters."""
    adapter_path: str | None


def partner(settings: Settings, session: Session | None, name: str) -> Partner:
    """A base model or `job:<id>`. Raises `NotFound` saying which there are."""
    ref = resolve_model(settings, session, name)
    return Partner(name, ref.model_copy(update={"adapter_path": None}), ref.adapter_path)


def partner_of_job(settings: Settings, session: Session, job_id: int) -> Partner:
    """The model that a job made. Raises `NotFound`, or `Conflict` while it is not finished."""
    job = Lifecycle(session, Bus()).jobs.get(job_id)
    if job.status != JobStatus.COMPLETED:
        raise Conflict(
            f"Job {job_id} is {job.status}, so its model cannot talk yet.", hint="Wait until it is completed."
        )
    if get_recipe(job.method).model_output is None:
        raise Conflict(f"Job {job_id} made no language model to talk to.")
    return partner(settings, session, f"job:{job_id}")


def completion_body(who: Partner, request: ChatRequest) -> dict[str, Any]:
    """What the serving process is asked."""
    return request.model_dump(exclude_none=True) | {"model": who.name, "adapter_path": who.adapter_path}
