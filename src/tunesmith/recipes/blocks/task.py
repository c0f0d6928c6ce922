"""The interface between the `Trainer` and one way to learn: a task gives batches of rows, their losses, and scores on held-out rows."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from tunesmith.core.progress import moved
from tunesmith.core.recipe import MetricSpec
from tunesmith.engine.ranks import Ranks
from tunesmith.recipes.hyperparameters import Stopping


class Losses(NamedTuple):
    """What one batch comes to."""

    sum: torch.Tensor
    """(), on the device: the summed loss, whose gradient is taken."""
    values: Mapping[str, torch.Tensor] = {}
    """(), by the names of `Task.step_values`: sums of what else is measured; divided by the same weight as the loss."""


@dataclass(frozen=True)
class Share:
    """Which rows this rank goes through, and how many at a time."""

    ranks: Ranks
    micro_batch: int
    """Rows."""
    is_sharded: bool = False

    def split(self, places: np.ndarray, lengths: np.ndarray) -> Iterator[tuple[np.ndarray, int]]:
        """This rank's part of the rows at `places` in micro-batches, and whether each counts, 1 or 0.

        Rows of like length stand together, so that blocks hold less padding; `lengths` (rows,) are those of all places.
        Sharded layers are computed by all ranks at once, so a rank that has fewer micro-batches than another goes through a
        row of no account.
        """
        mine, size = places[self.ranks.rank :: self.ranks.count], self.micro_batch
        by_length = mine[np.argsort(lengths[mine], kind="stable")]
        most = math.ceil(len(places) / self.ranks.count) if self.is_sharded else len(mine)
        for start in range(0, most, size):
            moved()
            part = by_length[start : start + size]
            yield (part if len(part) else places[:1]), int(len(part) > 0)

    def sum(self, *values: float) -> list[float]:
        """The sum of each of `values` over all ranks."""
        return self.ranks.sum(*values)


@dataclass
class Task(ABC):
    """One way to learn something from rows that are numbered from 0. Holds no state that a checkpoint would have to keep."""

    model: nn.Module
    """Those of its parameters that ask for gradients are trained."""
    metrics: tuple[MetricSpec, ...]
    """The primary one decides which checkpoint is the best and when to stop; `evaluate` must give it."""
    lengths: np.ndarray
    """(rows,): tokens of each row, or whatever its cost grows with; ones where all cost the same."""
    step_values: tuple[str, ...] = field(default=(), kw_only=True)
    """Names of `Losses.values`, which become curves beside the loss."""

    @property
    def primary(self) -> MetricSpec:
        return next(metric for metric in self.metrics if metric.is_primary)

    @property
    def num_held_out(self) -> int:
        """Rows that `evaluate` measures on; 0: it is never called."""
        return 0

    def weight_of(self, places: np.ndarray) -> float:
        """What the loss summed over the rows at `places` is divided by: the rows, unless a task counts tokens, say."""
        return len(places)

    @abstractmethod
    def batch(self, places: np.ndarray, device: torch.device) -> Any:
        """The rows at `places` (rows,), ready for `loss`, on `device`."""

    @abstractmethod
    def loss(self, batch: Any) -> Losses:
        """With gradients. Random numbers may be drawn from torch's generators only."""

    def around(self, batch: Any) -> AbstractContextManager[object]:
        """What must hold while `loss` and the backward pass of `batch` run."""
        return nullcontext()

    def evaluate(self, share: Share, device: torch.device) -> dict[str, float]:
        """Scores of the held-out rows by names of `metrics`, the same on every rank: each goes through its `share` and adds up
        at the end. Called in evaluation mode, where rows are held out; begun again with fewer rows at a time when memory runs out."""
        return {}

    def probe(self, place: int, device: torch.device) -> tuple[Any, int]:
        """The row at `place` as a batch that tells what rows cost, and its length."""
        return self.batch(np.array([place]), device), int(self.lengths[place])

    def least_gain(self, best: float | None, stopping: Stopping) -> float:
        """`min_delta` as a difference of the primary metric, of which `best` is the best so far."""
        return stopping.min_delta

    def watched(self, stopping: Stopping) -> str:
        """The name of what early stopping watches."""
        return self.primary.name

    def final_names(self, scores: Mapping[str, float]) -> dict[str, float]:
        """Scores as final numbers of a run: `eval_` is put before what the steps measure too."""
        both = {"loss", *self.step_values}
        return {f"eval_{name}" if name in both else name: value for name, value in scores.items()}
