"""Series out of events, and thin enough to draw. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, TypeVar

from tunesmith.core.metrics import HELD_OUT, Better, values_of
from tunesmith.schemas.jobs import Curve

STEP_CURVES = (
    "learning_rate",
    "grad_norm",
    "tokens_per_s",
    "samples_per_s",
    "mfu",
    "epoch",
    "elapsed_s",
)
"""Of each step, besides its values."""
RATES = {
    "disk_read_bytes": "disk_read_bytes_per_s",
    "disk_written_bytes": "disk_written_bytes_per_s",
    "network_received_bytes": "network_received_bytes_per_s",
    "network_sent_bytes": "network_sent_bytes_per_s",
}
"""Counts that only grow, and what is drawn of them."""
SPARKLINE_POINTS = 32

XT = TypeVar("XT", int, float)
RowT = TypeVar("RowT", bound=Sequence[Any])
Points = list[tuple[XT, float]]


def number(value: Any) -> float | None:
    """A stored number; those that are not finite are kept as text (`NaN`)."""
    return None if value is None else float(value)


def series(bodies: Iterable[dict[str, Any]], name: str) -> Points[int]:
    """`(step, value)` by step; see `latest`."""
    return latest((body["step"], float(body[name])) for body in bodies if body.get(name) is not None)


def latest(rows: Iterable[RowT]) -> list[RowT]:
    """`rows` begin with a step. A job that goes on from a checkpoint does its last steps anew: what was written of them and
    beyond counts no more."""
    kept: list[RowT] = []
    for row in rows:
        while kept and kept[-1][0] >= row[0]:
            kept.pop()
        kept.append(row)
    return kept


def thin(points: Points[XT], most: int) -> Points[XT]:
    """At most `most` points (at least 4): the lowest and the highest of every stretch, so that no spike is lost."""
    most = max(4, most)
    if len(points) <= most:
        return points
    inner, stretches = points[1:-1], (most - 2) // 2
    values = [value for _, value in inner]
    kept: Points[XT] = [points[0]]
    for stretch in range(stretches):
        start, end = stretch * len(inner) // stretches, (stretch + 1) * len(inner) // stretches
        kept += [inner[start + place] for place in _extremes(values[start:end])]
    kept.append(points[-1])
    return kept


def _extremes(values: list[float]) -> list[int]:
    """Where the lowest and the highest stand, in order. Not-a-number counts as the highest: it must be seen."""
    if math.isnan(sum(values)):
        values = [math.inf if math.isnan(value) else value for value in values]
    return sorted({values.index(min(values)), values.index(max(values))})


def curve(points: Points[int]) -> Curve:
    """For the wire, where JSON knows no NaN."""
    return Curve(steps=[step for step, _ in points], values=[v if math.isfinite(v) else None for _, v in points])


def of_steps(rows: Sequence[Sequence[Any]], names: Sequence[str], most: int) -> dict[str, Curve]:
    """`rows` are `(step, one value a name …)` in the order in which they were written; series without values are left out."""
    ordered, found = latest(rows), {}
    for place, name in enumerate(names, start=1):
        points = [(row[0], float(row[place])) for row in ordered if row[place] is not None]
        if points:
            found[name] = curve(thin(points, most))
    return found


def of_scores(evaluations: Sequence[dict[str, Any]], most: int) -> dict[str, Curve]:
    """One for each value on the held-out rows."""
    told = [{"step": body["step"], **values_of(body)} for body in evaluations]
    names = dict.fromkeys(name for values in told for name in values if name != "step")
    found = {f"{HELD_OUT}{name}": series(told, name) for name in names}
    return {name: curve(thin(points, most)) for name, points in found.items() if points}


def of_prints(bodies: Sequence[dict[str, Any]], most: int) -> dict[str, Curve]:
    """Further numbers that a custom script printed with a step."""
    found: dict[str, Curve] = {}
    for name in sorted({name for body in bodies for name in body["values"]}):
        values = [{"step": body["step"], name: body["values"].get(name)} for body in bodies]
        found[name] = curve(thin(series(values, name), most))
    return found


def per_second(points: Points[float]) -> Points[float]:
    """A count that grows, as a rate. It begins anew with each attempt: what falls is left out."""
    found = []
    for (before_s, before), (at_s, count) in zip(points, points[1:], strict=False):
        if at_s > before_s and count >= before:
            found.append((at_s, (count - before) / (at_s - before_s)))
    return found


def shown_values(event: Any) -> dict[str, float]:
    """The finite numbers of an event, under the names of their curves."""
    found: dict[str, Any] = {}
    if event.type == "step":
        found = {
            name: getattr(event, name) for name in STEP_CURVES if name not in ("epoch", "elapsed_s")
        } | event.values
    elif event.type == "evaluation":
        found = {f"{HELD_OUT}{name}": value for name, value in event.values.items()}
    elif event.type == "metrics":
        found = event.values
    return {
        name: float(value) for name, value in found.items() if isinstance(value, int | float) and math.isfinite(value)
    }


def last_and_best(better: Better | None, value: float, before: Sequence[float | None] | None) -> list[float | None]:
    """`[last, best]` of a curve with one value more; best is None where neither high nor low is better."""
    best = before[1] if before else None
    if better is None:
        return [value, None]
    return [value, value if best is None else min(value, best) if better == "lower" else max(value, best)]


class Sparkline(NamedTuple):
    """A curve in few points, however long the run: every `every`-th value is kept, and ever fewer of them."""

    every: int = 1
    seen: int = 0
    points: Sequence[tuple[int, float]] = ()

    def with_point(self, step: int, value: float) -> Sparkline:
        """One value more. A job that goes on from a checkpoint draws its last steps anew."""
        if self.points and step <= self.points[-1][0]:
            kept = [point for point in self.points if point[0] < step]
            return Sparkline(self.every, len(kept) * self.every, kept).with_point(step, value)
        if self.seen % self.every:
            return self._replace(seen=self.seen + 1)
        every, points = self.every, [*self.points, (step, value)]
        if len(points) > SPARKLINE_POINTS:
            every, points = every * 2, points[::2]
        return Sparkline(every, self.seen + 1, points)
