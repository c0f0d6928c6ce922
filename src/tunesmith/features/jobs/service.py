"""What can be done with jobs, besides making them (`submission.py`). Each function works in its caller's unit of work."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tunesmith.core.errors import Conflict, InUse, InvalidInput, NotFound
from tunesmith.core.job_dir import JobDir
from tunesmith.core.job_spec import JobSpec
from tunesmith.core.job_status import JobStatus, Priority
from tunesmith.core.metrics import HELD_OUT, title_of, values_of
from tunesmith.features.jobs import files, permission, quotas, reporting
from tunesmith.features.jobs.curves import number, series
from tunesmith.features.jobs.diagnosis import LOSS, WINDOW, diagnose
from tunesmith.features.jobs.lifecycle import Lifecycle
from tunesmith.features.jobs.package import stream_package
from tunesmith.features.jobs.repository import JobRepository
from tunesmith.features.jobs.submission import PRIORITIES
from tunesmith.features.jobs.tables import JobRow
from tunesmith.recipes.blocks.model_card import config_yaml
from tunesmith.recipes.catalog import RECIPES, get_recipe, metrics_of
from tunesmith.recipes.describing import describe, json_schema
from tunesmith.schemas.jobs import (
    CheckpointRead,
    Diagnosis,
    JobEvent,
    JobProgress,
    JobRead,
    JobUpdate,
    QueueItem,
    QueueMove,
    RunMetric,
)
from tunesmith.schemas.methods import MethodField, MethodMetric, MethodRead
from tunesmith.settings import Settings
from tunesmith.storage.database import Session, after_commit

PRIORITY_NAMES = {number: Priority(name) for name, number in PRIORITIES.items()}
MAX_DIAGNOSED_EVALUATIONS = 200
MAX_NOTICES = 200


def read(row: JobRow) -> JobRead:
    """A job for the wire."""
    made = {
        "priority": PRIORITY_NAMES[row.priority],
        "progress": share(row.status, row.step, row.total_steps),
        "dataset_name": (row.spec.get("dataset") or {}).get("name"),
        "values": None,
        "sparkline": [value for _, value in (row.sparkline or {}).get("points", [])],
        "metric": primary(row),
    }
    return JobRead(**{name: getattr(row, name) for name in JobRead.model_fields if name not in made}, **made)


def primary(row: JobRow) -> RunMetric | None:
    """What stands for the job, on held-out rows where there are some; None before anything was measured."""
    spec = next((metric for metric in metrics_of(row.method) if metric.is_primary), None)
    scores = row.scores or {}
    name = next((name for name in (f"{HELD_OUT}{spec.name}", spec.name) if name in scores), None) if spec else None
    if spec is None or name is None:
        if spec is None or spec.name != "loss" or row.eval_loss is None:
            return None
        name, scores = "eval_loss", {"eval_loss": (row.eval_loss, row.best_eval_loss)}  # a job of before
    last, best = scores[name]
    title = title_of(name, (spec,))
    return RunMetric(name=name, title=title, unit=spec.unit, better=spec.better, last=last, best=best)


def counts(session: Session, **filters: Any) -> dict[str, int]:
    """Jobs by status; `filters` are those of `JobRepository.filtered`."""
    return JobRepository(session).count_by_status(**filters)


def get(session: Session, job_id: int) -> JobRow:
    """Raises `NotFound`."""
    return JobRepository(session).get(job_id)


def update(session: Session, job_id: int, body: JobUpdate) -> JobRow:
    """Change what is given. A waiting job moves with its priority. Fields that a job must have cannot be set to null."""
    row = JobRepository(session).get(job_id, for_update=True)
    given = body.model_dump(exclude_unset=True)
    empty = [name for name in ("name", "tags", "priority", "visibility") if name in given and given[name] is None]
    if empty:
        raise InvalidInput(details=[{"loc": name, "message": "must not be null; leave it out"} for name in empty])
    waiting = row.status in (JobStatus.CREATED, JobStatus.QUEUED)
    if not waiting and {"priority", "not_before"} & set(given):
        raise Conflict(
            f"Job {job_id} is {row.status}; priority and not_before matter only before it starts.",
            hint="Name and tags can be changed at any time.",
        )
    if "priority" in given:
        given["priority"] = PRIORITIES[given["priority"]]
    for name, value in given.items():
        setattr(row, name, value)
    session.flush()
    return row


def delete(settings: Settings, session: Session, job_id: int) -> None:
    """A job that has ended or never began, with its files. Raises `Conflict` while a worker may have it."""
    jobs = JobRepository(session)
    row = jobs.get(job_id, for_update=True)
    status = JobStatus(row.status)
    if row.launch is not None or not (status.is_final or status == JobStatus.CREATED):
        raise Conflict(f"Job {job_id} is {status}, so it cannot be deleted.", hint="Stop it first, then delete it.")
    followers = [job.id for job in jobs.turns(everyones=True) if job.after_job_id == job_id]
    if followers:
        raise Conflict(f"Job {followers[0]} waits for job {job_id}.", hint="Stop that one first.")
    if heirs := jobs.based_on(job_id):
        raise InUse(f"Job {heirs[0].id} goes on from the model of job {job_id}.", hint="Delete that one first.")
    quotas.remember(session, row)
    session.delete(row)
    session.flush()
    after_commit(session, lambda: files.discard(settings, job_id))


def read_events(
    session: Session, job_id: int, *, after: int, types: Sequence[str] = (), limit: int = 1000
) -> list[JobEvent]:
    """Events after a sequence number, in order. Raises `NotFound`."""
    jobs = JobRepository(session)
    jobs.get(job_id)
    return [JobEvent(seq=row.seq, event=row.body) for row in jobs.events(job_id, after=after, types=types, limit=limit)]


def check_may_start(settings: Settings, job: JobRow, session: Session) -> None:
    """Raises `PermissionDenied` or `QuotaExceeded` when who asks may not have this job start, or another job now."""
    permission.check_request(settings, get_recipe(job.method))
    quotas.check_submit(settings, session, int(job.resources.get("num_gpus", 0)))


# -- the queue ----------------------------------------------------------------------------------------------------------


def queue(session: Session, reasons: dict[int, str]) -> list[QueueItem]:
    """Waiting jobs in the order in which they start; `reasons` says why each waits. Places count the jobs of all."""
    jobs = JobRepository(session)
    places = {job.id: place for place, job in enumerate(jobs.turns(everyones=True), start=1)}
    return [
        QueueItem(
            job_id=row.id,
            name=row.name,
            position=places[row.id],
            priority=PRIORITY_NAMES[row.priority],
            waiting_for=reasons.get(row.id, "it starts in a moment"),
        )
        for row in jobs.turns()
    ]


def move(session: Session, job_id: int, to: QueueMove) -> None:
    """Put a waiting job elsewhere; it takes on the priority of its new neighbours. Raises `Conflict`, `InvalidInput`."""
    if (to.to is None) == (to.before_job_id is None):
        raise InvalidInput(
            "Say either to or before_job_id.", details=[{"loc": "to", "message": "exactly one of the two"}]
        )
    jobs = JobRepository(session)
    row = jobs.get(job_id, for_update=True)
    if row.status != JobStatus.QUEUED:
        raise Conflict(f"Job {job_id} is {row.status}; only a waiting job can be moved.")
    order = [job for job in jobs.queue() if job.id != job_id]
    if to.before_job_id == job_id or not order:
        return
    if to.before_job_id is None:
        place = 0 if to.to == "first" else len(order)
    else:
        place = next((n for n, job in enumerate(order) if job.id == to.before_job_id), -1)
        if place < 0:
            raise InvalidInput(
                f"Job {to.before_job_id} does not wait.",
                hint="See the queue.",
                details=[{"loc": "before_job_id", "message": "not in the queue"}],
            )
    row.priority = order[min(place, len(order) - 1)].priority
    order.insert(place, row)
    # The positions that are there are dealt out anew: order changes, jobs that come later still come last.
    same = [job for job in order if job.priority == row.priority]
    for job, position in zip(same, sorted(job.position for job in same), strict=True):
        job.position = position
    session.flush()


# -- how it goes --------------------------------------------------------------------------------------------------------


def progress(session: Session, job_id: int, why_waiting: Callable[[Session], dict[int, str]]) -> JobProgress:
    """Where a job is, at a glance."""
    jobs = JobRepository(session)
    row = jobs.get(job_id)
    steps = [event.body for event in jobs.events(job_id, types=("step",), limit=WINDOW, newest=True)]
    evaluations = _evaluations(jobs, job_id)
    step: dict[str, Any] = steps[-1] if steps else {}
    use = jobs.last_event(job_id, "resources")
    waits = queue(session, why_waiting(session)) if row.status == JobStatus.QUEUED else []
    places = {item.job_id: item for item in waits}
    place = places.get(job_id)
    shown = {name: _finite(step.get(name)) for name in ("loss", "learning_rate", "grad_norm", "tokens_per_s")}
    shown |= {name: _finite(step.get(name)) for name in ("samples_per_s", "mfu", "remaining_s")}
    scores = [value for _, value in series(evaluations, "loss") if math.isfinite(value)]
    return JobProgress(
        id=row.id,
        name=row.name,
        status=JobStatus(row.status),
        status_reason=row.status_reason,
        phase=row.phase,  # type: ignore[arg-type]
        progress=share(row.status, row.step, row.total_steps),
        step=row.step,
        total_steps=row.total_steps,
        epoch=step.get("epoch", 0.0),
        **shown,
        metric=primary(row),
        eval_loss=_finite(evaluations[-1].get("loss")) if evaluations else None,
        best_eval_loss=min(scores, default=None),
        elapsed_s=step.get("elapsed_s", 0.0),
        resources=use.body if use else None,
        queue_position=place.position if place else None,
        waiting_for=place.waiting_for if place else "",
        failure_code=row.failure_code,
        message=row.status_reason,
        hint=row.hint,
        last_seq=row.last_seq,
        diagnosis=_diagnose(row.method, steps, evaluations, row.hyperparameters),
    )


def read_checkpoints(session: Session, folder: JobDir, job_id: int) -> list[CheckpointRead]:
    """Complete checkpoints, newest first."""
    best = [body["step"] for body in _evaluations(JobRepository(session), job_id) if body.get("is_best")]
    return files.checkpoints(folder, best[-1] if best else None)


def package(settings: Settings, session: Session, row: JobRow) -> Iterator[bytes]:
    """The archive of a finished job, piece by piece. Raises `Conflict` when it has no model yet."""
    if row.status != JobStatus.COMPLETED:
        raise Conflict(f"Job {row.id} is {row.status}, so there is no model yet.", hint="Wait until it is completed.")
    spec = JobSpec.model_validate(row.spec)
    produces = get_recipe(row.method).produces
    report = None
    with contextlib.suppress(NotFound):
        report = reporting.page(settings, session, row.id)
    return stream_package(files.job_dir(settings, row.id), spec, produces, row.output_name, report)


def config(row: JobRow) -> str:
    """The job as YAML, as `tunesmith train --config` reads it."""
    return config_yaml(JobSpec.model_validate(row.spec), row.hyperparameters)


def methods(settings: Settings) -> list[MethodRead]:
    """Every method, with what a user may set and whether who asks can run it here."""
    found = []
    for recipe in RECIPES:
        found.append(
            MethodRead(
                name=recipe.name,
                title=recipe.title,
                sentence=recipe.sentence,
                fields=[MethodField.model_validate(setting._asdict()) for setting in describe(recipe.params)],
                json_schema=json_schema(recipe.params),
                shapes=list(recipe.data.shapes),
                kind=recipe.kind,
                tasks=list(recipe.tasks),
                modality=recipe.data.modality,
                metrics=[MethodMetric.model_validate(asdict(metric)) for metric in recipe.metrics],
                guide=recipe.guide,
                needs_model=recipe.needs_model,
                needs_dataset=recipe.data.is_needed,
                permission=recipe.permission,
                why_not=permission.why_not(settings, recipe),
            )
        )
    return found


def check_data_is_there(row: JobRow) -> None:
    """Before a job goes on: its rows may have been deleted since it ended. Raises `Conflict`."""
    spec = JobSpec.model_validate(row.spec)
    gone = [ref.name for ref in (spec.dataset, spec.eval_dataset) if ref and not Path(ref.path).is_file()]
    if gone:
        raise Conflict(f"The dataset {gone[0]!r} has been deleted.", hint="Upload it again and clone the job.")


def life_of(session: Session, bus: Any, job_id: int) -> tuple[Lifecycle, JobRow]:
    """For one change of state: the row, locked."""
    life = Lifecycle(session, bus)
    return life, life.jobs.get(job_id, for_update=True)


def _evaluations(jobs: JobRepository, job_id: int) -> list[dict[str, Any]]:
    rows = jobs.events(job_id, types=("evaluation",), limit=MAX_DIAGNOSED_EVALUATIONS, newest=True)
    return [row.body for row in rows]


def _diagnose(
    method: str, steps: list[dict[str, Any]], evaluations: list[dict[str, Any]], settings: Mapping[str, Any]
) -> list[Diagnosis]:
    if not next((recipe.has_one_curve for recipe in RECIPES if recipe.name == method), True):
        return []
    metric = next((metric for metric in metrics_of(method) if metric.is_primary), LOSS)
    held_out = series([{"step": body["step"], **values_of(body)} for body in evaluations], metric.name)
    return diagnose(series(steps, "loss"), held_out, series(steps, "grad_norm"), settings, metric)


def rows_skipped(session: Session, job_id: int) -> list[dict[str, Any]]:
    """What the job said of the rows that it left out: `message` and `rows`, for each dataset."""
    notices = JobRepository(session).events(job_id, types=("notice",), limit=MAX_NOTICES)
    return [row.body for row in notices if row.body.get("code") == "rows_skipped"]


def share(status: str, step: int, total_steps: int) -> float:
    """How much of its steps a job has done, 0 to 1."""
    return 1.0 if status == JobStatus.COMPLETED else max(0.0, min(1.0, step / max(1, total_steps)))


def _finite(value: Any) -> float | None:
    """JSON knows no NaN; the diagnosis says that there is one."""
    found = number(value)
    return found if found is not None and math.isfinite(found) else None
