"""Scores with their uncertainty. Every score is a function of sums over samples, so resampling is one matrix product.

Intervals are percentile bootstraps (Efron, 1979) over samples, and Wilson's where every sample is right or every one wrong; two models are compared on the same samples by the paired
bootstrap, and where a sample is right or wrong by McNemar's exact test. Needs numpy alone: server and worker share it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np

RESAMPLES = 1000
LEVEL = 0.95
"""Of the intervals."""
SIGNIFICANT = 0.05
"""A difference with a smaller p-value is called significant."""
EXACT_UP_TO = 5000
"""Disagreements up to which McNemar's test is exact; beyond, the normal approximation is."""
AT_ONCE = 2_000_000
"""Numbers of resamples held at the same time."""

Finish = Callable[[np.ndarray, int], np.ndarray]
"""`(sums (resamples, width), samples)` → the score of each resample."""


class Metric(NamedTuple):
    """How a score comes from what was counted of each sample."""

    title: str
    counted: str
    """Key of a sample's `stats`."""
    finish: Finish
    higher_is_better: bool = True
    unit: str = ""
    """`share` of 1, `of 100`, `s`, or what the title says."""
    is_right_or_wrong: bool = False
    """Whether a sample's number is 0 or 1."""


def _mean(sums: np.ndarray, samples: int) -> np.ndarray:
    return sums[:, 0] / samples


def _ratio(sums: np.ndarray, _samples: int) -> np.ndarray:
    return sums[:, 0] / np.maximum(sums[:, 1], 1)


def _perplexity(sums: np.ndarray, _samples: int) -> np.ndarray:
    return np.exp(np.minimum(sums[:, 0] / np.maximum(sums[:, 1], 1), 700.0))


def _token_accuracy(sums: np.ndarray, _samples: int) -> np.ndarray:
    return sums[:, 2] / np.maximum(sums[:, 1], 1)


def _bleu(sums: np.ndarray, _samples: int) -> np.ndarray:
    """BLEU of (correct 1-4, total 1-4, length, reference length), smoothed as sacrebleu does by default."""
    correct, total, length, reference = sums[:, :4], sums[:, 4:8], sums[:, 8], sums[:, 9]
    halvings = 2.0 ** np.cumsum((correct == 0) & (total > 0), axis=1)
    smoothed = np.where(correct > 0, correct, 1.0 / halvings)
    logs = np.log(np.where(total > 0, smoothed / np.maximum(total, 1), 1e-300))
    brevity = np.where(length < reference, np.exp(np.minimum(0.0, 1 - reference / np.maximum(length, 1))), 1.0)
    found = 100 * brevity * np.exp(logs.mean(axis=1))
    return np.where(correct.any(axis=1) & (total > 0).all(axis=1), found, 0.0)


def _chrf(sums: np.ndarray, _samples: int) -> np.ndarray:
    """chrF2 of (hypothesis, reference, matching) for character n-grams of 1 to 6."""
    made, wanted, same = sums[:, 0::3], sums[:, 1::3], sums[:, 2::3]
    counts = (made > 0) & (wanted > 0)
    orders = np.maximum(counts.sum(axis=1), 1)
    precision = np.where(counts, same / np.maximum(made, 1), 0.0).sum(axis=1) / orders
    recall = np.where(counts, same / np.maximum(wanted, 1), 0.0).sum(axis=1) / orders
    return 100 * 5 * precision * recall / np.maximum(4 * precision + recall, 1e-300)


def _entity_precision(sums: np.ndarray, _samples: int) -> np.ndarray:
    return sums[:, 0] / np.maximum(sums[:, 1], 1)


def _entity_recall(sums: np.ndarray, _samples: int) -> np.ndarray:
    return sums[:, 0] / np.maximum(sums[:, 2], 1)


def _entity_f1(sums: np.ndarray, _samples: int) -> np.ndarray:
    return 2 * sums[:, 0] / np.maximum(sums[:, 1] + sums[:, 2], 1)


def _rmse(sums: np.ndarray, samples: int) -> np.ndarray:
    return np.sqrt(sums[:, 0] / samples)


def _r2(sums: np.ndarray, samples: int) -> np.ndarray:
    """Of (squared error, value, squared value)."""
    spread = sums[:, 2] - sums[:, 1] ** 2 / samples
    return 1.0 - sums[:, 0] / np.maximum(spread, 1e-300)


def num_classes(sums: np.ndarray) -> int:
    """Of flattened (classes, classes + 1) tables."""
    return (math.isqrt(4 * sums.shape[1] + 1) - 1) // 2


