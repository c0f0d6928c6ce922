"""Pairs of answers as what a `Trainer` learns: both in one batch without padding, weighed by how they stand to the reference."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import NamedTuple

import numpy as np
import torch

from tunesmith.engine.attention import rows_of
from tunesmith.engine.forward import Forward
from tunesmith.engine.packing import PackedBatch, pack
from tunesmith.recipes.blocks.task import Losses, Share, Task
from tunesmith.recipes.dpo.losses import pair_scores
from tunesmith.recipes.dpo.pairs import PairRows
from tunesmith.recipes.dpo.spec import METRICS, DpoParams

VALUES = ("rewards_chosen", "rewards_rejected", "rewards_margin", "rewards_accuracy")


class PairBatch(NamedTuple):
    """The better answers, then the worse ones, each behind its prompt."""

    texts: PackedBatch
    reference: torch.Tensor
    """(pairs, 2) fp32: log-probabilities under the reference, nats."""
    answer_tokens: torch.Tensor
    """(pairs, 2) fp32"""


class Pairs:
    """Pairs at `places` of `rows`, with what the reference says of all rows; zeros until it is known."""

    def __init__(self, rows: PairRows, places: np.ndarray) -> None:
        self.rows, self.places = rows, places
        self.reference = np.zeros((len(rows), 2))

    def batch(self, which: np.ndarray, device: torch.device) -> PairBatch:
        """Those at `which` (pairs,) of the places."""
        places = self.places[which]
        numbers = (self.reference[places], self.rows.answer_tokens[places])
        reference, tokens = (torch.from_numpy(np.asarray(one, dtype=np.float32)).to(device) for one in numbers)
        return PairBatch(pack(self.rows.rows(places)).to(device), reference, tokens)


class PairTask(Task):
    """Learns the pairs of `train`; measures on those of `held_out`."""

    def __init__(self, params: DpoParams, forward: Forward, train: Pairs, held_out: Pairs) -> None:
        super().__init__(forward.model, METRICS, train.rows.lengths[train.places], step_values=VALUES)
        self.params, self.forward, self.train, self.held_out = params, forward, train, held_out

    @property
    def num_held_out(self) -> int:
        return len(self.held_out.places)

    def batch(self, places: np.ndarray, device: torch.device) -> PairBatch:
        return self.train.batch(places, device)

    def loss(self, batch: PairBatch) -> Losses:
        log_probs = -self.forward.row_losses(batch.texts).view(2, -1).T
        scores = pair_scores(self.params, log_probs, batch.reference, batch.answer_tokens)
        return Losses(scores.loss.sum(), scores.values)

    def around(self, batch: PairBatch) -> AbstractContextManager[object]:
        return rows_of(batch.texts)  # the backward pass too: recomputed layers must see the same rows

    def evaluate(self, share: Share, device: torch.device) -> dict[str, float]:
        """Loss, and rewards in nats."""
        pairs, names = self.held_out, ("loss", *VALUES)
        sums = np.zeros(len(names))
        for part, counts in share.split(np.arange(len(pairs.places)), pairs.rows.lengths[pairs.places]):
            batch = pairs.batch(part, device)
            losses, _ = self.forward.score_rows(batch.texts)
            log_probs = -losses.view(2, -1).T
            scores = pair_scores(self.params, log_probs, batch.reference.double(), batch.answer_tokens.double())
            sums += counts * np.array([float(scores.loss.sum()), *(float(scores.values[name]) for name in VALUES)])
        found = share.sum(*sums.tolist())
        return {name: value / max(1, len(pairs.places)) for name, value in zip(names, found, strict=True)}
