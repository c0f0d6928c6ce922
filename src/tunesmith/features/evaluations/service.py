"""Evaluations: jobs of the method `evaluate`, and what has come of them."""

from __future__ import annotations

from typing import Any, Literal

from tunesmith.features.evaluations import reading
from tunesmith.features.jobs import submission
from tunesmith.features.jobs.repository import JobRepository
from tunesmith.features.jobs.tables import JobRow
from tunesmith.live.bus import Bus
from tunesmith.schemas.common import Page
from tunesmith.schemas.evaluations import EvaluationCreate, EvaluationDetail, EvaluationRead, SampleRead
from tunesmith.schemas.jobs import JobCreate
from tunesmith.settings import Settings
from tunesmith.storage.database import Session

METHOD = "evaluate"


def request(body: EvaluationCreate) -> JobCreate:
    """The same as a job."""
    given = dict(body.settings)
    given |= {name: value for name in ("metrics", "benchmarks") if (value := getattr(body, name))}
    if body.held_out_of is not None:
        given["held_out"] = {"job_id": body.held_out_of}
    return JobCreate(
        name=body.name,
        method=METHOD,
        model=body.model,
        dataset_id=body.dataset_id,
        dataset_version=body.dataset_version,
        hyperparameters=given,
    )


def create(settings: Settings, session: Session, bus: Bus, body: EvaluationCreate) -> EvaluationRead:
    """Raises as `submission.create`."""
    return reading.read(settings, submission.create(settings, session, bus, request(body)))


def list_evaluations(
    settings: Settings,
    session: Session,
    *,
    model: str | None = None,
    dataset_id: int | None = None,
    text: str | None = None,
    cursor: int | None = None,
    limit: int = 50,
) -> Page[EvaluationRead]:
    """Newest first."""
    jobs = JobRepository(session)
    query = jobs.filtered(method=METHOD, model=model, dataset_id=dataset_id, text_like=text)
    rows, after = jobs.page(query, cursor=cursor, limit=limit)
    return Page(items=[reading.read(settings, row) for row in rows], next_cursor=after, total=jobs.count(query))


def detail(settings: Settings, session: Session, job_id: int) -> EvaluationDetail:
    """Raises `NotFound`."""
    row = reading.evaluation(session, job_id)
    return read_detail(settings, row)


def read_detail(settings: Settings, row: JobRow) -> EvaluationDetail:
    """All that is known of one."""
    found = reading.told(settings, row)
    more: dict[str, Any] = {
        name: found.get(name) or [] for name in ("metrics", "per_class", "labels", "confusion", "skipped", "plots")
    }
    return EvaluationDetail(
        **dict(reading.read(settings, row)),
        **more,
        reason=found.get("reason", ""),
        settings=row.hyperparameters,
        latency=found.get("latency"),
        judge=found.get("judge"),
    )


def samples(
    settings: Settings,
    session: Session,
    job_id: int,
    *,
    right: Literal["right", "wrong"] | None = None,
    text: str | None = None,
    cursor: int | None = None,
    limit: int = 50,
) -> Page[SampleRead]:
    """Answered rows in the order of the data. Raises `NotFound`, or `Conflict` while there are none."""
    row = reading.completed(session, job_id)
    found: list[SampleRead] = []
    wanted = (text or "").lower()
    last = cursor or 0
    for number, sample in reading.samples(settings, row.id):
        if number <= (cursor or 0) or not _fits(sample, right, wanted):
            continue
        if len(found) == limit:
            return Page(items=found, next_cursor=last)
        found.append(SampleRead.model_validate(sample))
        last = number
    return Page(items=found, next_cursor=None)


def _fits(sample: dict[str, Any], right: str | None, text: str) -> bool:
    if right is not None and sample.get("right") is not (right == "right"):
        return False
    return not text or any(text in str(sample.get(key) or "").lower() for key in ("prompt", "expected", "answer"))
