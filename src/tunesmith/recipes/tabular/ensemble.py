"""From the models' predictions to one answer: weights by greedy selection, calibrated probabilities, bounds of numbers.
All of it is chosen on out-of-fold predictions, and is a few numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tunesmith.recipes.tabular import scores

ROUNDS = 25
COVERAGE = 0.9
"""Share of true values that the bounds of a number should hold."""
TEMPERATURES = np.exp(np.linspace(math.log(0.25), math.log(4), 41))
LEAST_GAIN = 0.001
"""Relative gain in log loss, on rows that a calibration was not chosen on, from which it is used."""
MAX_STEPS = 100
"""Of an isotonic calibration: steps kept."""


def greedy_weights(predictions: Mapping[str, np.ndarray], y: np.ndarray, metric: str) -> dict[str, float]:
    """Model → weight (sum 1). Each round adds the model, again if need be, that makes the mean best (Caruana et al. 2004); the
    best of all rounds is kept, so no mixture scores worse here than its best part."""
    names = list(predictions)
    counts = dict.fromkeys(names, 0)
    total = np.zeros_like(predictions[names[0]])
    best_score, best_counts = math.inf, counts
    for size in range(1, ROUNDS + 1):
        tried = {name: scores.score(metric, (total + predictions[name]) / size, y) for name in names}
        chosen = min(names, key=lambda name: (tried[name], names.index(name)))
        total = total + predictions[chosen]
        counts = {**counts, chosen: counts[chosen] + 1}
        if tried[chosen] < best_score - 1e-12:
            best_score, best_counts = tried[chosen], counts
    size = sum(best_counts.values())
    return {name: count / size for name, count in best_counts.items() if count}


def mixed(predictions: Mapping[str, np.ndarray], weights: Mapping[str, float]) -> np.ndarray:
    """The weighted mean. Every name of `weights` must be in `predictions`."""
    parts = [predictions[name] * weight for name, weight in weights.items()]
    return np.sum(parts, axis=0)


def tempered(p: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities made bolder (below 1) or more careful (above)."""
    logits = np.log(np.clip(p, scores.LEAST_P, 1)) / temperature
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def calibrated(p: np.ndarray, calibration: Mapping[str, Any] | None) -> np.ndarray:
    """Probabilities as `fit_calibration` corrects them."""
    if not calibration:
        return p
    if calibration["method"] == "temperature":
        return tempered(p, calibration["temperature"])
    second = np.interp(p[:, 1], calibration["x"], calibration["y"])
    return np.stack([1 - second, second], axis=1)


def fit_calibration(p: np.ndarray, y: np.ndarray, parts: np.ndarray) -> tuple[dict[str, Any] | None, dict[str, float]]:
    """`(the calibration or None, log loss of each way)`. Each way is chosen on some parts of the rows and scored on another; the
    best is used where it gains enough, and then chosen on all rows."""
    ways: list[str] = ["temperature", *(["isotonic"] if p.shape[1] == 2 and len(y) >= 1000 else [])]
    found = {"none": scores.log_loss(p, y)}
    names = np.unique(parts)
    if len(names) < 2:
        return None, found
    for way in ways:
        losses = []
        for name in names:
            there = parts == name
            losses.append(scores.row_losses(calibrated(p[there], _fitted(way, p[~there], y[~there])), y[there]))
        found[way] = float(np.mean(np.concatenate(losses)))
    best = min(found, key=lambda way: found[way])
    if best == "none" or found[best] > found["none"] * (1 - LEAST_GAIN):
        return None, found
    return _fitted(best, p, y), found


def _fitted(way: str, p: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    if way == "temperature":
        losses = [scores.log_loss(tempered(p, float(t)), y) for t in TEMPERATURES]
        return {"method": "temperature", "temperature": float(TEMPERATURES[int(np.argmin(losses))])}
    from sklearn.isotonic import IsotonicRegression

    fitted = IsotonicRegression(y_min=0.5 / len(y), y_max=1 - 0.5 / len(y), out_of_bounds="clip").fit(p[:, 1], y)
    x, steps = fitted.X_thresholds_, fitted.y_thresholds_
    if len(x) > MAX_STEPS:
        kept = np.unique(np.linspace(0, len(x) - 1, MAX_STEPS).astype(int))
        x, steps = x[kept], steps[kept]
    return {"method": "isotonic", "x": [float(v) for v in x], "y": [float(v) for v in steps]}


def conformal_bound(prediction: np.ndarray, y: np.ndarray) -> float:
    """How far from a prediction the bounds lie: at least `COVERAGE` of new rows like these fall between them (split conformal
    prediction on out-of-fold residuals, with its correction for few rows)."""
    residuals = np.sort(np.abs(y - prediction))
    place = math.ceil((len(residuals) + 1) * COVERAGE) - 1
    return float(residuals[min(place, len(residuals) - 1)])


def answers_of_classes(
    p: np.ndarray, classes: Sequence[Any], unsure_below: float, top: int | None
) -> list[list[dict[str, Any]]]:
    """Labels with probabilities, the likeliest first. Where the likeliest is below `unsure_below` the list begins with `unsure`, and
    its score is the probability that the likeliest label is wrong."""
    order = np.argsort(-p, axis=1, kind="stable")[:, :top]
    found = []
    for row, places in zip(p, order, strict=True):
        labels = [{"label": classes[place], "score": float(row[place])} for place in places]
        if row[places[0]] < unsure_below:
            labels.insert(0, {"label": UNSURE, "score": float(1 - row[places[0]])})
        found.append(labels)
    return found


UNSURE = "unsure"
