"""Series out of events, and thin enough to draw. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from tunesmith.schemas.jobs import Curve

STEP_CURVES = (
    "loss",
    "learning_rate",
    "grad_norm",
    "tokens_per_s",
    "samples_per_s",
    "mfu",
    "epoch",
)
EVALUATION_CURVES = {"loss": "eval_loss", "perplexity": "eval_perplexity"}

Points = list[tuple[int, float]]


def number(value: Any) -> float | None:
    """A stored number; those that are not finite are kept as text (`NaN`)."""
    return None if value is None else float(value)


def series(bodies: Iterable[dict[str, Any]], name: str) -> Points:
    """`(step, value)` by step. After a resume a step may come twice: the later word counts."""
    found = {body["step"]: float(body[name]) for body in bodies if body.get(name) is not None}
    return sorted(found.items())


def thin(points: Points, most: int) -> Points:
    """At most `most` points (at least 4): the lowest and the highest of every stretch, so that no spike is lost."""
    most = max(4, most)
    if len(points) <= most:
        return points
    inner, stretches = points[1:-1], (most - 2) // 2
    kept = [points[0]]
    for number_ in range(stretches):
        part = inner[number_ * len(inner) // stretches : (number_ + 1) * len(inner) // stretches]
        low, high = min(part, key=_by_value), max(part, key=_by_value)
        kept += sorted({low, high})
    return [*kept, points[-1]]


def curve(points: Points) -> Curve:
    """For the wire, where JSON knows no NaN."""
    return Curve(steps=[step for step, _ in points], values=[v if math.isfinite(v) else None for _, v in points])


def curves(steps: Sequence[dict[str, Any]], evaluations: Sequence[dict[str, Any]], most: int) -> dict[str, Curve]:
    """Every series that has points, by name, each thinned to `most`."""
    found = {name: series(steps, name) for name in STEP_CURVES}
    found |= {shown: series(evaluations, name) for name, shown in EVALUATION_CURVES.items()}
    extra = sorted({name for body in evaluations for name in body.get("metrics", {})})
    for name in extra:
        values = [{"step": body["step"], name: body.get("metrics", {}).get(name)} for body in evaluations]
        found[f"eval_{name}"] = series(values, name)
    return {name: curve(thin(points, most)) for name, points in found.items() if points}


def _by_value(point: tuple[int, float]) -> float:
    """Not-a-number counts as the highest: it must be seen."""
    return math.inf if math.isnan(point[1]) else point[1]
