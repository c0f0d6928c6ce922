"""Before and after: a few held-out questions, answered by the base model and by the tuned one.

All of it comes after the training and after the tuned model is saved, from models loaded anew, so it cannot change a result. The
answers are the likeliest ones. Both models read the same tokens, and both are scored on the same expected answer.
"""

from __future__ import annotations

import gc
import json
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import StoppingCriteria

from tunesmith.core.clock import monotonic_s
from tunesmith.core.errors import BadData, is_out_of_memory
from tunesmith.core.job_spec import DatasetRef
from tunesmith.core.progress import moved
from tunesmith.core.recipe import RunContext
from tunesmith.dataprep.conversion import Example
from tunesmith.engine.forward import Forward
from tunesmith.engine.packing import IGNORE, pack
from tunesmith.recipes.blocks import scoring, scoring_text
from tunesmith.recipes.blocks.chat import Chat
from tunesmith.recipes.blocks.data import options_of
from tunesmith.recipes.blocks.generation import generate
from tunesmith.recipes.blocks.lessons import encode, read_batches, read_examples
from tunesmith.recipes.blocks.loading import load_causal_lm
from tunesmith.recipes.blocks.memory import SHARE_OF_FREE_MEMORY, free_bytes
from tunesmith.recipes.blocks.templates import Renderer
from tunesmith.recipes.blocks.validate import Finished
from tunesmith.recipes.hyperparameters import LanguageParams

NAME = "before_after"
"""Of the artifact; its one file is this with `.json`."""
MAX_PROMPT_TOKENS, MAX_ANSWER_TOKENS, MARGIN_TOKENS = 1024, 128, 16
"""Of a longer prompt the end is read; no answer needs to be much longer than what is expected."""
SPARE = 4
"""How many times the rows are looked at that are asked: some may have nothing to ask."""
SHARE_OF_TIME, LEAST_S, MOST_S = 0.1, 10.0, 120.0
"""How long it may take: a tenth of the training, between these bounds."""
NO_ROWS = "Nothing can be asked: no row was held out, or every held-out row is trained on too."
LATER = "Evaluate the model to ask it all held-out rows, without a limit of time."
HINT = "Set validation_split above 0, or choose a held-out dataset."


class Question(NamedTuple):
    """A held-out row cut where its first answer begins; a plain text is cut in the middle."""

    row: int
    """From 1, as in the dataset."""
    turns: list[dict[str, str]]
    """What comes before the answer: role and content of each message; one of the role `text` for a plain text."""
    prompt_ids: np.ndarray
    expected_ids: np.ndarray
    is_cut: bool
    """Whether only the end of the prompt is read."""


class Answers(NamedTuple):
    """What one model makes of the questions."""

    losses: list[float]
    """Mean cross-entropy over each expected answer, nats a token."""
    ids: list[list[int]]
    steps: int
    """Tokens that there was time for: an answer that is as long goes on."""


class Watch(StoppingCriteria):
    """Counts tokens, and ends the answers when the time is over or somebody wants the job to end."""

    def __init__(self, run: RunContext, time_s: float) -> None:
        self._run, self._deadline_s = run, monotonic_s() + time_s
        self.steps = 0

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_more: Any) -> torch.Tensor:
        moved()
        self.steps += 1
        control = self._run.control()
        is_over = monotonic_s() > self._deadline_s or control.stop or control.pause
        return torch.full((len(input_ids),), is_over, dtype=torch.bool, device=input_ids.device)


def questions(run: RunContext, params: LanguageParams, tokenizer: Any, numbers: np.ndarray) -> list[Question]:
    """One of each of the held-out rows `numbers` (from 0) that can be asked: the first few, which are the same for every job
    that holds out the same."""
    data = run.spec.eval_dataset or run.spec.dataset
    if data is None or not len(numbers):
        return []
    wanted = np.unique(numbers)[: SPARE * params.comparison_questions]
    options = options_of(params)._replace(train_on="completions")
    found: list[Question] = []
    with Renderer(tokenizer) as template:
        chat = Chat(tokenizer, template, options)
        for number, example in _examples(data, wanted):
            if len(found) == params.comparison_questions:
                break
            (lessons,) = chat.lessons([example])
            if isinstance(lessons, BadData) or isinstance(example, BadData) or not lessons:
                continue
            (tokens,) = encode(lessons[:1], tokenizer)
            question = _cut(
                number, example, tokens.ids[: params.max_length], tokens.learn[: params.max_length], tokenizer
            )
            if question:
                found.append(_with_system(question, params, example))
    return found


