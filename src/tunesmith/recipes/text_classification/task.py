"""What the trainer learns: labels of texts, from rows laid end to end or from vectors that were computed once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

from tunesmith.engine.classifier import Classifier, pack_texts
from tunesmith.engine.packing import PackedBatch
from tunesmith.recipes.blocks.task import Losses, Share, Task
from tunesmith.recipes.text_classification.calibration import loss_of, probabilities_of
from tunesmith.recipes.text_classification.scores import Predictions, counts_of, f1_of
from tunesmith.recipes.text_classification.spec import METRICS

MOST_POSITIVE_WEIGHT = 100.0
"""Largest weight of a rare label where texts may have several."""


@dataclass(frozen=True)
class Examples:
    """Rows ready to learn."""

    ids: list[np.ndarray]
    """Tokens of each row."""
    truth: np.ndarray
    """(rows, labels), bool."""
    features: torch.Tensor | None = None
    """(rows, size), in the head's format, where the head alone is trained."""

    @property
    def lengths(self) -> np.ndarray:
        return np.array([len(ids) for ids in self.ids], dtype=np.int64)


class Goal(NamedTuple):
    """How the loss is taken."""

    is_multi: bool
    weights: torch.Tensor | None = None
    """(labels,), fp32: of the labels, or of their presence where there may be several."""
    smoothing: float = 0.0


class Batch(NamedTuple):
    """Rows for one pass."""

    inputs: PackedBatch | torch.Tensor
    truth: torch.Tensor
    """(rows,) int64; (rows, labels) fp32 where there may be several labels."""


def balanced_weights(truth: np.ndarray, *, is_multi: bool) -> torch.Tensor:
    """(labels,), fp32: each label counts alike, on average 1 a row; 0 for labels that no row has. With several labels, how much
    more a row that has one counts than a row that has not."""
    support = truth.sum(0).astype(np.float64)
    if is_multi:
        ratio = (len(truth) - support) / np.maximum(1, support)
        return torch.tensor(np.clip(ratio, 1 / MOST_POSITIVE_WEIGHT, MOST_POSITIVE_WEIGHT), dtype=torch.float32)
    seen = support > 0
    weights = np.where(seen, len(truth) / (seen.sum() * np.maximum(1, support)), 0.0)
    return torch.tensor(weights, dtype=torch.float32)


class ClassificationTask(Task):
    """Learns `train`, measures on `held_out`."""

    def __init__(self, classifier: Classifier, train: Examples, held_out: Examples, goal: Goal) -> None:
        super().__init__(classifier.model, METRICS, train.lengths)
        self.classifier, self.train, self.held_out, self.goal = classifier, train, held_out, goal
        self.places = train.truth.argmax(1)
        """(rows,): the label of each row, where there is one."""

    @property
    def num_held_out(self) -> int:
        return len(self.held_out.ids)

    def weight_of(self, places: np.ndarray) -> float:
        """The rows; with class weights what they weigh, as torch's mean has it."""
        if self.goal.is_multi or self.goal.weights is None:
            return len(places)
        return float(self.goal.weights.double()[self.places[places]].sum())

    def batch(self, places: np.ndarray, device: torch.device) -> Batch:
        return self._batch(self.train, places, device)

    def _batch(self, rows: Examples, places: np.ndarray, device: torch.device) -> Batch:
        truth = torch.from_numpy(rows.truth[places])
        truth = truth.float() if self.goal.is_multi else truth.long().argmax(1)
        inputs: PackedBatch | torch.Tensor
        if rows.features is not None:
            inputs = rows.features[torch.from_numpy(places)].to(device)
        else:
            inputs = pack_texts([rows.ids[place] for place in places]).to(device)
        return Batch(inputs, truth.to(device))

    def logits(self, batch: Batch) -> torch.Tensor:
        """(rows, labels), fp32."""
        if isinstance(batch.inputs, PackedBatch):
            return self.classifier.logits(batch.inputs)
        return self.classifier.head(batch.inputs).float()

    def loss(self, batch: Batch) -> Losses:
        logits, goal = self.logits(batch), self.goal
        weights = None if goal.weights is None else goal.weights.to(logits.device)
        if not goal.is_multi:
            return Losses(
                F.cross_entropy(logits, batch.truth, weight=weights, label_smoothing=goal.smoothing, reduction="sum")
            )
        truth = batch.truth * (1 - goal.smoothing) + goal.smoothing / 2
        each = F.binary_cross_entropy_with_logits(logits, truth, pos_weight=weights, reduction="none")
        return Losses(each.mean(1).sum())

    def around(self, batch: Batch) -> AbstractContextManager[object]:
        return self.classifier.around(batch.inputs) if isinstance(batch.inputs, PackedBatch) else nullcontext()

    @torch.no_grad()
    def logits_of(self, rows: Examples, parts: Iterable[np.ndarray], device: torch.device) -> np.ndarray:
        """(rows in `parts`, labels), fp32, one part after the other. In evaluation mode only."""
        found = [self.logits(self._batch(rows, part, device)).cpu().numpy() for part in parts]
        return np.concatenate([np.zeros((0, rows.truth.shape[1]), np.float32), *found])

    def evaluate(self, share: Share, device: torch.device) -> dict[str, float]:
        """Loss without weights and smoothing, accuracy and macro F1."""
        rows = self.held_out
        parts = [part for part, counts in share.split(np.arange(len(rows.ids)), rows.lengths) if counts]
        places = np.concatenate([np.zeros(0, np.int64), *parts])
        logits, truth = self.logits_of(rows, parts, device), rows.truth[places]
        is_multi, labels = self.goal.is_multi, truth.shape[1]
        predictions = Predictions(probabilities_of(logits, is_multi=is_multi), truth, is_multi)
        loss = loss_of(logits, truth, is_multi=is_multi) * len(places) if len(places) else 0.0
        mine = [loss, float(predictions.is_right.sum()), *np.concatenate(counts_of(predictions)).astype(float)]
        loss, right, *counts = share.sum(*mine)
        hits, given, support = np.array(counts).reshape(3, labels)
        count = max(1, self.num_held_out)
        return {"loss": loss / count, "accuracy": right / count, "macro_f1": f1_of(hits, given, support)[1]}

    def final_names(self, scores: Any) -> dict[str, float]:
        return {f"eval_{name}": value for name, value in scores.items()}


def truth_of(labels: Sequence[tuple[str, ...]], names: Sequence[str]) -> np.ndarray:
    """(rows, labels), bool."""
    place = {name: number for number, name in enumerate(names)}
    found = np.zeros((len(labels), len(names)), dtype=bool)
    for row, mine in enumerate(labels):
        found[row, [place[name] for name in mine]] = True
    return found
