"""Metrics and scores as plain numbers, and which way is better."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable
from typing import Any, NamedTuple, TypeGuard

from tunesmith.core.errors import InvalidInput
from tunesmith.core.metrics import HELD_OUT, MetricSpec, metric_of
from tunesmith.features.registry.tables import VersionRow
from tunesmith.recipes.catalog import metrics_of

LOWER = re.compile(
    r"loss|perplexity|latency|error|\bwer\b|\bcer\b|time|seconds|_s$|bits_per_byte|size|bytes|memory|ece", re.I
)
"""Names of numbers that are better when they are lower."""
SIGN = re.compile(r"[<>=!]=?")
METRIC = re.compile(r"[A-Za-z0-9_./@:-]{1,120}")
MAX_CONDITION = 200
NOT_QUALITY = (
    "training_s", "evaluation_s", "checkpoint_s", "train_steps", "train_tokens", "steps", "epochs", "num_samples",
)  # fmt: skip
"""Numbers of a training that say nothing about how good the model is."""
OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "=": operator.eq, "==": operator.eq,
    "!=": operator.ne,
}  # fmt: skip
PREFERRED = ("eval_loss", "perplexity", "loss", "train_loss")
"""What stands for how good a model is, the first that there is."""


class Condition(NamedTuple):
    """`eval_loss<1.2`"""

    metric: str
    sign: str
    value: float

    def holds(self, row: VersionRow) -> bool:
        """Versions without the metric do not fulfil a condition on it."""
        found = numbers(row).get(self.metric)
        return found is not None and OPERATORS[self.sign](found, self.value)


def parse_condition(text: str) -> Condition:
    """Raises `InvalidInput`."""
    sign = SIGN.search(text[:MAX_CONDITION])
    metric, number = (text[: sign.start()].strip(), text[sign.end() :].strip()) if sign else (text, "")
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if sign is None or sign[0] not in OPERATORS or not METRIC.fullmatch(metric) or not math.isfinite(value):
        raise InvalidInput(
            f"{text[:120]!r} is not a condition on a metric.",
            hint="Write a metric, one of < <= > >= = !=, and a number: eval_loss<1.2",
            details=[{"loc": "metric", "message": "not a condition such as eval_loss<1.2"}],
        )
    return Condition(metric, sign[0], value)


def numbers(row: VersionRow) -> dict[str, float]:
    """Every finite number: metrics of the training, then scores under their own names and as `<evaluation>/<score>`."""
    found = {name: float(value) for name, value in row.metrics.items() if _is_number(value)}
    for evaluation, scores in row.scores.items():
        for name, score in score_items(scores):
            value = score.get("value") if isinstance(score, dict) else score
            if _is_number(value):
                found[name] = found[f"{evaluation}/{name}"] = float(value)
    return found


def score_items(scores: Any) -> list[tuple[str, Any]]:
    """`(name, score)` of one evaluation, whether they lie under `scores` or on top."""
    inner = scores.get("scores", scores) if isinstance(scores, dict) else {}
    return list(inner.items()) if isinstance(inner, dict) else []


def read_scores(told: Any) -> list[dict[str, Any]]:
    """Those of one evaluation that have a value, each with its `name`; intervals may lie beside the values or in `about`."""
    about = told.get("about") if isinstance(told, dict) else None
    intervals = about.get("intervals") or {} if isinstance(about, dict) else {}
    found = []
    for name, score in score_items(told):
        beside = dict(score) if isinstance(score, dict) else {"value": score}
        if name in intervals:
            beside |= zip(("low", "high", "num_samples"), intervals[name], strict=True)
        if _is_number(beside.get("value")):
            found.append({**beside, "name": name})
    return found


def higher_is_better(name: str, row: VersionRow | None = None) -> bool | None:
    """As the evaluation says, else by its name; None for what says nothing about quality."""
    plain = name.rpartition("/")[2]
    if plain in NOT_QUALITY:
        return None
    for scores in row.scores.values() if row else ():
        for known, score in score_items(scores):
            if known == plain and isinstance(score, dict) and isinstance(score.get("higher_is_better"), bool):
                return bool(score["higher_is_better"])
    if metric := metric_of(plain, _metrics(row)):
        return None if metric.better is None else metric.better == "higher"
    return not LOWER.search(plain)


def _metrics(row: VersionRow | None) -> tuple[MetricSpec, ...]:
    """Those of the method that made the version."""
    return metrics_of(str(row.lineage.get("method"))) if row else ()


def best_known(rows: list[VersionRow]) -> str | None:
    """The metric that stands for a model's quality: of those that most versions have, the usual ones first."""
    counts: dict[str, int] = {}
    for row in rows:
        for name in numbers(row):
            if "/" not in name and higher_is_better(name, row) is not None:
                counts[name] = counts.get(name, 0) + 1
    primaries = [f"{HELD_OUT}{metric.name}" for row in rows for metric in _metrics(row) if metric.is_primary]
    order = {name: place for place, name in enumerate(dict.fromkeys([*primaries, *PREFERRED]))}
    ranked = sorted(counts, key=lambda name: (-counts[name], order.get(name, len(order)), name))
    return ranked[0] if ranked else None


def storable(value: Any) -> Any:
    """The same with null for numbers that no JSON has, such as the loss of a training that went astray."""
    if isinstance(value, dict):
        return {name: storable(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [storable(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
