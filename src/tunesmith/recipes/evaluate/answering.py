"""What the model makes of rows: how likely it finds them, what it answers, and how fast."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from transformers import StoppingCriteria

from tunesmith.core.recipe import RunContext
from tunesmith.engine.forward import Forward
from tunesmith.engine.packing import pack
from tunesmith.recipes.blocks.generation import generate
from tunesmith.recipes.blocks.token_rows import TokenRows
from tunesmith.recipes.evaluate.journal import Journal, Steps, check_control
from tunesmith.recipes.evaluate.rows import Question

MARGIN_TOKENS = 16
"""Tokens beyond twice the longest expected answer after which an answer is cut."""
WARM_UP_TOKENS = 2


def measure_likelihood(
    run: RunContext, model: Any, rows: TokenRows, places: np.ndarray, batch_size: int, journal: Journal, steps: Steps
) -> None:
    """Into the journal, by row: summed loss (nats), supervised tokens, and how many of them were the first choice."""
    left = [int(place) for place in places if int(rows.numbers[place]) not in journal.entries]
    attention = model.config.get_text_config()._attn_implementation
    forward = Forward(model, packing=True)
    supervised = rows.num_supervised
    device = next(model.parameters()).device
    run.phase("evaluating", "likelihood")
    try:
        for batch in _batches(left, lambda place: int(rows.lengths[place]), batch_size):
            check_control(run)
            losses, correct = forward.score_rows(pack([rows.row(place) for place in batch]).to(device))
            journal.add(
                {
                    "row": int(rows.numbers[place]),
                    "likelihood": [float(losses[i]), int(supervised[place]), int(correct[i])],
                }
                for i, place in enumerate(batch)
            )
            steps.tell("likelihood", len(journal.entries))
    finally:
        model.set_attn_implementation(attention)


def answer_all(
    run: RunContext, model: Any, tokenizer: Any, questions: Sequence[Question], max_new_tokens: int, batch_size: int,
    journal: Journal, steps: Steps,
) -> None:  # fmt: skip
    """Into the journal, by row: the likeliest answer, its tokens, and the seconds of its batch shared out."""
    left = [question for question in questions if question.row not in journal.entries]
    most = answer_limit(questions, max_new_tokens)
    run.phase("evaluating", "answers")
    for batch in _batches(left, lambda question: len(question.prompt_ids), batch_size):
        check_control(run)
        began_s = time.monotonic()
        made = generate(model, tokenizer, [question.prompt_ids for question in batch], most, Watch(run))
        took_s = time.monotonic() - began_s
        tokens = sum(map(len, made))
        journal.add(
            {
                "row": question.row, "answer": tokenizer.decode(ids, skip_special_tokens=True).strip(), "tokens": len(ids),
                "seconds": took_s * len(ids) / max(1, tokens),
            }
            for question, ids in zip(batch, made, strict=True)
        )  # fmt: skip
        steps.tell("answers", len(journal.entries))


def answer_limit(questions: Sequence[Question], max_new_tokens: int) -> int:
    """No answer needs to be much longer than the longest that is expected."""
    longest = max((question.expected_tokens for question in questions), default=0)
    return max(1, min(max_new_tokens, 2 * longest + MARGIN_TOKENS))


def time_alone(
    run: RunContext, model: Any, tokenizer: Any, questions: Sequence[Question], max_new_tokens: int, steps: Steps
) -> list[tuple[float, float, int]]:
    """`(seconds to the first token, seconds in all, tokens)` of questions answered one at a time, after a warm-up."""
    run.phase("evaluating", "latency")
    found = []
    for question in questions[:1]:
        generate(model, tokenizer, [question.prompt_ids], WARM_UP_TOKENS, Watch(run))
    for number, question in enumerate(questions, start=1):
        check_control(run)
        watch = Watch(run)
        began_s = time.monotonic()
        (ids,) = generate(model, tokenizer, [question.prompt_ids], max_new_tokens, watch)
        found.append(((watch.first_s or time.monotonic()) - began_s, time.monotonic() - began_s, len(ids)))
        steps.tell("latency", number)
    return found


class Watch(StoppingCriteria):
    """Looks after every token whether the job should end, and when the first one came."""

    def __init__(self, run: RunContext) -> None:
        self._run = run
        self.first_s: float | None = None

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_more: Any) -> torch.Tensor:
        self.first_s = self.first_s or time.monotonic()
        check_control(self._run)
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


def _batches(items: Sequence[Any], length: Callable[[Any], int], size: int) -> Iterator[list[Any]]:
    """Items of like length together, the longest first: what does not fit the memory shows at once."""
    order = sorted(items, key=length, reverse=True)
    for start in range(0, len(order), size):
        yield order[start : start + size]
