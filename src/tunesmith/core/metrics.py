"""The numbers that jobs report: what they are called, in which unit they are, and which way is better."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Better = Literal["lower", "higher"]
HELD_OUT = "eval_"
"""Before the name of a metric: measured on held-out rows."""
BEFORE_NAMES = (HELD_OUT, "cv_", "train_", "best_", "check_")
LOWER = re.compile(r"loss|perplexity|latency|error|(?:^|_)(?:wer|cer|rmse|mae|ece)(?:_|$)|bits_per_byte", re.I)
HIGHER = re.compile(
    r"accuracy|tokens_per_s|samples_per_s|(?:^|_)mfu$|(?:^|_)(?:f1|score|bleu|chrf|rouge\w*|precision|recall|auc|r2|match)(?:_|$)",
    re.I,
)


@dataclass(frozen=True, kw_only=True)
class MetricSpec:
    """One number that a recipe reports. On steps its curve has the metric's name, on held-out rows `eval_<name>`."""

    name: str
    """The key in `values` of step and evaluation events."""
    title: str
    unit: str = ""
    better: Literal["lower", "higher"] | None = "lower"
    """None where neither is."""
    is_primary: bool = False
    """Whether it stands for the run: it chooses the best checkpoint, and is what lists, comparisons and gates look at."""

    def is_better(self, value: float, than: float | None) -> bool:
        """Whether `value` beats what was the best so far. What is no number beats nothing."""
        if than is None or self.better is None:
            return math.isfinite(value)
        return value < than if self.better == "lower" else value > than


def metric_of(name: str, metrics: Sequence[MetricSpec]) -> MetricSpec | None:
    """The metric that a number is of: `eval_accuracy` and `cv_accuracy` are accuracy."""
    known = {metric.name: metric for metric in metrics}
    plain = name.rpartition("/")[2]
    while plain not in known and (before := next((b for b in BEFORE_NAMES if plain.startswith(b)), "")):
        plain = plain.removeprefix(before)
    return known.get(plain)


def better_of(name: str, metrics: Sequence[MetricSpec] = ()) -> Better | None:
    """Which way is better, as the recipe says; of numbers that it does not name, such as those of a custom script, a guess
    from the name, and None for those that say nothing about quality."""
    if metric := metric_of(name, metrics):
        return metric.better
    plain = name.rpartition("/")[2]
    return "lower" if LOWER.search(plain) else "higher" if HIGHER.search(plain) else None


def title_of(name: str, metrics: Sequence[MetricSpec] = ()) -> str:
    """`Held-out accuracy` of `eval_accuracy`."""
    metric = metric_of(name, metrics)
    is_held_out = name.startswith(HELD_OUT)
    plain = metric.title if metric else name.removeprefix(HELD_OUT).replace("_", " ")
    if is_held_out:
        return f"Held-out {plain[:1].lower() + plain[1:] if not plain[:2].isupper() else plain}"
    return plain[:1].upper() + plain[1:]


def values_of(body: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a stored step or evaluation; those of before stand beside the rest."""
    if "values" in body:
        return dict(body["values"])
    found = {name: body[name] for name in ("loss", "perplexity") if body.get(name) is not None}
    return found | (body.get("metrics") or {})
