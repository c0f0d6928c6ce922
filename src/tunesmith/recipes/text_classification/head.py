"""The head by itself: vectors of an unchanged model are computed once for each row, and the head learns from these.

Used to train nothing else (`weights: frozen`), and to begin with a head that fits before all weights move, so that a random head
does not spoil what the model knows (arXiv:2202.10054)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from tunesmith.core.recipe import Outcome, RunContext
from tunesmith.engine.classifier import Classifier, pack_texts
from tunesmith.engine.optim import Masters, build_optimizer, learning_rate_factor
from tunesmith.recipes.text_classification.task import Batch, ClassificationTask, Examples

RATE, ROWS = 1e-3, 64
"""Learning rate, and rows a step, of a head that is trained first."""
MOST_ROWS = 20_000
"""Rows that a head is trained on first."""
MOST_TOKENS = 16_384
"""Of rows whose vectors are computed together."""


class Interrupted(Exception):
    """The run was asked to pause or to stop before its first step; `outcome` says which."""

    def __init__(self, outcome: str) -> None:
        super().__init__(outcome)
        self.outcome = outcome


def obey(run: RunContext) -> None:
    """Raise `Interrupted` when the run is asked to end. There is no step to lose yet."""
    control = run.control()
    if control.stop or control.pause:
        raise Interrupted(Outcome.CANCELLED if control.stop else Outcome.PAUSED)


def parts_of(lengths: np.ndarray, rows: int) -> Iterator[np.ndarray]:
    """Places of rows that are computed together: of like length, at most `rows` of them."""
    order = np.argsort(lengths, kind="stable")
    start = 0
    while start < len(order):
        count = max(1, min(rows, MOST_TOKENS // max(1, int(lengths[order[min(len(order), start + rows) - 1]]))))
        yield order[start : start + count]
        start += count


@torch.no_grad()
def features_of(
    run: RunContext, classifier: Classifier, ids: list[np.ndarray], device: torch.device, rows: int
) -> torch.Tensor:
    """(rows, size), fp32, on the CPU: what the head reads of each row, with nothing dropped."""
    found: list[torch.Tensor] = []
    lengths = np.array([len(each) for each in ids], dtype=np.int64)
    order: list[np.ndarray] = []
    was_training = classifier.model.training
    classifier.model.eval()
    for part in parts_of(lengths, rows):
        obey(run)
        found.append(classifier.features(pack_texts([ids[place] for place in part]).to(device)).float().cpu())
        order.append(part)
        run.progress(sum(map(len, order)), len(ids))
    classifier.model.train(was_training)
    if not found:
        return torch.zeros(0, 1)
    whole = torch.empty(len(ids), found[0].shape[1])
    whole[torch.from_numpy(np.concatenate(order))] = torch.cat(found)
    return whole


def train_first(
    run: RunContext,
    task: ClassificationTask,
    head: list[torch.nn.Parameter],
    epochs: int,
    seed: int,
    device: torch.device,
) -> None:
    """Train `head` alone on the vectors of at most `MOST_ROWS` training rows; the same for the same seed. Raises `Interrupted`."""
    rng = np.random.default_rng([seed, 0x4EAD])
    count = len(task.train.ids)
    chosen = np.sort(rng.choice(count, MOST_ROWS, replace=False)) if count > MOST_ROWS else np.arange(count)
    run.phase("training", "the head first")
    features = features_of(run, task.classifier, [task.train.ids[place] for place in chosen], device, ROWS)
    rows = Examples([task.train.ids[place] for place in chosen], task.train.truth[chosen], features.to(head[0].dtype))
    alone = ClassificationTask(task.classifier, rows, rows, task.goal)
    masters = Masters(head)
    optimizer = build_optimizer("adamw", masters.masters, RATE, 0.01)
    total, step = epochs * -(-len(chosen) // ROWS), 0
    task.model.train()
    for _ in range(epochs):
        obey(run)
        for part in np.split(order := rng.permutation(len(chosen)), range(ROWS, len(order), ROWS)):
            _learn(alone, alone.batch(part, device), part, masters)
            for group in optimizer.param_groups:
                group["lr"] = RATE * learning_rate_factor("linear", step, total, 0)
            optimizer.step()
            masters.give_back()
            step += 1


def _learn(task: ClassificationTask, batch: Batch, places: np.ndarray, masters: Any) -> None:
    (task.loss(batch).sum / (task.weight_of(places) or 1)).backward()
    masters.clip(1.0, masters.take_gradients())
