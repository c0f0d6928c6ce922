"""Which rows an evaluation runs on: those that the training of its model held out, when it names no dataset itself."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit

from tunesmith.core import outbound
from tunesmith.core.acting import Scope, current
from tunesmith.core.errors import InvalidInput, NotFound, TunesmithError
from tunesmith.features.jobs.repository import JobRepository
from tunesmith.features.jobs.tables import JobRow
from tunesmith.recipes.catalog import get_recipe
from tunesmith.schemas.jobs import JobCreate
from tunesmith.settings import Settings
from tunesmith.storage.database import Session

OF_JOB = re.compile(r"job:([1-9][0-9]{0,17})")
LOOK_UP_S = 10.0


def complete(settings: Settings, session: Session, body: JobCreate) -> JobCreate:
    """An evaluation with its rows filled in; any other request as it is. Raises `InvalidInput` saying what is missing."""
    if not get_recipe(body.method).data.falls_back_to_held_out:
        return body
    given = _without_addresses_inside(settings, dict(body.hyperparameters))
    if body.dataset_id is None:
        job = _job_of(session, body.model or "", given)
        if job is not None:
            return body.model_copy(update=_rows_of(job, given))
        if not given.get("benchmarks"):
            raise InvalidInput(
                "An evaluation needs rows.",
                hint="Give a dataset, or benchmarks; a model that was trained here brings the rows that it held out.",
                details=[{"loc": "dataset_id", "message": "no dataset, and the model is of no job that held rows out"}],
            )
    return body.model_copy(update={"hyperparameters": given})


def _job_of(session: Session, model: str, given: dict[str, Any]) -> JobRow | None:
    """The training job whose held-out rows are meant: the one that is named, else the one that made the model."""
    named = given.get("held_out")
    wanted = named.get("job_id") if isinstance(named, dict) else None
    found = OF_JOB.fullmatch(model)
    job_id = (
        wanted if isinstance(wanted, int) and wanted else int(found[1]) if found else _registered_from(session, model)
    )
    try:
        job = JobRepository(session).get(job_id) if job_id else None
    except NotFound:
        return None
    if job is None or job.dataset_id is None:
        return None
    recipe = get_recipe(job.method)  # others draw their held-out rows in ways of their own
    is_found_again = recipe.task == "text-generation" and "validation_split" in recipe.params.model_fields
    return job if is_found_again else None


def _registered_from(session: Session, model: str) -> int | None:
    """The job that made a version of the registry."""
    from tunesmith.features.registry import service as registry

    if "/" in model:
        return None
    try:
        return registry.find_version(session, model).job_id
    except TunesmithError:
        return None


def _rows_of(job: JobRow, given: dict[str, Any]) -> dict[str, Any]:
    """Raises `InvalidInput` when the job held out nothing."""
    settings = job.hyperparameters
    if job.eval_dataset_id is not None:
        given.pop("held_out", None)
        skips = {"skip_bad_rows": True} if settings.get("skip_bad_rows") else {}
        return {"dataset_id": job.eval_dataset_id, "hyperparameters": {**skips, **given}}
    if not settings.get("validation_split"):
        raise InvalidInput(
            f"Job {job.id} held no rows out.",
            hint="Give a dataset that it has not learned from.",
            details=[{"loc": "dataset_id", "message": f"job {job.id} learned from every row of its dataset"}],
        )
    held_out = {
        "job_id": job.id,
        "share": settings["validation_split"],
        "seed": settings["seed"],
        "max_length": settings["max_length"],
        "train_on": settings["train_on"],
        "split_by": settings.get("split_by", "as_read"),
        "skip_bad_rows": settings.get("skip_bad_rows", False),
    }
    given = {"system_prompt": settings.get("system_prompt"), **given, "held_out": held_out}
    return {"dataset_id": job.dataset_id, "dataset_version": job.dataset_version, "hyperparameters": given}


def _without_addresses_inside(settings: Settings, given: dict[str, Any]) -> dict[str, Any]:
    """A judge may stand inside the network only when an administrator asks, or has allowed its address.

    Raises `InvalidInput` for an address that may not be asked.
    """
    judge = given.get("judge")
    if not isinstance(judge, dict) or not isinstance(judge.get("base_url"), str) or not judge["base_url"]:
        return given
    place = outbound.checked_url(judge["base_url"])
    allowed = place.host in settings.allowed_addresses or current().may(Scope.ADMIN)
    if not allowed:
        port = urlsplit(judge["base_url"]).port or (443 if place.scheme == "https" else 80)
        for address in outbound.look_up(place.host, port, outbound.Deadline(LOOK_UP_S)):
            if why := outbound.why_refused(address):
                raise outbound.refused(f"{place.host} cannot be asked: its address {why}.")
    return given | {"judge": {**judge, "public_only": not allowed}}
