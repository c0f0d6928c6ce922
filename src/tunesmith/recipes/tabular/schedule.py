"""How many folds of which models fit into the time limit, and at what learning rate. Pure; rests on a few trial iterations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

USUAL_RATE, HIGH_RATE, MOST_RATE = 0.05, 0.2, 0.3
NEEDED = {"lightgbm": 20.0, "catboost": 50.0}
"""Learning rate times iterations that a model usually wants: with fewer iterations, larger steps."""
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
    need_s = count * sum(least[model] for model in chosen)
    found = rate or min(MOST_RATE, max(USUAL_RATE, HIGH_RATE * need_s / max(1e-9, budget_s)))
    found = rate or float(f"{found:.1g}")
    kept_models = [model for model in models if model in chosen or model == "linear"]
    mean = sum(least[model] for model in chosen) / len(chosen)
    weights = {model: least.get(model, LINEAR_SHARE * mean) for model in kept_models}
    of_fit = {model: budget_s / count * least[model] / sum(least[each] for each in chosen) for model in chosen}
    affordable = {model: int(of_fit[model] / seconds[model]) for model in chosen}
    return Schedule(kept_models, count, dict.fromkeys(kept_models, found), weights, affordable)
