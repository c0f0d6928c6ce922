"""Scores with their intervals, as pages show them."""

from __future__ import annotations

from typing import Any, NamedTuple

from tunesmith.features.registry.numbers import read_scores
from tunesmith.recipes.blocks.score_text import places, value_text
from tunesmith.schemas.evaluations import ScoreRead
from tunesmith.ui.words import NONE

PLOT_WIDTH = 200.0


class Shown(NamedTuple):
    """One score of a version."""

    title: str
    value: str
    low: str
    high: str
    """Both a dash where there is no interval."""
    num_samples: int | None
    mark: dict[str, float] | None
    higher_is_better: bool | None


def of_version(scores: dict[str, Any]) -> list[tuple[str, list[Shown]]]:
    """Each evaluation of a version with its scores, by the evaluation's name."""
    return [(name, [_shown(score) for score in read_scores(told)]) for name, told in scores.items()]


def _shown(score: dict[str, Any]) -> Shown:
    unit = score.get("unit", "")
    value, low, high = (score.get(name) for name in ("value", "low", "high"))
    return Shown(
        score.get("title") or score["name"].replace("_", " ").capitalize(),
        value_text(value, unit),
        value_text(low, unit),
        value_text(high, unit),
        score.get("num_samples"),
        places(value, low, high, unit, PLOT_WIDTH),
        score.get("higher_is_better"),
    )


def score_text(score: ScoreRead | None, value: float | None = None) -> str:
    """A score, or an end of its interval, with its unit."""
    return value_text(score.value if value is None else value, score.unit) if score else NONE


def interval_mark(score: ScoreRead) -> dict[str, float] | None:
    """Where value and interval stand on a line from 0 to the most that the score can be; None where it has no bounds."""
    return places(score.value, score.low, score.high, score.unit, PLOT_WIDTH)
