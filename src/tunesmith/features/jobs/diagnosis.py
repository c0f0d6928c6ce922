"""What a curve says, in words, with what to do. Pure: numbers in, sentences out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, median
from typing import Any

from tunesmith.core.metrics import MetricSpec
from tunesmith.schemas.jobs import Diagnosis

MIN_POINTS = 8
"""Losses below which nothing is said: a trend needs some points."""
WINDOW = 200
"""Losses looked at: what happened long ago does not matter now."""
RISING = 0.10
"""Growth of the smoothed loss over the window, as a share, that counts as rising."""
PLATEAU = 0.005
"""Change, as a share, below which the loss stands still."""
OSCILLATING = 0.35
"""Mean jump between neighbouring losses, as a share of their mean, that counts as oscillating."""
OVERFITTING = 0.05
"""Held-out loss above its best, as a share, that counts as overfitting."""
LARGEST = 1e30
"""Losses beyond it are taken as it."""
HIGH_GRADIENT = 10.0
VANISHING_GRADIENT = 1e-5

Series = Sequence[tuple[int, float]]
"""`(step, value)`, by step."""


RATES = {"nan": 1 / 3, "rising": 0.5, "oscillating": 0.5, "high_gradients": 0.5, "vanishing_gradients": 2.0}
"""Code → the factor by which another learning rate deals with it."""


LOSS = MetricSpec(name="loss", title="Loss", better="lower", is_primary=True)


def diagnose(
    loss: Series,
    held_out: Series = (),
    grad_norm: Series = (),
    settings: Mapping[str, Any] | None = None,
    metric: MetricSpec = LOSS,
) -> list[Diagnosis]:
    """Every problem that the series show, the gravest first; `healthy` alone when there is none; nothing when too early.
    `held_out`: what `metric` was on held-out rows. `settings`: the job's own, from which those of a better one are told."""
    found = _found(loss, held_out, grad_norm, metric)
    return [each.model_copy(update={"changes": _changes(each.code, settings or {})}) for each in found]


def _changes(code: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    if code == "overfitting":
        stopping = settings.get("early_stopping")
        is_off = isinstance(stopping, dict) and not stopping.get("enabled")
        return {} if not is_off else {"early_stopping": {"enabled": True}, "save_best_model": True}
    rate = settings.get("learning_rate")
    if code not in RATES or not isinstance(rate, float) or not rate > 0:
        return {}
    return {"learning_rate": float(f"{min(1.0, rate * RATES[code]):.2g}")} | ({"fp16": False} if code == "nan" else {})


def _found(loss: Series, held_out: Series, grad_norm: Series, metric: MetricSpec) -> list[Diagnosis]:
    if any(not math.isfinite(value) for _, value in loss[-WINDOW:]):
        return [_not_a_number(loss[-WINDOW:], LOSS)]
    if any(not math.isfinite(value) for _, value in held_out):
        return [_not_a_number(held_out, metric)]
    values = [_bounded(value) for _, value in loss[-WINDOW:]]
    norms = [value for _, value in grad_norm[-WINDOW:] if math.isfinite(value)]
    if len(values) < MIN_POINTS:
        return []
    found = [*_of_gradients(norms), *_of_held_out(held_out, metric), *_of_loss(values)]
    order = {"error": 0, "warning": 1, "info": 2}
    found.sort(key=lambda d: order[d.severity])
    return found or [
        Diagnosis(
            code="healthy",
            severity="info",
            message=f"The loss falls steadily: {_mean_of_start(values):.3g} to {_mean_of_end(values):.3g}.",
            advice="Nothing to do.",
        )
    ]


def _not_a_number(series: Series, metric: MetricSpec) -> Diagnosis:
    step = next(step for step, value in series if not math.isfinite(value))
    return Diagnosis(
        code="nan",
        severity="error",
        message=f"The {_word(metric)} is not a number since step {step}.",
        advice="Lower the learning rate to a third, keep gradients clipped at a norm of 1, and use bfloat16 rather than float16.",
    )


def _of_gradients(norms: list[float]) -> list[Diagnosis]:
    if len(norms) < MIN_POINTS:
        return []
    typical = median(norms[-max(MIN_POINTS, len(norms) // 4) :])
    if typical > HIGH_GRADIENT:
        return [
            Diagnosis(
                code="high_gradients",
                severity="warning",
                message=f"Gradients are large: a norm of about {typical:.3g}.",
                advice="Lower the learning rate or lengthen the warm-up; clipping gradients at a norm of 1 keeps single steps in bounds.",
            )
        ]
    if typical < VANISHING_GRADIENT:
        return [
            Diagnosis(
                code="vanishing_gradients",
                severity="warning",
                message=f"Gradients have all but vanished: a norm of about {typical:.3g}.",
                advice="Nothing more is learned. Raise the learning rate, check that the rows have answers, or stop here.",
            )
        ]
    return []


def _word(metric: MetricSpec) -> str:
    """Its title within a sentence."""
    return metric.title if metric.title[:2].isupper() else metric.title[:1].lower() + metric.title[1:]


def _of_held_out(held_out: Series, metric: MetricSpec) -> list[Diagnosis]:
    if len(held_out) < 2 or metric.better is None:
        return []
    sign = 1.0 if metric.better == "lower" else -1.0
    best_step, best = min(held_out, key=lambda point: sign * point[1])
    last = held_out[-1][1]
    if sign * (last - best) <= OVERFITTING * max(abs(best), 1e-9):
        return []
    went = "risen" if metric.better == "lower" else "fallen"
    return [
        Diagnosis(
            code="overfitting",
            severity="warning",
            message=f"The held-out {_word(metric)} was best at step {best_step} ({best:.3g}) and has {went} to {last:.3g}.",
            advice="The model memorizes the rows. Train for fewer epochs, add rows, or stop early; the best weights can "
            "be kept.",
        )
    ]


def _of_loss(values: list[float]) -> list[Diagnosis]:
    start, end, level = _mean_of_start(values), _mean_of_end(values), max(abs(fmean(values)), 1e-9)
    change = (end - start) / max(abs(start), 1e-9)
    jumps = fmean(abs(b - a) for a, b in zip(values, values[1:], strict=False)) / level
    turns = sum((b - a) * (c - b) < 0 for a, b, c in zip(values, values[1:], values[2:], strict=False))
    if change > RISING:
        return [
            Diagnosis(
                code="rising",
                severity="warning",
                message=f"The loss rises: {start:.3g} to {end:.3g} over the last {len(values)} points.",
                advice="Lower the learning rate, by half or more; it can be changed while the job runs.",
            )
        ]
    if jumps > OSCILLATING and turns > len(values) / 3:
        return [
            Diagnosis(
                code="oscillating",
                severity="warning",
                message=f"The loss jumps by {jumps:.0%} from one point to the next.",
                advice="Lower the learning rate, or accumulate more gradients so that each step sees more rows.",
            )
        ]
    if abs(change) < PLATEAU and len(values) >= 3 * MIN_POINTS:
        return [
            Diagnosis(
                code="plateau",
                severity="info",
                message=f"The loss stands still at about {end:.3g}.",
                advice="Raise the learning rate or the LoRA rank if it should fall further; otherwise stop here.",
            )
        ]
    return []


def _bounded(value: float) -> float:
    """Sums and quotients of losses must stay finite, whatever a script printed."""
    return max(-LARGEST, min(LARGEST, value))


def _mean_of_start(values: list[float]) -> float:
    return fmean(values[: max(2, len(values) // 4)])


def _mean_of_end(values: list[float]) -> float:
    return fmean(values[-max(2, len(values) // 4) :])
