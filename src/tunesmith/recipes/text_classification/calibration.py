"""Whether probabilities can be believed: calibration error, one temperature for all logits (arXiv:1706.04599), and the value
under which an answer is better called unsure."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from tunesmith.recipes.text_classification.scores import Predictions

BINS = 10
LEAST_ROWS = 20
"""Held-out rows from which a temperature and a threshold are chosen."""
COOLEST, HOTTEST, STEPS = 0.25, 10.0, 60
THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
LEAST_ANSWERED = 0.5
"""A threshold that leaves fewer of the rows answered is not taken by itself."""


def probabilities_of(logits: np.ndarray, *, is_multi: bool, temperature: float = 1.0) -> np.ndarray:
    """(rows, labels) of logits (rows, labels), float64."""
    scaled = logits.astype(np.float64) / temperature
    if is_multi:
        return np.asarray(0.5 * (1.0 + np.tanh(0.5 * scaled)))
    scaled -= scaled.max(1, keepdims=True)
    powers = np.exp(scaled)
    return np.asarray(powers / powers.sum(1, keepdims=True))


def loss_of(logits: np.ndarray, truth: np.ndarray, *, is_multi: bool, temperature: float = 1.0) -> float:
    """Mean cross-entropy, nats a row; with several labels binary, averaged over the labels."""
    scaled = logits.astype(np.float64) / temperature
    if is_multi:
        return float((np.logaddexp(0.0, scaled) - scaled * truth).mean())
    top = scaled.max(1)
    total = top + np.log(np.exp(scaled - top[:, None]).sum(1))
    return float((total - scaled[truth]).mean())


def best_temperature(logits: np.ndarray, truth: np.ndarray, *, is_multi: bool) -> float:
    """The one with the lowest loss, by golden-section search on its logarithm; the loss has one valley."""
    ratio = (5**0.5 - 1) / 2
    low, high = np.log(COOLEST), np.log(HOTTEST)
    for _ in range(STEPS):
        a, b = high - ratio * (high - low), low + ratio * (high - low)
        losses = [loss_of(logits, truth, is_multi=is_multi, temperature=float(np.exp(x))) for x in (a, b)]
        low, high = (low, b) if losses[0] <= losses[1] else (a, high)
    return float(np.exp((low + high) / 2))


def calibration_error(predictions: Predictions) -> float:
    """Expected calibration error: how far the probability of the likeliest label is from how often it is right, over bins."""
    return float(sum(row["rows"] * abs(row["probability"] - row["right"]) for row in reliability(predictions)) / max(
        1, len(predictions.truth)
    ))  # fmt: skip


def reliability(predictions: Predictions) -> list[dict[str, Any]]:
    """For each bin of probabilities of the likeliest label: rows, mean probability, and how many are right."""
    best, right = predictions.best, predictions.is_best_right
    place = np.minimum((best * BINS).astype(int), BINS - 1)
    return [
        {
            "from": n / BINS, "to": (n + 1) / BINS, "rows": int((place == n).sum()),
            "probability": float(best[place == n].mean()), "right": float(right[place == n].mean()),
        }
        for n in range(BINS) if (place == n).any()
    ]  # fmt: skip


class Calibrated(NamedTuple):
    """One temperature, and what it does."""

    temperature: float
    error_before: float
    error_after: float
    """Measured on rows that the temperature was not chosen on: two halves, each with that of the other."""


def calibrate(logits: np.ndarray, truth: np.ndarray, *, is_multi: bool) -> Calibrated:
    """The temperature is 1 with too few rows, where all of them are right (nothing shows how sure is too sure), and where
    another would be worse."""
    plain = Predictions(probabilities_of(logits, is_multi=is_multi), truth, is_multi)
    before = calibration_error(plain)
    if len(logits) < LEAST_ROWS or plain.is_right.all():
        return Calibrated(1.0, before, before)
    crossed = np.empty(logits.shape)
    halves = np.arange(len(logits)) % 2
    for half in (0, 1):
        other = best_temperature(logits[halves != half], truth[halves != half], is_multi=is_multi)
        crossed[halves == half] = probabilities_of(logits[halves == half], is_multi=is_multi, temperature=other)
    after = calibration_error(Predictions(crossed, truth, is_multi))
    if after >= before:
        return Calibrated(1.0, before, before)
    return Calibrated(best_temperature(logits, truth, is_multi=is_multi), before, after)


class Threshold(NamedTuple):
    """Under which probability an answer is called unsure, and why there."""

    value: float | None
    how: str


def coverage(predictions: Predictions, threshold: float) -> dict[str, Any]:
    """Which share of the rows is answered, and how many of the answers are right."""
    sure = predictions.best >= threshold
    right = float(predictions.is_best_right[sure].mean()) if sure.any() else None
    return {"threshold": threshold, "answered": float(sure.mean()), "accuracy": right, "rows": int(sure.sum())}


def choose_threshold(predictions: Predictions, asked: str | float | None, wanted: float) -> Threshold:
    """`asked`: a number, None, or `auto`: the lowest probability at which answers are right in a share of `wanted`."""
    if asked is None:
        return Threshold(None, "Switched off.")
    if asked != "auto":
        return Threshold(float(asked), "Set by hand.")
    count = len(predictions.truth)
    if count < LEAST_ROWS:
        return Threshold(None, f"None chosen: {count} held-out rows are too few, {LEAST_ROWS} are needed.")
    order = np.argsort(-predictions.best, kind="stable")
    best, right = predictions.best[order], np.cumsum(predictions.is_best_right[order]) / np.arange(1, count + 1)
    if right[-1] >= wanted:
        return Threshold(
            None, f"None needed: {right[-1]:.1%} of all held-out answers are right, {wanted:.1%} are wanted."
        )
    # rows of one probability are answered together or not at all
    is_end = np.append(best[1:] < best[:-1], True)
    enough = np.flatnonzero(is_end & (right >= wanted) & (np.arange(1, count + 1) >= LEAST_ANSWERED * count))
    if not len(enough):
        return Threshold(
            None,
            f"None chosen: no threshold makes {wanted:.1%} of the answers right and leaves half of the rows answered.",
        )
    last = int(enough[-1])  # not the last of all, or nothing would be needed
    value = float(best[last] + best[last + 1]) / 2
    told = coverage(predictions, value)
    return Threshold(
        value,
        f"The lowest at which at least {wanted:.1%} of the held-out answers are right: {told['accuracy']:.1%} of the "
        f"{told['answered']:.1%} that are answered. Chosen on these rows, so on others it may be a little less.",
    )
