"""Columns that know too much: the target under another name, or something that was written down after it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import NamedTuple

import numpy as np

from tunesmith.core.words import plural
from tunesmith.recipes.tabular.columns import Column

NEARLY_ALL = 0.999
"""ROC AUC or R² of one column alone from which it is suspicious."""
MAX_ROWS = 50_000
"""Rows looked at, evenly spread."""
LEAST_PER_CATEGORY = 5
"""Rows for each category of a column, on average, below which it tells rows apart rather than the target."""


class Leak(NamedTuple):
    """One suspicious column."""

    column: str
    score: float
    """ROC AUC or R² of the column alone, 0 to 1."""
    sentence: str


def find_leaks(
    columns: tuple[Column, ...], values: Mapping[str, np.ndarray], y: np.ndarray, num_classes: int
) -> list[Leak]:
    """Columns that alone tell (nearly) all of the target. `num_classes` is 0 for a number."""
    every = max(1, len(y) // MAX_ROWS)
    y = y[::every]
    found = []
    for column in columns:
        mine = values[column.name][::every]
        if column.type == "text":
            continue
        score = (
            _of_categories(column, mine, y, num_classes)
            if column.type == "category"
            else _of_numbers(mine, y, num_classes)
        )
        if score > NEARLY_ALL:
            what = "ROC AUC" if num_classes else "R²"
            copy = score >= 1 - 1e-12
            said = (
                "tells the target in every row"
                if copy
                else f"alone tells nearly all of the target ({what} {score:.5f})"
            )
            found.append(Leak(column.name, score, f"{column.name} {said}"))
    return found


def future_dates(columns: tuple[Column, ...], values: Mapping[str, np.ndarray], now_s: float) -> dict[str, int]:
    """Column → dates later than now, a day's grace for time zones."""
    counts = {c.name: int(np.sum(values[c.name] > now_s + 86_400)) for c in columns if c.type == "date"}
    return {name: count for name, count in counts.items() if count}


def future_sentence(counts: Mapping[str, int]) -> str:
    """What is said of dates that have not come yet."""
    today = datetime.now(UTC).date()
    return (
        "Dates after "
        + f"{today}: "
        + ", ".join(f"{plural(count, 'row')} of {name}" for name, count in counts.items())
        + "."
    )


def _of_numbers(values: np.ndarray, y: np.ndarray, num_classes: int) -> float:
    there = ~np.isnan(values)
    if there.sum() < 20 or there.mean() < 0.5:
        return 0.0
    x, y = values[there], y[there]
    if not num_classes:
        return max(_squared_correlation(x, y), _squared_correlation(_ranks(x), _ranks(y)))
    present = [place for place in range(num_classes) if 0 < np.sum(y == place) < len(y)]
    if len(present) < 2:
        return 0.0
    if len(np.unique(x)) <= 2 * num_classes:  # codes rather than amounts: their order says nothing
        return _purity(np.unique(x, return_inverse=True)[1], y, num_classes)
    ranks = _ranks(x)
    scores = [_auc(ranks, y == place) for place in present]
    return (
        min(max(score, 1 - score) for score in scores)
        if num_classes == 2
        else min(scores_of_order(ranks, y, num_classes), 1.0)
    )


def scores_of_order(ranks: np.ndarray, y: np.ndarray, num_classes: int) -> float:
    """1 when each class fills a range of its own; the share of neighbours in order that are of one class, roughly."""
    order = np.argsort(ranks, kind="stable")
    changes = int(np.sum(np.diff(y[order]) != 0))
    least = num_classes - 1
    return 1 - (changes - least) / max(1, len(y) - 1)


def _of_categories(column: Column, values: np.ndarray, y: np.ndarray, num_classes: int) -> float:
    there = np.asarray([value is not None for value in values])
    if there.sum() < 20 or there.mean() < 0.5 or there.sum() < LEAST_PER_CATEGORY * len(column.choices):
        return 0.0
    codes = np.unique(values[there].astype(str), return_inverse=True)[1]
    y = y[there]
    if num_classes:
        return _purity(codes, y, num_classes)
    sums, counts = np.bincount(codes, weights=y), np.bincount(codes)
    spread = float(np.sum((y - y.mean()) ** 2))
    return 1 - float(np.sum((y - (sums / counts)[codes]) ** 2)) / spread if spread else 0.0


def _purity(codes: np.ndarray, y: np.ndarray, num_classes: int) -> float:
    """1 when each code has one class only; scaled so that always saying the likeliest class is 0."""
    table = np.zeros((codes.max() + 1, num_classes))
    np.add.at(table, (codes, y.astype(np.int64)), 1)
    base = float(np.bincount(y.astype(np.int64)).max()) / len(y)
    right = float(table.max(axis=1).sum()) / len(y)
    return (right - base) / (1 - base) if base < 1 else 0.0


def _ranks(x: np.ndarray) -> np.ndarray:
    """Average ranks, from 0."""
    _, inverse, counts = np.unique(x, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return ((ends - counts + ends - 1) / 2)[inverse]


def _auc(ranks: np.ndarray, is_one: np.ndarray) -> float:
    ones, others = int(is_one.sum()), int((~is_one).sum())
    return float((ranks[is_one].sum() - ones * (ones - 1) / 2) / (ones * others))


def _squared_correlation(x: np.ndarray, y: np.ndarray) -> float:
    if x.std() == 0 or y.std() == 0:
        return 0.0
    return float(np.corrcoef(x, y)[0, 1] ** 2)
