"""The baseline: logistic or ridge regression on scaled numbers, missing marks and the most frequent categories; kept as arrays."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

MAX_ONE_HOT = 30
"""Categories of a column that get a weight of their own; all others share none."""
MAX_ROWS = 50_000
"""Rows that it learns from; of more, a sample by the seed."""
MAX_ITERATIONS = 200
SPREAD = 8.0
"""Scaled numbers are cut there: one far value must not decide."""


class LinearModel:
    """Weights on `design(matrix)`."""

    def __init__(self, arrays: dict[str, np.ndarray], num_classes: int) -> None:
        """`arrays`: `weights` (outputs, inputs), `bias` (outputs,), `mean` and `scale` (numbers,), `numbers` and `categories` (places
        of features), `sizes` (one-hot inputs of each category). Raises `KeyError` or `ValueError` where they do not fit."""
        self.arrays, self.num_classes = arrays, num_classes
        self.mean, self.scale = arrays["mean"], arrays["scale"]
        self.numbers, self.categories, self.sizes = arrays["numbers"], arrays["categories"], arrays["sizes"]
        self.weights, self.bias = arrays["weights"], arrays["bias"]
        width = 2 * len(self.numbers) + int(self.sizes.sum())
        outputs = 1 if num_classes in (0, 2) else num_classes
        if (
            self.weights.shape != (outputs, width)
            or self.bias.shape != (outputs,)
            or self.mean.shape != self.numbers.shape
        ):
            raise ValueError("the arrays of the linear model do not fit together")

    @classmethod
    def fit(
        cls, x: np.ndarray, y: np.ndarray, sizes: Sequence[int], num_classes: int, weight: np.ndarray | None, seed: int
    ) -> LinearModel:
        """`sizes`: categories of each feature, 0 for a number."""
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression, Ridge

        if len(x) > MAX_ROWS:
            rows = np.sort(np.random.default_rng(seed).permutation(len(x))[:MAX_ROWS])
            x, y, weight = x[rows], y[rows], None if weight is None else weight[rows]
        numbers = np.asarray([place for place, size in enumerate(sizes) if not size], dtype=np.int64)
        categories = np.asarray([place for place, size in enumerate(sizes) if size], dtype=np.int64)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # a feature that is missing everywhere
            mean, scale = np.nanmean(x[:, numbers], axis=0), np.nanstd(x[:, numbers], axis=0)
        arrays = {
            "numbers": numbers, "categories": categories,
            "sizes": np.asarray([min(sizes[place], MAX_ONE_HOT) for place in categories], dtype=np.int64),
            "mean": np.nan_to_num(mean), "scale": np.where(np.nan_to_num(scale) > 1e-12, np.nan_to_num(scale), 1.0),
        }  # fmt: skip
        design = _design(arrays, x)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            if num_classes:
                fitted = LogisticRegression(C=1.0, max_iter=MAX_ITERATIONS).fit(design, y, sample_weight=weight)
                rows_of = np.asarray(fitted.coef_, dtype=np.float64), np.asarray(fitted.intercept_, dtype=np.float64)
                coef, bias = rows_of if len(fitted.classes_) in (2, num_classes) else _all_classes(fitted, num_classes)
            else:
                middle, spread = float(y.mean()), float(y.std()) or 1.0
                ridge = Ridge(alpha=1.0).fit(design, (y - middle) / spread)
                coef = np.asarray(ridge.coef_, dtype=np.float64).reshape(1, -1) * spread
                bias = np.asarray([float(ridge.intercept_) * spread + middle])
        return cls({**arrays, "weights": np.ascontiguousarray(coef), "bias": bias}, num_classes)

    def predict(self, x: np.ndarray) -> np.ndarray:
        """(rows, classes) probabilities, or (rows,) numbers."""
        found = _design(self.arrays, x) @ self.weights.T + self.bias
        if not self.num_classes:
            return np.asarray(found[:, 0])
        if self.num_classes == 2:
            second = 1 / (1 + np.exp(-np.clip(found[:, 0], -500, 500)))
            return np.stack([1 - second, second], axis=1)
        powers = np.exp(found - found.max(axis=1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=1, keepdims=True))

    def save(self, path: Path) -> None:
        from safetensors.numpy import save_file

        save_file({name: np.ascontiguousarray(array) for name, array in self.arrays.items()}, path)

    @classmethod
    def load(cls, path: Path, num_classes: int) -> LinearModel:
        from safetensors.numpy import load_file

        return cls(load_file(path), num_classes)


def _all_classes(fitted: object, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights for classes that the rows did not have: as unlikely as can be."""
    coef = np.zeros((num_classes, fitted.coef_.shape[1]))  # type: ignore[attr-defined]
    bias = np.full(num_classes, -30.0)
    coef[fitted.classes_], bias[fitted.classes_] = fitted.coef_, fitted.intercept_  # type: ignore[attr-defined]
    return coef, bias


def _design(arrays: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    """(rows, inputs): scaled numbers, marks of missing ones, one input for each frequent category."""
    mine = x[:, arrays["numbers"]]
    missing = np.isnan(mine)
    parts = [
        np.clip(np.where(missing, 0.0, (mine - arrays["mean"]) / arrays["scale"]), -SPREAD, SPREAD),
        missing.astype(np.float64),
    ]
    for place, size in zip(arrays["categories"], arrays["sizes"], strict=True):
        codes = np.nan_to_num(x[:, place], nan=-1).astype(np.int64)
        parts.append((codes[:, None] == np.arange(size)[None, :]).astype(np.float64))
    return np.concatenate(parts, axis=1)
