"""Evaluations side by side: on the same samples, and with a word on whether a difference means anything."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from tunesmith.core.errors import InvalidInput
from tunesmith.features.chat.ratings import HUMAN_RATINGS
from tunesmith.features.evaluations import reading
from tunesmith.features.jobs import versions
from tunesmith.features.jobs.tables import JobRow
from tunesmith.schemas.evaluations import ComparedScore, DifferenceRead, EvaluationComparison, ScoreRead
from tunesmith.settings import Settings
from tunesmith.storage.database import Session

if TYPE_CHECKING:
    import numpy as np

SEED = 0
NOT_PAIRED = "only the intervals can be compared"


class Sampled(NamedTuple):
    """One evaluation with its samples."""

    row: JobRow
    told: dict[str, Any]
    samples: list[dict[str, Any]]


def load(settings: Settings, row: JobRow) -> Sampled:
    """An evaluation that is completed, with all its samples."""
    return Sampled(row, reading.told(settings, row), [sample for _, sample in reading.samples(settings, row.id)])


def compare(settings: Settings, session: Session, ids: Sequence[int]) -> EvaluationComparison:
    """The others with the first. Raises `NotFound`, `Conflict`, or `InvalidInput` when they are of different data."""
    ids = list(dict.fromkeys(ids))
    if len(ids) < 2:
        raise InvalidInput(
            "One evaluation cannot be compared.",
            hint="Choose two or more.",
            details=[{"loc": "evaluations", "message": "2 to 8 different ones"}],
        )
    rows = [reading.completed(session, job_id) for job_id in ids]
    _check_same_data(rows)
    loaded = [load(settings, row) for row in rows]
    shown = [{score.name: score for score in _shown(session, one)} for one in loaded]
    names = list(dict.fromkeys(name for scores in shown for name in scores))
    return EvaluationComparison(
        evaluations=[reading.read(settings, row) for row in rows],
        scores=[_compared(name, loaded, [scores.get(name) for scores in shown]) for name in names],
    )


def _shown(session: Session, one: Sampled) -> list[ScoreRead]:
    """The evaluation's scores, and what people think of the version that it measured."""
    version = versions.evaluated_version(session, one.row.model or "")
    rated = version.scores.get(HUMAN_RATINGS) if version else None
    return [*reading.scores(one.told), *(reading.scores(rated) if rated else ())]


def _check_same_data(rows: Sequence[JobRow]) -> None:
    first = rows[0]
    for row in rows[1:]:
        if row.dataset_version != first.dataset_version:
            names = [f"{one.id} ({(one.spec.get('dataset') or {}).get('name', 'benchmarks')})" for one in (first, row)]
            raise InvalidInput(
                f"Evaluations {names[0]} and {names[1]} are of different data.",
                hint="Evaluate both models on the same version of one dataset.",
                details=[{"loc": "evaluations", "message": f"{row.id} ran on other rows than {first.id}"}],
            )


def _compared(name: str, loaded: Sequence[Sampled], shown: Sequence[ScoreRead | None]) -> ComparedScore:
    known = next(score for score in shown if score)
    differences: list[DifferenceRead | None] = [None]
    for other, score in zip(loaded[1:], shown[1:], strict=True):
        differences.append(difference(name, loaded[0], other, shown[0], score))
    return ComparedScore(
        name=name, title=known.title, unit=known.unit, higher_is_better=known.higher_is_better, scores=list(shown),
        differences=differences,
    )  # fmt: skip


def difference(
    name: str, first: Sampled, second: Sampled, before: ScoreRead | None, after: ScoreRead | None
) -> DifferenceRead | None:
    """On the samples that both have; by their intervals alone where there are none such (times, benchmarks)."""
    from tunesmith.recipes.blocks import scoring

    if before is None or after is None or before.value is None or after.value is None:
        return None
    pair = _paired(name, first, second)
    if pair is None or len(pair[0]) < 2:
        return by_intervals(before, after)
    found = scoring.difference(name, *pair, seed=SEED)
    better = (found.value > 0) == after.higher_is_better
    words = f"significantly {'better' if better else 'worse'}" if found.is_significant else "not significant"
    return DifferenceRead(
        value=found.value, low=found.low, high=found.high, p_value=found.p_value, test=found.test,
        num_samples=found.num_samples, significant=found.is_significant, words=f"{words}, {found.num_samples} samples",
    )  # fmt: skip


def _paired(name: str, first: Sampled, second: Sampled) -> tuple[np.ndarray, np.ndarray] | None:
    """What both have counted of the same rows, in the same order."""
    from tunesmith.recipes.blocks import scoring

    if name not in scoring.METRICS or first.row.dataset_version != second.row.dataset_version:
        return None
    labels = sorted({*(first.told.get("labels") or ()), *(second.told.get("labels") or ())})
    (rows_a, a), (rows_b, b) = (scoring.counted(one.samples, name, labels) for one in (first, second))
    place_of = {row: place for place, row in enumerate(rows_b)}
    mine = [place for place, row in enumerate(rows_a) if row in place_of]
    if not mine:
        return None
    return a[mine], b[[place_of[rows_a[place]] for place in mine]]


def by_intervals(before: ScoreRead, after: ScoreRead) -> DifferenceRead:
    """Apart when the intervals do not touch: a careful test, for samples that are not the same."""
    old, new = before.value or 0.0, after.value or 0.0  # the caller has looked that both are there
    apart = None not in (before.low, before.high, after.low, after.high) and (
        (before.high or 0.0) < (after.low or 0.0) or (after.high or 0.0) < (before.low or 0.0)
    )
    better = (new > old) == after.higher_is_better
    words = f"significantly {'better' if better else 'worse'}" if apart else "not significant"
    return DifferenceRead(
        value=new - old, low=None, high=None, p_value=None, test="", significant=apart,
        num_samples=min(before.num_samples, after.num_samples),
        words=f"{words}, {before.num_samples} and {after.num_samples} samples; {NOT_PAIRED}",
    )  # fmt: skip
