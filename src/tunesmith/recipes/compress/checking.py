"""What a model does before and after: perplexity on the same rows, a greedy answer, speed. One way for transformers' models,
one for GGUF files, which llama.cpp computes in a process of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers.pytorch_utils import Conv1D

from tunesmith.core.clock import monotonic_s
from tunesmith.core.recipe import RunContext
from tunesmith.recipes.blocks.data import load_rows
from tunesmith.recipes.blocks.gguf_tokens import CUT, compare, rendered
from tunesmith.recipes.blocks.llama_cpp import look
from tunesmith.recipes.blocks.templates import Renderer
from tunesmith.recipes.compress.spec import CompressParams
from tunesmith.recipes.compress.text import PARAGRAPHS
from tunesmith.recipes.hyperparameters import SftParams

SPEED_TOKENS = 32
"""Generated for measuring the speed."""
CUTS = (CUT, PARAGRAPHS[7])
"""Texts that llama.cpp has to cut into the same tokens as transformers does, besides conversations."""


class Measured(NamedTuple):
    """One model's numbers; absent ones were not measured."""

    perplexity: float | None
    num_tokens: int
    greedy_answer: str
    tokens_per_s: float | None
    """Generated, one stream, in the format that it would be served in."""
    same_tokens: bool | None = None
    """Whether text is cut as transformers cuts it."""


class Probe(NamedTuple):
    """What every format is asked."""

    rows: list[list[int]]
    calibration: list[list[int]]
    """Other rows, to look at before weights are rounded."""
    tokenizer: Any
    question: str
    max_new_tokens: int
    max_length: int

    @property
    def messages(self) -> list[dict[str, str]]:
        return [{"role": "user", "content": self.question}]


class Rows(NamedTuple):
    """Token numbers of two kinds of text that share none."""

    check: list[list[int]]
    calibration: list[list[int]]


def draw_rows(run: RunContext, params: CompressParams, tokenizer: Any) -> Rows:
    """Of the job's dataset, in an order that the seed gives; else of the text that comes with the recipe."""
    if run.spec.dataset is None:
        found = [list(tokenizer(text)["input_ids"])[: params.max_length] for text in PARAGRAPHS]
        return Rows(cut(found[::2], params.num_eval_tokens), found[1::2])
    data = load_rows(
        run, run.spec.dataset, tokenizer,
        SftParams(
            max_length=params.max_length, seed=params.seed, tool_calls="text", skip_bad_rows=params.skip_bad_rows
        ),
    )  # fmt: skip
    order = np.random.default_rng(params.seed).permutation(len(data))
    most = params.num_calibration_rows
    drawn: list[list[int]] = []
    for index in order:
        if sum(map(len, drawn[most:])) >= params.num_eval_tokens and len(drawn) >= most:
            break
        drawn.append([int(token) for token in data.row(int(index))[0]])
    split = min(most, len(drawn) // 2)
    return Rows(cut(drawn[split:], params.num_eval_tokens), [row for row in drawn[:split] if len(row) > 1])


def cut(rows: list[list[int]], num_tokens: int) -> list[list[int]]:
    """The first rows, together `num_tokens` long at most; none of less than two tokens."""
    kept, left = [], num_tokens
    for row in rows:
        if left < 2:
            break
        kept.append(row[:left])
        left -= len(row)
    return [row for row in kept if len(row) > 1]


def measure_model(model: Any, probe: Probe, progress: Callable[[int, int], None]) -> Measured:
    """With transformers, in the model's own format; its speed is not measured."""
    loss, count = 0.0, 0
    for number, row in enumerate(probe.rows, start=1):
        row_loss, row_count = row_loss_of(model, row)
        loss, count = loss + row_loss, count + row_count
        progress(number, len(probe.rows))
    answer = probe.tokenizer.decode(generated(model, probe, probe.max_new_tokens), skip_special_tokens=True)
    return Measured(math.exp(loss / count) if count else None, count, str(answer), None)


def speed_of(model: Any, probe: Probe) -> float:
    """Generated tokens a second, one stream."""
    generated(model, probe, 1)  # what a first pass prepares is not timed
    begin_s = monotonic_s()
    count = len(generated(model, probe, SPEED_TOKENS, SPEED_TOKENS))
    return count / max(1e-9, monotonic_s() - begin_s)


@torch.no_grad()
def importance_of(model: Any, rows: list[list[int]], progress: Callable[[int, int], None]) -> dict[str, np.ndarray]:
    """By the name of each linear map's weight: the mean square of what comes into each of its columns, over all tokens."""
    sums: dict[str, torch.Tensor] = {}
    handles = []

    def watch(name: str) -> Callable[[Any, Any, Any], None]:
        def look_in(_module: Any, inputs: Any, _output: Any) -> None:
            squares = inputs[0].reshape(-1, inputs[0].shape[-1]).double().square().sum(0)
            sums[name] = sums[name] + squares if name in sums else squares

        return look_in

    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear | Conv1D):
            handles.append(module.register_forward_hook(watch(f"{name}.weight")))
    try:
        for number, row in enumerate(rows, start=1):
            model(input_ids=torch.tensor([row], device=model.device), use_cache=False)
            progress(number, len(rows))
    finally:
        for handle in handles:
            handle.remove()
    count = max(1, sum(map(len, rows)))
    return {name: (total / count).float().cpu().numpy() for name, total in sums.items()}


@torch.no_grad()
def row_loss_of(model: Any, row: Sequence[int]) -> tuple[float, int]:
    """Negative log-likelihood of the row's tokens after the first, nats, and how many they are."""
    ids = torch.tensor([list(row)], device=model.device)
    logits = model(input_ids=ids, use_cache=False).logits[0, :-1].double()
    found = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum")
    return float(found), len(row) - 1


@torch.no_grad()
def generated(model: Any, probe: Probe, most: int, least: int = 0) -> Any:
    """The tokens of the greedy answer."""
    with Renderer(probe.tokenizer) as template:
        text = template.render(probe.messages, prompt=True)
    inputs = probe.tokenizer(text, add_special_tokens=False, return_tensors="pt").to(model.device)
    length = inputs["input_ids"].shape[1]
    pad = probe.tokenizer.pad_token_id
    out = model.generate(
        **inputs, max_new_tokens=most, min_new_tokens=least, do_sample=False, pad_token_id=pad, num_beams=1
    )
    return out[0, length:]


def measure_gguf(path: Path, probe: Probe, adapter: Path | None = None) -> Measured:
    """With llama.cpp. Raises as `look`, and `UnsupportedFormat` when it cuts a conversation into other tokens than transformers."""
    talks = rendered(probe.tokenizer)
    found = look(
        path, rows=probe.rows, texts=(*CUTS, *talks), questions=[probe.messages], speed_tokens=SPEED_TOKENS, adapter=adapter,
        max_tokens=probe.max_new_tokens, window=probe.max_length,
    )  # fmt: skip
    compare(probe.tokenizer, talks, found.tokens[len(CUTS) :])
    theirs = [tuple(probe.tokenizer(text, add_special_tokens=False)["input_ids"]) for text in CUTS]
    same = list(found.tokens[: len(CUTS)]) == theirs
    return Measured(found.perplexity or None, found.num_tokens, found.answers[0], found.tokens_per_s, same)
