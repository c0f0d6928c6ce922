"""How often a run evaluates and writes checkpoints: about ten times, and never for more than a tenth of its time. Pure.

What comes at the end comes in any case: one evaluation and one checkpoint.
"""

from __future__ import annotations

import math
from typing import NamedTuple

SHARE = 0.1
"""Most of a run's time that goes to evaluations and checkpoints."""
TIMES = 10
"""Evaluations and checkpoints of a run that can afford them."""
LEAST_STEPS = 10
"""Fewer steps need no checkpoint before the last one."""
CHECKPOINT_S = 0.05
"""What a checkpoint takes however small it is: files, digests, and waiting for the disk."""
WRITTEN_BYTES_PER_S = 300e6
"""How fast a checkpoint is written, read again for its digests, and flushed."""
LEAST_BATCH_S = 0.005
"""What a micro-batch takes however small the model is."""


class Work(NamedTuple):
    """What a run does, and what that takes."""

    total_steps: int
    held_out_rows: int
    batch_rows: int
    """Rows of a micro-batch."""
    batches: int
    """Micro-batches of a step."""
    forward_share: float
    """Of a step's computation, what the forward pass is: all that an evaluation does."""
    step_s: float
    checkpoint_bytes: int
    keeps_best: bool
    """Whether an evaluation that is better than those before writes a checkpoint as well."""


class Cadence(NamedTuple):
    """Steps between evaluations and between checkpoints, and why."""

    eval_steps: int
    save_steps: int
    eval_reason: str
    save_reason: str


def cadence(work: Work) -> Cadence:
    """The fewest steps in between that keep to the share, as costs are estimated."""
    total = work.total_steps
    usual = math.ceil(total / TIMES)
    checkpoint = checkpoint_cost(work)
    save = max(usual, min(total, LEAST_STEPS), math.ceil(checkpoint / (SHARE / 2)))
    save = min(save, total)
    left = SHARE - (min(SHARE / 2, checkpoint / save) if save < total else 0.0)
    evaluation = evaluation_cost(work)
    both = evaluation + (checkpoint if work.keeps_best else 0.0)
    evaluate = min(total, max(usual, math.ceil(both / left)))
    return Cadence(
        evaluate, save, _reason("evaluations", evaluate, work, evaluation), _reason("checkpoints", save, work, checkpoint)
    )  # fmt: skip


def evaluation_cost(work: Work) -> float:
    """What an evaluation takes, in steps."""
    return math.ceil(work.held_out_rows / work.batch_rows) / work.batches * work.forward_share


def checkpoint_cost(work: Work) -> float:
    """What a checkpoint takes, in steps."""
    step_s = max(work.step_s, LEAST_BATCH_S * work.batches)
    return (CHECKPOINT_S + work.checkpoint_bytes / WRITTEN_BYTES_PER_S) / step_s


def _reason(what: str, every: int, work: Work, cost: float) -> str:
    total = work.total_steps
    if every >= total and total <= LEAST_STEPS:
        return f"Once, at the end: a run of {_steps(total)} needs no more."
    if every == math.ceil(total / TIMES):
        more = ": at most a tenth is ever repeated" if what == "checkpoints" else ""
        return f"About ten {what} in {_steps(total)}{more}."
    often = "Once, at the end" if every >= total else f"Every {_steps(every)} and at the end"
    takes = f"about as long as {_steps(round(cost))}" if cost >= 1 else "less than a step"
    return f"{often}: one takes {takes}, and at most a tenth of the time goes to evaluations and checkpoints."


def _steps(count: int) -> str:
    return f"{count:,} step" if count == 1 else f"{count:,} steps"
