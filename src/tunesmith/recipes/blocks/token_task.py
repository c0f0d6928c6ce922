"""Supervised learning from rows of tokens, without padding where the model allows it: one batch source of the `Trainer`."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager

import numpy as np
import torch

from tunesmith.engine.attention import rows_of
from tunesmith.engine.forward import Forward
from tunesmith.engine.packing import PackedBatch, pack
from tunesmith.recipes.blocks.task import Losses, Share, Task
from tunesmith.recipes.blocks.token_rows import TokenRows
from tunesmith.recipes.hyperparameters import EarlyStopping, Stopping
from tunesmith.recipes.language_models import LANGUAGE_METRICS


class TokenTask(Task):
    """Learns `rows[train]` by cross-entropy, nats a supervised token; `held_out` are `(rows, places)` to measure on."""

    def __init__(
        self,
        forward: Forward,
        rows: TokenRows,
        train: np.ndarray,
        held_out: tuple[TokenRows, np.ndarray],
        *,
        graphs: bool = False,
    ) -> None:
        """`graphs`: batches are filled up and replayed by CUDA graphs."""
        super().__init__(forward.model, LANGUAGE_METRICS, rows.lengths[train])
        self.forward, self.rows, self.train, self.held_out, self.graphs = forward, rows, train, held_out, graphs
        self.num_supervised = rows.num_supervised[train]

    @property
    def num_held_out(self) -> int:
        return len(self.held_out[1])

    def weight_of(self, places: np.ndarray) -> float:
        return int(self.num_supervised[places].sum())

    def batch(self, places: np.ndarray, device: torch.device) -> PackedBatch:
        return pack([self.rows.row(int(i)) for i in self.train[places]], fill=self.graphs).to(device)

    def probe(self, place: int, device: torch.device) -> tuple[PackedBatch, int]:
        batch = pack([self.rows.row(int(self.train[place]))]).to(device)
        return batch, len(batch.input_ids)

    def loss(self, batch: PackedBatch) -> Losses:
        if self.graphs:
            torch.compiler.cudagraph_mark_step_begin()
        return Losses(self.forward.loss_sum(batch))

    def around(self, batch: PackedBatch) -> AbstractContextManager[object]:
        return rows_of(batch)  # the backward pass too: recomputed layers must see the same rows

    def evaluate(self, share: Share, device: torch.device) -> dict[str, float]:
        """Loss (nats a token), perplexity and token accuracy."""
        rows, places = self.held_out
        loss = correct = 0.0
        for part, counts in share.split(places, rows.lengths):
            batch = pack([rows.row(int(i)) for i in part]).to(device)
            some_loss, some_correct = self.forward.score(batch)
            loss, correct = loss + counts * some_loss, correct + counts * some_correct
        loss, correct = share.sum(loss, correct)
        count = max(1, int(rows.num_supervised[places].sum()))
        mean = loss / count
        return {"loss": mean, "perplexity": math.exp(min(mean, 700.0)), "token_accuracy": correct / count}

    def least_gain(self, best: float | None, stopping: Stopping) -> float:
        """A gain of perplexity as one of loss, where that is what is watched."""
        if self.watched(stopping) == "eval_loss" or best is None or not stopping.min_delta:
            return stopping.min_delta
        return best - math.log(max(1e-9, math.exp(best) - stopping.min_delta))

    def watched(self, stopping: Stopping) -> str:
        return stopping.metric if isinstance(stopping, EarlyStopping) else "eval_loss"
