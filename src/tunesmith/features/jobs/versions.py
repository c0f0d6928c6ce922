"""A completed job as a version of the registry: its files, where it comes from, and the scores of its evaluations."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from tunesmith.core.errors import DiskFull, TunesmithError
from tunesmith.core.job_spec import JobSpec
from tunesmith.core.job_status import JobStatus
from tunesmith.features.catalog.library import WHOLE_MODEL_FILE, made_model
from tunesmith.features.catalog.service import MERGED_BASE
from tunesmith.features.jobs import files
from tunesmith.features.jobs.lifecycle import Lifecycle
from tunesmith.features.jobs.submission import folder_safe
from tunesmith.features.jobs.tables import JobRow
from tunesmith.features.registry import service as registry
from tunesmith.features.registry.naming import NAME
from tunesmith.features.registry.service import NewVersion, Prepared
from tunesmith.features.registry.tables import VersionRow
from tunesmith.live.bus import Bus
from tunesmith.recipes.catalog import get_recipe
from tunesmith.settings import Settings
from tunesmith.storage.database import Database, Session

OF_JOB = re.compile(r"job:([1-9][0-9]{0,17})")
SCORES_FILE = "evaluation/scores.json"
"""Below the artifacts of an evaluation."""


class Found(NamedTuple):
    """What a job's model is, copied into the registry's store already."""

    new: NewVersion | None
    prepared: Prepared | None
    problem: TunesmithError | None = None
    """Why it cannot be registered, now or ever."""


def prepare(settings: Settings, database: Database, job_id: int) -> Found:
    """Copy the files of a job's model into the store, outside of any transaction. Raises `DiskFull` or `OSError` when that
    may go well later."""
    with database.unit_of_work(readonly=True) as session:
        job = Lifecycle(session, Bus()).jobs.find(job_id)
        if job is None or job.status != JobStatus.COMPLETED or get_recipe(job.method).kind != "training":
            return Found(None, None)
        if registry.of_job(session, job_id):
            return Found(None, None)
        name = registry.name_for(session, folder_safe(job.name), job.owner_id)
    try:
        new = _described(settings, job, name)
        return Found(new, registry.prepare(settings, new) if new else None)
    except DiskFull:
        raise
    except TunesmithError as error:
        return Found(None, None, error)


def _described(settings: Settings, job: JobRow, name: str) -> NewVersion | None:
    """None for what is no language model, such as the result of a custom script."""
    job_dir = files.job_dir(settings, job.id)
    folder = made_model(job_dir)
    if folder is None or not any(folder.glob("*.safetensors")):
        return None
    spec = JobSpec.model_validate(job.spec)
    kind = "model" if (folder / WHOLE_MODEL_FILE).is_file() else "adapter"
    extra = {part: job_dir.artifacts / part for part in ("report", MERGED_BASE) if (job_dir.artifacts / part).is_dir()}
    metrics = {key: value for key, value in job.metrics.items() if isinstance(value, int | float)}
    return NewVersion(
        name=name, sources={kind: folder, **extra}, kind=kind, job_id=job.id, base_model=job.model,
        lineage=_lineage(job, spec), hyperparameters=job.hyperparameters, metrics=metrics, tags=job.tags[:50],
        owner_id=job.owner_id, owner=job.owner, visibility=job.visibility,
    )  # fmt: skip


def _lineage(job: JobRow, spec: JobSpec) -> dict[str, Any]:
    base = spec.model
    return {
        "job_id": job.id,
        "job_name": job.name,
        "method": job.method,
        "dataset_id": job.dataset_id,
        "dataset_name": spec.dataset.name if spec.dataset else None,
        "dataset_digest": job.dataset_version,
        "base_model": job.model,
        "base_path": base.path if base and Path(base.path).is_dir() and not base.adapter_path else None,
        "base_revision": base.revision if base else None,
    }


def register(settings: Settings, session: Session, life: Lifecycle, job: JobRow, found: Found) -> VersionRow | None:
    """The version of a job's model. What can never be registered is a notice on the job."""
    problem = found.problem
    if found.new is not None:
        try:
            with session.begin_nested():
                return registry.register(settings, session, found.new, found.prepared)
        except TunesmithError as error:
            problem = error
    if problem is not None:
        life.notice(job, f"The model was not put into the registry: {problem.message}", problem.hint)
    return None


# -- evaluations ------------------------------------------------------------------------------------------------------


def add_scores(settings: Settings, session: Session, job: JobRow) -> None:
    """Hand the scores of an evaluation on to the version that was evaluated, when it is one."""
    told = read_scores(settings, job.id)
    row = evaluated_version(session, job.model or "")
    if told is None or row is None:
        return
    about = {"job_id": job.id, "dataset": told.get("dataset")}
    registry.add_scores(session, row, name_of(told), {"scores": told["scores"], **about})


def name_of(told: dict[str, Any]) -> str:
    """What an evaluation is called in the registry: its dataset, or that it ran benchmarks alone."""
    dataset = told.get("dataset")
    if not dataset:
        return "benchmarks"
    return f"{dataset['name']} (held out)" if dataset.get("held_out_by") else str(dataset["name"])


def read_scores(settings: Settings, job_id: int) -> dict[str, Any] | None:
    """What an evaluation has left; None where there is nothing that can be read."""
    try:
        told = json.loads((files.job_dir(settings, job_id).artifacts / SCORES_FILE).read_bytes())
    except (OSError, ValueError):
        return None
    return told if isinstance(told, dict) and isinstance(told.get("scores"), dict) else None


def evaluated_version(session: Session, model: str) -> VersionRow | None:
    """The version that a model's name stands for, or None."""
    if found := OF_JOB.fullmatch(model):
        return registry.of_job(session, int(found[1]))
    if not NAME.fullmatch(model.partition("@")[0]):
        return None
    try:
        return registry.find_version(session, model)
    except TunesmithError:
        return None
