"""What an evaluation has left in its job's folder: scores, and samples line by line."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

from tunesmith.core.errors import Conflict, NotFound
from tunesmith.core.job_status import JobStatus
from tunesmith.features.jobs import files
from tunesmith.features.jobs.repository import JobRepository
from tunesmith.features.jobs.tables import JobRow
from tunesmith.recipes.catalog import get_recipe
from tunesmith.recipes.evaluate.result import read_scores
from tunesmith.recipes.evaluate.spec import HEADLINES
from tunesmith.schemas.evaluations import EvaluationRead, ScoreRead
from tunesmith.settings import Settings
from tunesmith.storage.database import Session

SAMPLES_FILE = "evaluation/samples.jsonl"


def evaluation(session: Session, job_id: int) -> JobRow:
    """The job of an evaluation. Raises `NotFound`."""
    row = JobRepository(session).get(job_id)
    if get_recipe(row.method).kind != "evaluation":
        raise NotFound(f"Job {job_id} is no evaluation.", hint="See the list of evaluations.")
    return row


def completed(session: Session, job_id: int) -> JobRow:
    """Raises `NotFound`, or `Conflict` while there are no scores."""
    row = evaluation(session, job_id)
    if row.status != JobStatus.COMPLETED:
        raise Conflict(f"Evaluation {job_id} is {row.status}.", hint="Wait until it is completed.")
    return row


def told(settings: Settings, row: JobRow) -> dict[str, Any]:
    """`scores.json`; empty before the evaluation is completed."""
    found = read_scores(files.job_dir(settings, row.id).artifacts) if row.status == JobStatus.COMPLETED else None
    return found or {"scores": {}}


def scores(found: dict[str, Any]) -> list[ScoreRead]:
    """In the order in which they are shown."""
    return [
        ScoreRead.model_validate({"title": name, "unit": "", **score, "name": name})
        for name, score in found["scores"].items()
    ]


def headline(shown: list[ScoreRead]) -> ScoreRead | None:
    """The one that stands for all."""
    by_name = {score.name: score for score in shown}
    first = shown[0] if shown else None
    return next((by_name[name] for name in HEADLINES if name in by_name), first)


def read(settings: Settings, row: JobRow) -> EvaluationRead:
    """For the wire."""
    found = told(settings, row)
    shown = scores(found)
    held_out = row.hyperparameters.get("held_out") or {}
    return EvaluationRead(
        id=row.id,
        name=row.name,
        model=row.model or "",
        status=JobStatus(row.status),
        status_reason=row.status_reason,
        dataset_id=row.dataset_id,
        dataset_name=(row.spec.get("dataset") or {}).get("name"),
        dataset_version=row.dataset_version,
        held_out_by=held_out.get("job_id") or None,
        num_rows=(found.get("dataset") or {}).get("num_rows"),
        headline=headline(shown),
        scores=shown,
        owner=row.owner,
        visibility=row.visibility,  # type: ignore[arg-type]
        created_at=row.created_at,
        ended_at=row.ended_at,
    )


def samples(settings: Settings, job_id: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """`(number of the line from 1, sample)`, one after the other."""
    try:
        descriptor = files.artifact(files.job_dir(settings, job_id), SAMPLES_FILE)
    except NotFound:
        return
    with os.fdopen(descriptor, "rb") as lines:
        for number, line in enumerate(lines, start=1):
            yield number, json.loads(line)