def by_class(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Precision, recall and F1, each (resamples, classes), of flattened (classes, classes + 1) confusions: a row is what is
    right, a column what was said, the last for answers that are no class."""
    classes = num_classes(sums)
    table = sums.reshape(len(sums), classes, classes + 1)
    hits = np.einsum("rcc->rc", table[:, :, :classes])
    said, there = table[:, :, :classes].sum(axis=1), table.sum(axis=2)
    return hits / np.maximum(said, 1), hits / np.maximum(there, 1), 2 * hits / np.maximum(said + there, 1)


def _macro(place: int) -> Finish:
    """The mean over those classes that are right or said somewhere."""

    def finish(sums: np.ndarray, _samples: int) -> np.ndarray:
        classes = num_classes(sums)
        table = sums.reshape(len(sums), classes, classes + 1)
        there = (table[:, :, :classes].sum(axis=1) + table.sum(axis=2)) > 0
        found: np.ndarray = by_class(sums)[place].sum(axis=1) / np.maximum(there.sum(axis=1), 1)
        return found

    return finish


METRICS: dict[str, Metric] = {
    "perplexity": Metric("Perplexity", "likelihood", _perplexity, higher_is_better=False),
    "token_accuracy": Metric("Token accuracy", "likelihood", _token_accuracy, unit="share"),
    "exact_match": Metric("Exact match", "exact_match", _mean, unit="share", is_right_or_wrong=True),
    "numeric_match": Metric("Right number", "numeric_match", _mean, unit="share", is_right_or_wrong=True),
    "token_f1": Metric("Token F1", "token_f1", _mean, unit="share"),
    "bleu": Metric("BLEU", "bleu", _bleu, unit="of 100"),
    "chrf": Metric("chrF", "chrf", _chrf, unit="of 100"),
    "rouge1": Metric("ROUGE-1", "rouge1", _mean, unit="share"),
    "rouge2": Metric("ROUGE-2", "rouge2", _mean, unit="share"),
    "rougeL": Metric("ROUGE-L", "rougeL", _mean, unit="share"),
    "accuracy": Metric("Accuracy", "accuracy", _mean, unit="share", is_right_or_wrong=True),
    "macro_precision": Metric("Macro precision", "confusion", _macro(0), unit="share"),
    "macro_recall": Metric("Macro recall", "confusion", _macro(1), unit="share"),
    "macro_f1": Metric("Macro F1", "confusion", _macro(2), unit="share"),
    "rmse": Metric("Root mean squared error", "squared_error", _rmse, higher_is_better=False),
    "mae": Metric("Mean absolute error", "absolute_error", _mean, higher_is_better=False),
    "r2": Metric("R²", "squared_error", _r2),
    "entity_precision": Metric("Entity precision", "entities", _entity_precision, unit="share"),
    "entity_recall": Metric("Entity recall", "entities", _entity_recall, unit="share"),
    "entity_f1": Metric("Entity F1", "entities", _entity_f1, unit="share"),
    "judge": Metric("Judge", "judge", _mean, unit="of 5"),
    "tokens_per_s": Metric("Tokens a second", "throughput", _ratio, unit="tokens/s"),
}
"""Every score that comes from samples, in the order in which they are shown."""
QUANTILES = {"time_to_first_token_p50_s": 0.5, "time_to_first_token_p95_s": 0.95}
"""Scores that are quantiles of the times to the first token."""


class Score(NamedTuple):
    """One number and how sure it is."""

    title: str
    unit: str
    value: float
    num_samples: int
    low: float
    """Lower end of the 95 % interval."""
    high: float
    higher_is_better: bool

    def as_json(self) -> dict[str, Any]:
        return {**self._asdict(), "value": _plain(self.value), "low": _plain(self.low), "high": _plain(self.high)}


def _plain(value: float) -> float | None:
    """JSON knows no infinity."""
    return round(float(value), 10) if math.isfinite(value) else None


def weights(samples: int, seed: int, resamples: int = RESAMPLES) -> np.ndarray:
    """(resamples, samples): how often each sample is drawn."""
    rng = np.random.default_rng([seed, 0xB007])
    return rng.multinomial(samples, np.full(samples, 1.0 / samples), size=resamples).astype(np.float64)


def resampled(counted: np.ndarray, finish: Finish, seed: int) -> np.ndarray:
    """The score of each of `RESAMPLES` resamples. `counted`: (samples, width). Two calls with as many samples and the same
    seed draw the same samples, which is what makes a comparison paired."""
    samples = len(counted)
    step = max(1, AT_ONCE // samples)
    rng = np.random.default_rng([seed, 0xB007])
    parts = []
    for start in range(0, RESAMPLES, step):
        size = min(step, RESAMPLES - start)
        drawn = rng.multinomial(samples, np.full(samples, 1.0 / samples), size=size).astype(np.float64)
        parts.append(finish(drawn @ counted, samples))
    return np.concatenate(parts)


def score(name: str, counted: Sequence[Sequence[float]] | np.ndarray, seed: int = 0) -> Score:
    """The score called `name` of what was counted of each sample, (samples, width), with its interval."""
    metric, numbers = METRICS[name], np.asarray(counted, dtype=np.float64)
    value = float(metric.finish(numbers.sum(axis=0, keepdims=True), len(numbers))[0])
    if metric.is_right_or_wrong and value in (0.0, 1.0):
        low, high = wilson(round(value * len(numbers)), len(numbers))
    else:
        low, high = _ends(resampled(numbers, metric.finish, seed))
    return Score(metric.title, metric.unit, value, len(numbers), low, high, metric.higher_is_better)


def quantile(values: Sequence[float], share: float, seed: int = 0) -> Score:
    """A quantile of times, seconds, with its interval."""
    numbers = np.asarray(values, dtype=np.float64)
    drawn = np.random.default_rng([seed, 0xB007]).integers(0, len(numbers), (RESAMPLES, len(numbers)))
    low, high = _ends(np.quantile(numbers[drawn], share, axis=1))
    title = f"Time to first token, {'median' if share == 0.5 else f'{share * 100:.0f} %'}"
    return Score(title, "s", float(np.quantile(numbers, share)), len(numbers), low, high, higher_is_better=False)


def _ends(values: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def wilson(hits: float, samples: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson, 1927), of one sample or more. It has a width where all are alike, too."""
    share, z = hits / samples, NormalDist().inv_cdf((1 + LEVEL) / 2)
    centre, over = share + z * z / (2 * samples), 1 + z * z / samples
    margin = z * math.sqrt(share * (1 - share) / samples + (z / (2 * samples)) ** 2)
    return max(0.0, (centre - margin) / over), min(1.0, (centre + margin) / over)


# -- two models on the same samples -----------------------------------------------------------------------------------


class Difference(NamedTuple):
    """The second model's score less the first's."""

    value: float
    low: float
    high: float
    p_value: float
    """How likely a difference this large is between models that are equally good."""
    test: str
    """`paired bootstrap` or `McNemar`."""
    num_samples: int

    @property
    def is_significant(self) -> bool:
        return self.p_value < SIGNIFICANT


def difference(name: str, first: np.ndarray, second: np.ndarray, seed: int = 0) -> Difference:
    """On the same samples in the same order; (samples, width) each."""
    metric = METRICS[name]
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    whole = [float(metric.finish(part.sum(axis=0, keepdims=True), len(part))[0]) for part in (a, b)]
    drawn = resampled(b, metric.finish, seed) - resampled(a, metric.finish, seed)
    low, high = _ends(drawn)
    if metric.is_right_or_wrong:
        gained, lost = int((b[:, 0] > a[:, 0]).sum()), int((b[:, 0] < a[:, 0]).sum())
        return Difference(whole[1] - whole[0], low, high, mcnemar(gained, lost), "McNemar", len(a))
    beyond = min(int((drawn <= 0).sum()), int((drawn >= 0).sum()))
    p_value = min(1.0, 2 * (beyond + 1) / (RESAMPLES + 1))
    return Difference(whole[1] - whole[0], low, high, p_value, "paired bootstrap", len(a))


def mcnemar(gained: int, lost: int) -> float:
    """Two-sided p-value of as many samples gained and lost, were each as likely (McNemar, 1947; exact)."""
    total, fewer = gained + lost, min(gained, lost)
    if total == 0:
        return 1.0
    if total > EXACT_UP_TO:
        return math.erfc(max(0.0, abs(gained - lost) - 1) / math.sqrt(2 * total))
    tail = sum(math.comb(total, k) for k in range(fewer + 1))
    return min(1.0, 2 * tail / 2**total)


def counted(
    samples: Sequence[Mapping[str, Any]], name: str, labels: Sequence[str] = ()
) -> tuple[list[int], np.ndarray]:
    """`(rows, (samples, width))` of those samples that have what the metric `name` counts. Labels become a confusion."""
    key = METRICS[name].counted
    if key == "confusion":
        mine = [sample for sample in samples if "label" in sample]
        found = np.array([one_hot(sample["label"], sample.get("said"), labels) for sample in mine])
    else:
        mine = [sample for sample in samples if key in sample.get("stats", {})]
        found = np.array([sample["stats"][key] for sample in mine], dtype=np.float64)
    return [int(sample["row"]) for sample in mine], found


def one_hot(right: str, said: str | None, labels: Sequence[str]) -> np.ndarray:
    """One sample as a flattened (classes, classes + 1) confusion; what is no class counts as the last column."""
    table = np.zeros((len(labels), len(labels) + 1))
    table[labels.index(right), labels.index(said) if said in labels else len(labels)] = 1
    return table.ravel()