def _examples(data: DatasetRef, numbers: np.ndarray) -> list[tuple[int, Example | BadData]]:
    found: list[tuple[int, Example | BadData]] = []
    for row_numbers, batch in read_batches(data.path, sorted(set(data.mapping.values())), numbers):
        found += zip(map(int, row_numbers), read_examples(batch, data), strict=True)
    return found


def _cut(number: int, example: Example, ids: np.ndarray, learn: np.ndarray, tokenizer: Any) -> Question | None:
    """None when nothing is left on either side."""
    if example.text is not None:
        begin, end = len(ids) // 2, len(ids)
        turns = [{"role": "text", "content": str(tokenizer.decode(ids[:begin], skip_special_tokens=True))}]
    else:
        begin = int(np.argmax(learn))
        end = len(ids) if learn[begin:].all() else begin + int(np.argmin(learn[begin:]))
        before = example.messages[: example.learned.index(True)]
        turns = [{"role": str(message["role"]), "content": _text_of(message)} for message in before]
    if begin < 1 or end <= begin or not learn.any() or not turns:
        return None
    return Question(
        number, turns, ids[max(0, begin - MAX_PROMPT_TOKENS) : begin], ids[begin:end], begin > MAX_PROMPT_TOKENS
    )


def _with_system(question: Question, params: LanguageParams, example: Example) -> Question:
    has_own = example.text is not None or (question.turns and question.turns[0]["role"] == "system")
    if not params.system_prompt or has_own:
        return question
    return question._replace(turns=[{"role": "system", "content": params.system_prompt}, *question.turns])


def _text_of(message: dict[str, Any]) -> str:
    """What a person reads of a message; calls as JSON."""
    calls = [json.dumps(call.get("function", call), ensure_ascii=False) for call in message.get("tool_calls") or ()]
    return "\n".join(part for part in (message.get("content"), *calls) if part)


def compare(
    run: RunContext, params: LanguageParams, finished: Finished, asked: Sequence[Question], trained_s: float, device: torch.device
) -> dict[str, Any]:  # fmt: skip
    """What `before_after.json` holds. Gives up `finished.model` where the base must be loaded in its place."""
    data, base = run.spec.eval_dataset or run.spec.dataset, run.spec.model
    limit = answer_limit(asked)
    told: dict[str, Any] = {
        "dataset": data.name if data else "", "base_model": base.name if base else "", "answer_limit": limit,
        "reason": "", "hint": "", "questions": [],
    }  # fmt: skip
    if not params.comparison_questions:
        return told | {"reason": "The comparison is switched off.", "hint": "Set comparison_questions above 0."}
    if not asked:
        return told | {"reason": NO_ROWS, "hint": HINT}
    budget_s = min(MOST_S, max(LEAST_S, SHARE_OF_TIME * trained_s))
    try:
        sides = _both_sides(run, finished, asked, budget_s, limit, device)
    except (RuntimeError, MemoryError) as error:  # the model is saved: a comparison that cannot be had must not cost it
        why = "memory is not enough" if is_out_of_memory(error) else str(error).strip().partition("\n")[0][:300]
        told |= {"reason": f"The answers could not be computed: {why}.", "hint": LATER}
        run.notice(told["reason"], hint=LATER, level="warning", code="no_comparison")
        return told
    if sides is None:
        return told | {
            "reason": f"Loading the base again takes more than {budget_s:.0f} s, the time that is given to it.",
            "hint": LATER,
        }
    steps = min(side.steps for side in sides)
    if steps < limit:
        told["answer_limit"], told["hint"] = steps, LATER
        told["reason"] = (
            f"Answers are cut after {steps} {'token' if steps == 1 else 'tokens'}: the {budget_s:.0f} s that are given to it allowed no more."
        )
    scored = [_scored(side, asked, steps, finished.tokenizer) for side in sides]
    told["questions"] = [
        {
            "row": question.row, "turns": question.turns, "prompt_is_cut": question.is_cut,
            "expected": _said(finished.tokenizer, question.expected_ids), "expected_tokens": len(question.expected_ids),
            "base": base_told, "tuned": tuned_told,
        }
        for question, base_told, tuned_told in zip(asked, *scored, strict=True)
    ]  # fmt: skip
    return told


