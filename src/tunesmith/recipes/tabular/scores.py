"""How good predictions are. Probabilities are (rows, classes) float64, classes are places; numbers are (rows,)."""

from __future__ import annotations

from typing import Any

import numpy as np

LEAST_P = 1e-15
NUM_BINS = 10
EXAMPLES = 5
"""Row numbers that a kind of mistake is shown with."""
HIGHER_IS_BETTER = frozenset({"accuracy", "roc_auc", "f1_macro", "r2"})


def log_loss(p: np.ndarray, y: np.ndarray) -> float:
    """Mean negative log probability of the true class, nats."""
    return float(-np.mean(np.log(np.clip(p[np.arange(len(y)), y], LEAST_P, 1))))


def accuracy(p: np.ndarray, y: np.ndarray) -> float:
    return float(np.mean(p.argmax(axis=1) == y))


def roc_auc(p: np.ndarray, y: np.ndarray) -> float | None:
    """Of two classes that of the second; of more the mean of each against the rest. None where a class has no rows."""
    from sklearn.metrics import roc_auc_score

    counts = np.bincount(y, minlength=p.shape[1])
    if (counts == 0).any() or len(y) < 2:
        return None
    if p.shape[1] == 2:
        return float(roc_auc_score(y, p[:, 1]))
    return float(np.mean([roc_auc_score(y == place, p[:, place]) for place in range(p.shape[1])]))


def f1_macro(p: np.ndarray, y: np.ndarray) -> float:
    """Mean of the classes that occur among the answers or the truth."""
    table = confusion(p, y)
    hits, asked, given = np.diag(table), table.sum(axis=1), table.sum(axis=0)
    there = asked + given > 0
    return float(np.mean(2 * hits[there] / (asked + given)[there]))


def confusion(p: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(true class, answered class) counts."""
    table = np.zeros((p.shape[1], p.shape[1]), dtype=np.int64)
    np.add.at(table, (y, p.argmax(axis=1)), 1)
    return table


def reliability(p: np.ndarray, y: np.ndarray) -> list[dict[str, float]]:
    """Answers by how sure they were: `{low, high, rows, confidence, accuracy}` for each bin that has rows."""
    sure, right = p.max(axis=1), p.argmax(axis=1) == y
    bins = np.minimum((sure * NUM_BINS).astype(int), NUM_BINS - 1)
    return [
        {
            "low": place / NUM_BINS, "high": (place + 1) / NUM_BINS, "rows": int(np.sum(bins == place)),
            "confidence": float(sure[bins == place].mean()), "accuracy": float(right[bins == place].mean()),
        }
        for place in range(NUM_BINS) if np.any(bins == place)
    ]  # fmt: skip


def calibration_error(p: np.ndarray, y: np.ndarray) -> float:
    """Expected calibration error: how far confidence and accuracy are apart, weighted by rows (Guo et al. 2017)."""
    return sum(b["rows"] * abs(b["confidence"] - b["accuracy"]) for b in reliability(p, y)) / len(y)


def of_classes(p: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """All scores of a classification; `roc_auc` only where every class has rows."""
    auc = roc_auc(p, y)
    loss = log_loss(p, y)
    found = {"loss": loss, "log_loss": loss, "accuracy": accuracy(p, y), "f1_macro": f1_macro(p, y)}
    return found | ({} if auc is None else {"roc_auc": auc}) | {"calibration_error": calibration_error(p, y)}


def of_numbers(prediction: np.ndarray, y: np.ndarray, spread: float) -> dict[str, float]:
    """All scores of a regression. `spread`: the standard deviation of the target in the rows learned from."""
    rmse = float(np.sqrt(np.mean((prediction - y) ** 2)))
    found = {"loss": rmse / spread, "rmse": rmse, "mae": float(np.mean(np.abs(prediction - y)))}
    around = float(np.mean((y - y.mean()) ** 2))
    return found | ({"r2": 1 - rmse**2 / around} if around else {})


def score(metric: str, prediction: np.ndarray, y: np.ndarray) -> float:
    """One number that is better when it is lower: errors as they are, and what should be high with its sign changed."""
    if metric == "rmse":
        return float(np.sqrt(np.mean((prediction - y) ** 2)))
    if metric == "mae":
        return float(np.mean(np.abs(prediction - y)))
    if metric == "r2":
        return float(np.mean((prediction - y) ** 2))
    if metric == "log_loss":
        return log_loss(prediction, y)
    if metric == "accuracy":
        return -accuracy(prediction, y)
    if metric == "f1_macro":
        return -f1_macro(prediction, y)
    return -(roc_auc(prediction, y) or 0.0)


def row_losses(prediction: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(rows,) log loss, or squared error."""
    if prediction.ndim == 2:
        return -np.log(np.clip(prediction[np.arange(len(y)), y], LEAST_P, 1))
    return (prediction - y) ** 2


def per_class(p: np.ndarray, y: np.ndarray, classes: list[Any]) -> list[dict[str, Any]]:
    """`{label, rows, precision, recall, f1}` of each class; None where nothing was answered or there."""
    table = confusion(p, y)
    found = []
    for place, label in enumerate(classes):
        hits, asked, given = int(table[place, place]), int(table[place].sum()), int(table[:, place].sum())
        found.append({
            "label": label, "rows": asked, "precision": hits / given if given else None, "recall": hits / asked if asked else None,
            "f1": 2 * hits / (asked + given) if asked + given else None,
        })  # fmt: skip
    return found


def mistakes(p: np.ndarray, y: np.ndarray, classes: list[Any], numbers: np.ndarray) -> list[dict[str, Any]]:
    """Each pair of true and answered class that occurs, the most frequent first, with the rows that were most surely wrong."""
    answered = p.argmax(axis=1)
    found = []
    for true, said in sorted(set(zip(y[answered != y].tolist(), answered[answered != y].tolist(), strict=True))):
        rows = np.flatnonzero((y == true) & (answered == said))
        worst = rows[np.argsort(-p[rows, said], kind="stable")][:EXAMPLES]
        found.append({
            "expected": classes[true], "answered": classes[said], "rows": len(rows), "examples": [int(numbers[row]) for row in worst],
        })  # fmt: skip
    return sorted(found, key=lambda each: -each["rows"])


def interval(metric: str, prediction: np.ndarray, y: np.ndarray, seed: int, draws: int = 200) -> tuple[float, float]:
    """95 % bootstrap interval over rows, of the score as people read it (higher is better where it is)."""
    rng = np.random.default_rng(seed)
    sign = -1.0 if metric in HIGHER_IS_BETTER else 1.0
    found = []
    for _ in range(draws):
        rows = rng.integers(0, len(y), len(y))
        if metric == "roc_auc" and len(np.unique(y[rows])) < prediction.shape[1]:
            continue
        found.append(sign * score(metric, prediction[rows], y[rows]))
    if not found:
        return float("nan"), float("nan")
    low, high = np.percentile(found, [2.5, 97.5])
    return float(low), float(high)
