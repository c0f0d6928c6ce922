"""What becomes of what a completed job has left: its recipe says it, and here it is done."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from tunesmith.core.completion import AddScores, Finished, RegisterModel, Result
from tunesmith.core.errors import DiskFull, TunesmithError
from tunesmith.core.job_spec import JobSpec
from tunesmith.core.job_status import JobStatus
from tunesmith.core.recipe import Recipe
from tunesmith.features.catalog.service import MERGED_BASE
from tunesmith.features.jobs import files
from tunesmith.features.jobs.lifecycle import Lifecycle
from tunesmith.features.jobs.submission import folder_safe
from tunesmith.features.jobs.tables import JobRow
from tunesmith.features.jobs.versions import evaluated_version
from tunesmith.features.registry import service as registry
from tunesmith.features.registry.service import NewVersion, Prepared
from tunesmith.features.registry.tables import VersionRow
from tunesmith.live.bus import Bus
from tunesmith.recipes.catalog import get_recipe
from tunesmith.settings import Settings
from tunesmith.storage.database import Database, Session

KEPT_WITH_A_MODEL = ("report", MERGED_BASE)
"""Folders of a job that go into the registry with its model."""


class Model(NamedTuple):
    """A model to register, copied into the registry's store already."""

    result: RegisterModel
    new: NewVersion | None
    prepared: Prepared | None
    problem: TunesmithError | None = None
    """Why it cannot be registered, now or ever."""


def prepare(settings: Settings, database: Database, job_id: int) -> list[Model | AddScores]:
    """What is to be done, with the files of models copied into the store, outside of any transaction. Raises `DiskFull` or
    `OSError` when that may go well later."""
    with database.unit_of_work(readonly=True) as session:
        job = Lifecycle(session, Bus()).jobs.find(job_id)
        if job is None or job.status != JobStatus.COMPLETED:
            return []
        spec = JobSpec.model_validate(job.spec)
        finished = Finished(files.job_dir(settings, job.id), spec, _numbers(job.metrics))
        described: list[tuple[Result, NewVersion | None]] = [
            (result, _version(session, job, spec, result) if isinstance(result, RegisterModel) else None)
            for result in results_of(get_recipe(job.method), finished)
        ]
    return [
        _prepared(settings, result, new) if isinstance(result, RegisterModel) else result for result, new in described
    ]


def results_of(recipe: Recipe, finished: Finished) -> list[Result]:
    """As the recipe says; else each model that it has left."""
    if recipe.on_completed is not None:
        return list(recipe.on_completed(finished))
    found: list[Result] = []
    for output in recipe.outputs:
        folder = finished.dir.artifacts / output.folder
        kind = next((kind for kind in output.kinds if kind.matches(folder)), None)
        if output.type == "model" and kind:
            found.append(RegisterModel(kind=kind.name, path=folder))
    return found


def _version(session: Session, job: JobRow, spec: JobSpec, result: RegisterModel) -> NewVersion | None:
    """None for one that somebody has registered before."""
    if not result.suffix and registry.of_job(session, job.id):
        return None
    source = evaluated_version(session, job.model or "") if result.is_made_from_model else None
    name = folder_safe(job.name)
    if result.is_made_from_model:
        name = source.name if source else folder_safe((job.model or "model").partition("@")[0].rpartition("/")[2])
    name = registry.name_for(session, f"{name}-{result.suffix}" if result.suffix else name, job.owner_id)
    lineage = _made_from(job, source) if result.is_made_from_model else _lineage(job, spec)
    artifacts = result.path.parent
    kept = {part: artifacts / part for part in KEPT_WITH_A_MODEL if not result.is_made_from_model}
    extra = {part: folder for part, folder in {**kept, **result.extra}.items() if folder.is_dir()}
    return NewVersion(
        name=name, sources={result.kind: result.path, **extra}, kind=result.kind, job_id=job.id, base_model=job.model,
        lineage={**lineage, **result.lineage},
        hyperparameters=job.hyperparameters if result.hyperparameters is None else result.hyperparameters,
        metrics=_numbers(job.metrics) if result.metrics is None else result.metrics, scores=result.scores,
        tags=job.tags[:50] if result.tags is None else result.tags,
        owner_id=job.owner_id, owner=job.owner, visibility=job.visibility,
    )  # fmt: skip


def _numbers(metrics: dict[str, Any]) -> dict[str, float]:
    return {key: value for key, value in metrics.items() if isinstance(value, int | float)}


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


def _made_from(job: JobRow, source: VersionRow | None) -> dict[str, Any]:
    """The lineage of a model in another form: that of the model, and how it came about."""
    return {
        **(source.lineage if source else {}), "job_id": job.id, "job_name": job.name, "method": job.method,
        "base_model": job.model, "compressed_from": f"{source.name}@{source.version}" if source else job.model,
    }  # fmt: skip


def _prepared(settings: Settings, result: RegisterModel, new: NewVersion | None) -> Model:
    try:
        return Model(result, new, registry.prepare(settings, new) if new else None)
    except DiskFull:
        raise
    except TunesmithError as error:
        return Model(result, None, None, error)


def carry_out(
    settings: Settings, session: Session, life: Lifecycle, job: JobRow, found: list[Model | AddScores]
) -> None:
    """Register the models and hand on the scores. What can never be registered is a notice on the job."""
    for one in found:
        if isinstance(one, Model):
            _register(settings, session, life, job, one)
        elif (row := evaluated_version(session, job.model or "")) is not None:
            registry.add_scores(session, row, one.name, {"scores": dict(one.scores), **one.about})


def _register(settings: Settings, session: Session, life: Lifecycle, job: JobRow, model: Model) -> None:
    problem = model.problem
    if model.new is not None:
        try:
            with session.begin_nested():
                registry.register(settings, session, model.new, model.prepared)
        except TunesmithError as error:
            problem = error
    if problem is not None:
        life.notice(job, f"The model was not put into the registry: {problem.message}", problem.hint)
