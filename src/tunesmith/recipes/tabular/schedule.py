"""How many folds of which models fit into the time limit, and at what learning rate. Pure; rests on a few trial iterations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

USUAL_RATE, HIGH_RATE, MOST_RATE = 0.05, 0.12, 0.3
NEEDED = {"lightgbm": 20.0, "catboost": 50.0}
"""Learning rate times iterations that a model usually wants: with fewer iterations, larger steps."""
AMPLE = 2.5
"""Times the iterations wanted at the usual rate: no model needs more time than for these."""
LINEAR_SHARE = 0.1
"""Of the time, kept for the linear model where there is one."""


class Schedule(NamedTuple):
    """What is fitted."""

    models: list[str]
    num_folds: int
    rates: dict[str, float]
    """Learning rate by model."""
    weights: dict[str, float]
    """How the time is shared out over the fits to come, by model; empty without a limit."""
    affordable: dict[str, int] = {}
    """Iterations of a fit that the time is enough for, by model; empty without a limit."""


def unlimited(models: Sequence[str], num_folds: int, rate: float | None) -> Schedule:
    """Everything, at the usual rate or the one that was set."""
    return Schedule(list(models), num_folds, dict.fromkeys(models, rate or USUAL_RATE), {})


def within(
    seconds: Mapping[str, float],
    models: Sequence[str],
    num_folds: int,
    budget_s: float,
    *,
    rate: float | None,
    keeps_folds: bool,
) -> Schedule:
    """`seconds`: what an iteration of each boosted model takes. Fewer folds where time is short; where not even two folds of all
    models come to something, LightGBM alone (or the quickest). `keeps_folds`: never fewer folds."""
    boosted = [model for model in models if model in seconds]
    if not boosted:
        return unlimited(models, num_folds, rate)
    budget_s *= 1 - LINEAR_SHARE if "linear" in models else 1
    least = {model: seconds[model] * NEEDED[model] / (rate or HIGH_RATE) for model in boosted}
    quickest = min(boosted, key=lambda model: least[model])
    choices = [num_folds] if keeps_folds else list(range(num_folds, 0, -1))
    tried = [(boosted, count) for count in choices if count >= 2] + [([quickest], count) for count in choices]
    chosen, count = next(
        ((kept, count) for kept, count in tried if count * sum(least[model] for model in kept) <= budget_s), tried[-1]
    )
    shares = _shared_out(
        {model: AMPLE * count * seconds[model] * NEEDED[model] / (rate or USUAL_RATE) for model in chosen}, budget_s
    )
    affordable = {model: max(1, int(shares[model] / count / seconds[model])) for model in chosen}
    rates = {m: rate or float(f"{min(MOST_RATE, max(USUAL_RATE, NEEDED[m] / affordable[m])):.1g}") for m in chosen}
    kept_models = [model for model in models if model in chosen or model == "linear"]
    weights = {model: shares.get(model, LINEAR_SHARE * budget_s) / count for model in kept_models}
    return Schedule(kept_models, count, {"linear": USUAL_RATE} | rates, weights, affordable)


def _shared_out(wanted: Mapping[str, float], budget: float) -> dict[str, float]:
    """Equal shares; what a cheap model does not want goes to the others."""
    found: dict[str, float] = {}
    for place, model in enumerate(sorted(wanted, key=lambda each: wanted[each])):
        found[model] = min(wanted[model], (budget - sum(found.values())) / (len(wanted) - place))
    return found
