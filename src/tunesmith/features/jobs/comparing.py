"""Jobs side by side: what was set, what came out, and what their models say."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from tunesmith.core.errors import InvalidInput
from tunesmith.core.job_dir import JobDir, read_model
from tunesmith.core.metrics import better_of
from tunesmith.features.jobs import before_after, files, service
from tunesmith.features.jobs.curves import number
from tunesmith.features.jobs.metrics import curves_of
from tunesmith.features.jobs.repository import JobRepository
from tunesmith.features.jobs.tables import JobRow
from tunesmith.recipes.catalog import metrics_of
from tunesmith.schemas.before_after import BeforeAfter
from tunesmith.schemas.jobs import ComparedJob, ComparedValue, JobComparison, JobSample
from tunesmith.settings import Settings
from tunesmith.storage.database import Session

MAX_JOBS = 8
SETTINGS = ("method", "model", "dataset_id", "dataset_version", "eval_dataset_id")
"""Shown before the hyperparameters."""
SCORES = ("loss", "eval_loss", "best_eval_loss", "elapsed_s", "step")
SAME_AS = ("train_steps", "training_s")
"""Metrics that say again what the columns `step` and `elapsed_s` say."""
MAX_PROMPT_CHARS = 2000
"""Of a long prompt the end is shown."""
CHECK_PROMPT = "Hello"
"""What `recipes.blocks.validate` says to every finished model."""


def compare(settings: Settings, session: Session, ids: Sequence[int], points: int) -> JobComparison:
    """Up to `MAX_JOBS` jobs, with curves of so many `points`; 0 leaves them out. Raises `NotFound`, `InvalidInput`."""
    ids = list(dict.fromkeys(ids))
    if not 1 <= len(ids) <= MAX_JOBS:
        raise InvalidInput(
            f"{len(ids)} jobs cannot be compared.",
            hint=f"Choose up to {MAX_JOBS}.",
            details=[{"loc": "ids", "message": f"1 to {MAX_JOBS} jobs"}],
        )
    rows = JobRepository(session).many(ids)
    jobs = [
        ComparedJob(
            job=service.read(row),
            curves=curves_of(session, row.id, points) if points else {},
            samples=samples(files.job_dir(settings, row.id)),
        )
        for row in rows
    ]
    return JobComparison(jobs=jobs, settings=_settings(rows), scores=_scores(rows))


def _settings(rows: Sequence[JobRow]) -> list[ComparedValue]:
    table = [{name: getattr(row, name) for name in SETTINGS} | row.hyperparameters for row in rows]
    found = []
    for name in dict.fromkeys(name for values in table for name in values):
        values = [each.get(name) for each in table]
        if any(value is not None for value in values):
            found.append(ComparedValue(name=name, values=values, differs=_differ(values)))
    return found


def _scores(rows: Sequence[JobRow]) -> list[ComparedValue]:
    table = [
        {name: getattr(row, name) for name in SCORES}
        | {name: value for name, value in row.metrics.items() if name not in SAME_AS}
        for row in rows
    ]
    found = []
    for name in dict.fromkeys(name for values in table for name in values):
        values = [each.get(name) for each in table]
        if all(value is None for value in values):
            continue
        ways = {
            better_of(name, metrics_of(row.method))
            for row, value in zip(rows, values, strict=True)
            if value is not None
        }
        places = _best(values, lowest=ways == {"lower"}) if len(ways) == 1 and None not in ways else []
        found.append(ComparedValue(name=name, values=values, differs=_differ(values), best=places))
    return found


def _number(value: Any) -> float:
    found = number(value)
    return math.nan if found is None else found


def _best(values: Sequence[Any], *, lowest: bool) -> list[int]:
    """Places of the best numbers; none where fewer than two are there or all are alike."""
    numbers = {place: found for place, value in enumerate(values) if math.isfinite(found := _number(value))}
    if len(set(numbers.values())) < 2:
        return []
    top = min(numbers.values()) if lowest else max(numbers.values())
    return [place for place, value in numbers.items() if value == top]


def _differ(values: Sequence[Any]) -> bool:
    return any(value != values[0] for value in values)


def samples(folder: JobDir) -> list[JobSample]:
    """What the job's model answered to held-out questions, else when it was checked; nothing for a job that has not come so far."""
    compared = read_model(folder.artifacts / before_after.FILE, BeforeAfter)
    if compared and compared.questions:
        return [
            JobSample(
                prompt=one.turns[-1].content[-MAX_PROMPT_CHARS:] if one.turns else "",
                turns=[turn.model_copy(update={"content": turn.content[-MAX_PROMPT_CHARS:]}) for turn in one.turns],
                expected=one.expected, answer=one.tuned.answer,
            )
            for one in compared.questions
        ]  # fmt: skip
    found = []
    for path in sorted(folder.artifacts.glob("*/validation.json")):
        try:
            told = json.loads(path.read_bytes())
            kept = told.get("samples") or [{"prompt": CHECK_PROMPT, "answer": told["sample"]}]
            found += [
                JobSample(
                    prompt=str(each["prompt"])[-MAX_PROMPT_CHARS:],
                    expected=str(each.get("expected", "")),
                    answer=str(each["answer"]),
                )
                for each in kept
            ]
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue  # a custom script may leave a file of that name
    return found
