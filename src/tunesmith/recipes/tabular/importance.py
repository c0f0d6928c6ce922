"""What the columns matter: how much worse the predictions get when one column's values are shuffled among the rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tunesmith.core.clock import monotonic_s
from tunesmith.recipes.tabular import scores
from tunesmith.recipes.tabular.encoding import Encoding

MAX_ROWS, REPEATS = 1000, 3


def permutation_importance(
    predict: Callable[[np.ndarray], np.ndarray], encoding: Encoding, x: np.ndarray, y: np.ndarray, *, seed: int,
    most_s: float | None, on_column: Callable[[int, int], None],
) -> tuple[list[dict[str, Any]], list[str]]:  # fmt: skip
    """`(columns, those that were not reached in time)`. Each `{column, value, low, high}`: the mean rise of a row's loss (log loss,
    or squared error), with a 95 % interval over rows; the largest first. An interval that holds 0 says that nothing was seen."""
    rng = np.random.default_rng(seed)
    if len(x) > MAX_ROWS:
        rows = np.sort(rng.permutation(len(x))[:MAX_ROWS])
        x, y = x[rows], y[rows]
    base = scores.row_losses(predict(x), y)
    places: dict[str, list[int]] = {}
    for place, feature in enumerate(encoding.features):
        places.setdefault(feature.column, []).append(place)
    found, late = [], []
    started_s = monotonic_s()
    for done, (name, mine) in enumerate(places.items()):
        on_column(done, len(places))
        orders = [
            rng.permutation(len(x)) for _ in range(REPEATS)
        ]  # drawn in any case, so that time changes no other column
        if most_s is not None and monotonic_s() - started_s > most_s:
            late.append(name)
            continue
        rises = np.zeros(len(x))
        for order in orders:
            shuffled = x.copy()
            shuffled[:, mine] = x[order][:, mine]
            rises += (scores.row_losses(predict(shuffled), y) - base) / REPEATS
        half = 1.96 * float(rises.std(ddof=1)) / np.sqrt(len(x)) if len(x) > 1 else float("nan")
        mean = float(rises.mean())
        found.append({"column": name, "value": mean, "low": mean - half, "high": mean + half})
    return sorted(found, key=lambda each: -each["value"]), late
