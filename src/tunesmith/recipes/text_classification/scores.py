"""Scores of predictions: accuracy, precision, recall and F1 of each label, which labels are taken for which, intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

DECIDED = 0.5
"""Probability from which one of several labels counts as given."""
MOST_CONFUSIONS, EXAMPLES, TEXT_CHARS = 50, 5, 300
RESAMPLES = 500


class Predictions(NamedTuple):
    """What a model says of rows, and what is right."""

    probabilities: np.ndarray
    """(rows, labels), float64."""
    truth: np.ndarray
    """(rows, labels), bool: exactly one of each row unless there may be several."""
    is_multi: bool

    @property
    def given(self) -> np.ndarray:
        """(rows, labels), bool: the labels that the model puts on each row."""
        if self.is_multi:
            return self.probabilities >= DECIDED
        found = np.zeros(self.truth.shape, dtype=bool)
        found[np.arange(len(found)), self.probabilities.argmax(1)] = True
        return found

    @property
    def is_right(self) -> np.ndarray:
        """(rows,), bool: every label of the row right, and none too many."""
        return np.asarray((self.given == self.truth).all(1))

    @property
    def best(self) -> np.ndarray:
        """(rows,): the probability of the likeliest label."""
        return np.asarray(self.probabilities.max(1))

    @property
    def is_best_right(self) -> np.ndarray:
        """(rows,), bool: whether the likeliest label is one of the row's."""
        places = self.probabilities.argmax(1)
        return np.asarray(self.truth[np.arange(len(places)), places])

    def of(self, places: np.ndarray) -> Predictions:
        return Predictions(self.probabilities[places], self.truth[places], self.is_multi)


def f1_of(hits: np.ndarray, given: np.ndarray, support: np.ndarray) -> tuple[np.ndarray, float]:
    """Of each label, and the mean over labels that some row has or was given; (labels,) each."""
    f1 = 2.0 * hits / np.maximum(1.0, given + support)
    seen = (given + support) > 0
    return f1, float(f1[seen].mean()) if seen.any() else 0.0


def counts_of(predictions: Predictions) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(labels,) each: rows given the label and right, rows given it, rows that have it."""
    given, truth = predictions.given, predictions.truth
    return (given & truth).sum(0), given.sum(0), truth.sum(0)


def macro_f1(predictions: Predictions) -> float:
    return f1_of(*counts_of(predictions))[1]


def per_class(names: Sequence[str], predictions: Predictions, training: Sequence[int]) -> list[dict[str, Any]]:
    """Precision, recall and F1 of each label, with the rows that have it; null where nothing can be said."""
    hits, given, support = counts_of(predictions)
    f1, _ = f1_of(hits, given, support)
    return [
        {
            "label": name,
            "precision": float(hits[n] / given[n]) if given[n] else None,
            "recall": float(hits[n] / support[n]) if support[n] else None,
            "f1": float(f1[n]) if support[n] else None,
            "held_out_rows": int(support[n]),
            "training_rows": int(training[n]),
        }
        for n, name in enumerate(names)
    ]


def confusions(
    names: Sequence[str], predictions: Predictions, numbers: np.ndarray, texts: Sequence[str]
) -> list[dict[str, Any]]:
    """The most frequent mistakes with rows that show them, `numbers` (rows,) from 1. Where a row may have several labels, each
    that is missing or too many counts by itself, and the other side is empty."""
    found: dict[tuple[str, str], list[int]] = {}
    for row in np.flatnonzero(~predictions.is_right).tolist():
        truth, given = predictions.truth[row], predictions.given[row]
        missing = [names[n] for n in np.flatnonzero(truth & ~given).tolist()]
        extra = [names[n] for n in np.flatnonzero(given & ~truth).tolist()]
        pairs = [(m, e) for m in missing for e in extra] if not predictions.is_multi else (
            [(m, "") for m in missing] + [("", e) for e in extra]
        )  # fmt: skip
        for pair in pairs:
            found.setdefault(pair, []).append(row)
    ranked = sorted(found.items(), key=lambda item: (-len(item[1]), item[0]))[:MOST_CONFUSIONS]
    return [
        {
            "label": pair[0],
            "predicted": pair[1],
            "count": len(rows),
            "examples": [
                {"row": int(numbers[row]), "text": shortened(texts[row]), "score": float(predictions.best[row])}
                for row in rows[:EXAMPLES]
            ],
        }
        for pair, rows in ranked
    ]


def shortened(text: str) -> str:
    return text if len(text) <= TEXT_CHARS else text[: TEXT_CHARS - 1] + "…"


def resampled(predictions: Predictions, seed: int) -> tuple[float, float]:
    """A 95 % interval of macro F1, by drawing rows again with replacement."""
    rng = np.random.default_rng([seed, 0xB007])
    count = len(predictions.truth)
    given, truth = predictions.given.astype(np.int32), predictions.truth.astype(np.int32)
    both = given * truth
    drawn = []
    for _ in range(RESAMPLES):
        often = np.bincount(rng.integers(0, count, count), minlength=count)
        drawn.append(f1_of(often @ both, often @ given, often @ truth)[1])
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)