def answer_limit(asked: Sequence[Question]) -> int:
    """Tokens after which an answer is cut."""
    longest = max((len(question.expected_ids) for question in asked), default=0)
    return max(1, min(MAX_ANSWER_TOKENS, longest + MARGIN_TOKENS))


def _both_sides(
    run: RunContext, finished: Finished, asked: Sequence[Question], budget_s: float, limit: int, device: torch.device
) -> tuple[Answers, Answers] | None:
    """`(base, tuned)`, each in half of the time; None where loading the base would take too long."""
    tokenizer, base = finished.tokenizer, run.spec.model
    if base is None or (finished.without_adapter is None and finished.load_s > budget_s):
        return None
    model: Any = _placed(finished.model, device)
    tuned = _answers(model, tokenizer, asked, Watch(run, budget_s / 2), limit)
    if finished.without_adapter is not None:
        with finished.without_adapter():
            return _answers(model, tokenizer, asked, Watch(run, budget_s / 2), tuned.steps), tuned
    dtype, ends = next(model.parameters()).dtype, model.generation_config.eos_token_id
    finished.give_up()
    del model
    gc.collect()  # models hold themselves in circles
    loaded = _placed(load_causal_lm(base, dtype=dtype, device=torch.device("cpu"), offline=run.spec.offline), device)
    loaded.generation_config.eos_token_id = ends  # both may end an answer in the same way
    return _answers(loaded.eval(), tokenizer, asked, Watch(run, budget_s / 2), tuned.steps), tuned


def _placed(model: Any, device: torch.device) -> Any:
    """On `device` if there is room."""
    needed = sum(weight.nbytes for weight in model.parameters())
    return model.to(device) if device.type != "cpu" and needed < SHARE_OF_FREE_MEMORY * free_bytes(device) else model


def _answers(model: Any, tokenizer: Any, asked: Sequence[Question], watch: Watch, limit: int) -> Answers:
    rows = []
    for question in asked:
        ids = np.concatenate([question.prompt_ids, question.expected_ids])
        is_asked = np.arange(len(ids)) < len(question.prompt_ids)
        rows.append((ids, np.where(is_asked, IGNORE, ids).astype(np.int32)))
    sums, _ = Forward(model, packing=False).score_rows(pack(rows).to(next(model.parameters()).device))
    losses = [float(total) / len(question.expected_ids) for total, question in zip(sums, asked, strict=True)]
    made = generate(model, tokenizer, [question.prompt_ids for question in asked], limit, watch)
    has_ended = all(len(ids) < watch.steps for ids in made)
    return Answers(losses, made, limit if has_ended else watch.steps)


def _scored(side: Answers, asked: Sequence[Question], steps: int, tokenizer: Any) -> list[dict[str, Any]]:
    """Each answer up to `steps` tokens, and its scores."""
    found = []
    for question, loss, ids in zip(asked, side.losses, side.ids, strict=True):
        text = _said(tokenizer, ids[:steps])
        counted = scoring_text.chrf(text, _said(tokenizer, question.expected_ids[:steps]))
        similarity = float(scoring.METRICS["chrf"].finish(np.array([counted], dtype=np.float64), 1)[0])
        is_finite = math.isfinite(loss)
        found.append(
            {
                "answer": text, "tokens": min(len(ids), steps), "is_cut": len(ids) >= steps,
                "loss": round(loss, 6) if is_finite else None,
                "perplexity": round(math.exp(min(loss, 700.0)), 6) if is_finite else None, "chrf": round(similarity, 4),
            }
        )  # fmt: skip
    return found


def _said(tokenizer: Any, ids: Sequence[int] | np.ndarray) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=True)).strip()
