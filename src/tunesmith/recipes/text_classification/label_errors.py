"""Rows whose label is probably wrong, by confident learning (arXiv:1911.00068): another label is at least as probable there as it
usually is on rows that have it, and more probable than the row's own. A guess, for a person to look at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tunesmith.recipes.text_classification.scores import DECIDED, Predictions, shortened

MOST_LISTED = 200
SURELY = 0.9
"""Several labels a text: a label that is missing with this probability, or given in spite of what is left to 1, is suspicious."""


def usual_confidence(predictions: Predictions) -> np.ndarray:
    """(labels,): the mean probability of a label on rows that have it; more than 1 where none has."""
    probabilities, truth = predictions.probabilities, predictions.truth
    support = truth.sum(0)
    return np.where(support > 0, (probabilities * truth).sum(0) / np.maximum(1, support), 2.0)


def suspects(predictions: Predictions) -> list[tuple[int, int, int]]:
    """`(row, label given, likelier label)` by place, the most suspicious first; -1 for a label that is missing or too many."""
    probabilities, truth = predictions.probabilities, predictions.truth
    if predictions.is_multi:
        wrong = np.where(truth, probabilities <= 1 - SURELY, probabilities >= SURELY)
        rows, labels = np.nonzero(wrong)
        doubt = np.abs(truth[rows, labels] - probabilities[rows, labels])
        order = np.argsort(-doubt, kind="stable")
        return [
            (int(r), int(n), -1) if truth[r, n] else (int(r), -1, int(n))
            for r, n in zip(rows[order], labels[order], strict=True)
        ]
    own = truth.argmax(1)
    bold = np.where(probabilities >= np.minimum(usual_confidence(predictions), 1 - 1e-9), probabilities, -1.0)
    bold[np.arange(len(own)), own] = -1.0
    other = bold.argmax(1)
    there = np.arange(len(own))
    mine = probabilities[there, own]
    found = np.flatnonzero((bold[there, other] > mine) & (bold[there, other] >= min(DECIDED, 2 / truth.shape[1])))
    order = found[np.argsort(mine[found] - probabilities[found, other[found]], kind="stable")]
    return [(int(row), int(own[row]), int(other[row])) for row in order]


def listed(
    names: Sequence[str], predictions: Predictions, numbers: np.ndarray, texts: Sequence[str], *, learned: bool
) -> list[dict[str, Any]]:
    """As the report has them. `numbers` (rows,) from 1; `learned`: whether the model was trained on these rows."""
    return [
        {
            "row": int(numbers[row]),
            "text": shortened(texts[row]),
            "label": names[own] if own >= 0 else "",
            "likelier": names[other] if other >= 0 else "",
            "label_score": float(predictions.probabilities[row, own]) if own >= 0 else None,
            "likelier_score": float(predictions.probabilities[row, other]) if other >= 0 else None,
            "learned": learned,
        }
        for row, own, other in suspects(predictions)
    ]


def doubt_of(one: dict[str, Any]) -> float:
    """How suspicious a listed row is, 0 to 1."""
    own = one["label_score"] if one["label_score"] is not None else 0.0
    other = one["likelier_score"] if one["likelier_score"] is not None else 1.0
    return float(other - own)


def contradictions(contents: np.ndarray, labels: Sequence[tuple[str, ...] | None]) -> list[list[int]]:
    """Rows, numbers from 1, whose texts are equal and whose labels are not; one list a text."""
    alike: dict[int, list[int]] = {}
    _, inverse, sizes = np.unique(contents, return_inverse=True, return_counts=True)
    for row in np.flatnonzero(sizes[inverse] > 1).tolist():
        if labels[row] is not None:
            alike.setdefault(int(inverse[row]), []).append(row)
    return [
        [row + 1 for row in rows] for rows in alike.values() if len({frozenset(labels[row] or ()) for row in rows}) > 1
    ]
