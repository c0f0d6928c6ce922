"""What each part of the engine gains: the same rows through ever more of it, alternating, beside plain transformers + PEFT."""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from tunesmith.core.job_spec import ModelRef
from tunesmith.engine import compiling, kernels
from tunesmith.engine.attention import rows_of
from tunesmith.engine.forward import Forward
from tunesmith.engine.fusing import fuse
from tunesmith.engine.lora import add_lora, linear_names
from tunesmith.engine.packing import IGNORE, PackedBatch, pack
from tunesmith.engine.precision import keep_freed_memory, pick_device, pick_dtype, set_threads
from tunesmith.recipes.blocks.loading import load_causal_lm, load_tokenizer

Rows = list[tuple[np.ndarray, np.ndarray]]
Step = Callable[[Rows], torch.Tensor]
"""One forward and backward pass over some rows; the mean loss."""
STAGES = (
    "plain transformers + PEFT",
    "rows end to end",
    "loss where there is a label",
    "fused LoRA",
    "fused norms and feed-forwards",
    "kernels for CPUs",
    "compiled layers, kernels for the rest",
)
FUSED, KERNELS, COMPILED = 4, 5, 6


def read_rows(path: Path, tokenizer: Any, count: int) -> Rows:
    """Questions and answers as tokens and labels; the answer is learnt."""
    rows = []
    for line in path.read_text().splitlines()[:count]:
        row = json.loads(line)
        talk = [{"role": "user", "content": row["question"]}, {"role": "assistant", "content": row["answer"]}]
        prompt = tokenizer.apply_chat_template(talk[:1], add_generation_prompt=True, tokenize=False)
        ids = np.array(tokenizer(tokenizer.apply_chat_template(talk, tokenize=False))["input_ids"])
        learnt_from = len(tokenizer(prompt)["input_ids"])
        rows.append((ids, np.where(np.arange(len(ids)) < learnt_from, IGNORE, ids)))
    return rows


def make_up_rows(count: int) -> Rows:
    rng = np.random.default_rng(0)
    rows = []
    for length in rng.integers(80, 350, count):
        ids = rng.integers(10, 10_000, length)
        rows.append((ids, np.where(np.arange(length) < length // 2, IGNORE, ids)))
    return rows


def all_logits(model: Any, rows: Rows) -> torch.Tensor:
    """As trainers do it: rows padded to the longest, logits of every position, loss in fp32."""
    ids = pad_sequence([torch.from_numpy(row) for row, _ in rows], batch_first=True)
    labels = pad_sequence([torch.from_numpy(row) for _, row in rows], batch_first=True, padding_value=IGNORE)
    mask = pad_sequence([torch.ones(len(row), dtype=torch.long) for row, _ in rows], batch_first=True)
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits.float()
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORE)


def flat_logits(forward: Forward, batch: PackedBatch) -> torch.Tensor:
    """Rows end to end, and still the logits of every position."""
    logits = forward._logits(forward._hidden(batch)).float()
    return F.cross_entropy(logits[batch.target_positions], batch.targets)


def make_stage(stage: int, path: str, dtype: torch.dtype) -> Step:
    """The step of `STAGES[stage]`, on a model of its own."""
    device = pick_device()
    model = load_causal_lm(ModelRef(name="bench", path=path), dtype=dtype, device=device, offline=True)
    torch.manual_seed(0)
    if stage < 3:
        from peft import LoraConfig, get_peft_model

        config = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
        peft: Any = get_peft_model(model, config)
        model = peft if stage == 0 else peft.get_base_model()
    else:
        add_lora(model, linear_names(model), 16, 32, 0.0)
    if stage >= FUSED:
        fuse(model)
    model.train()
    forward = Forward(model, packing=True) if stage else None
    if stage == COMPILED:
        compiling.compile_layers(model)

    def step(rows: Rows) -> torch.Tensor:
        with nullcontext() if stage >= KERNELS else mock.patch.object(kernels, "_library", lambda: None):
            return passes(rows)

    def passes(rows: Rows) -> torch.Tensor:
        if forward is None:
            loss = all_logits(model, rows)
            loss.backward()
        else:
            batch = pack(rows).to(device)
            with rows_of(batch):
                whole = stage >= 2
                loss = forward.loss_sum(batch) / len(batch.targets) if whole else flat_logits(forward, batch)
                loss.backward()
        model.zero_grad(set_to_none=True)
        return loss.detach()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="Folder of a model.")
    parser.add_argument("--rows", type=Path, help="JSON Lines with question and answer; made up when absent.")
    parser.add_argument("--steps", type=int, default=6, help="Measured steps, of eight rows each.")
    arguments = parser.parse_args()
    set_threads(None)
    keep_freed_memory()
    dtype = pick_dtype(pick_device(), None, fp16=False)
    count = 8 * (arguments.steps + 1)
    tokenizer = load_tokenizer(arguments.model, offline=True)
    rows = read_rows(arguments.rows, tokenizer, count) if arguments.rows else make_up_rows(count)
    steps = [make_stage(stage, arguments.model, dtype) for stage in range(len(STAGES))]
    rates: list[list[float]] = [[] for _ in STAGES]
    losses: list[list[float]] = [[] for _ in STAGES]
    for number in range(arguments.steps + 1):
        part = rows[8 * number : 8 * number + 8]
        tokens = sum(len(ids) for ids, _ in part)
        for turn in range(len(STAGES)):
            stage = (turn + number) % len(STAGES)
            began_s = time.perf_counter()
            losses[stage].append(float(steps[stage](part)))
            seconds = time.perf_counter() - began_s
            if number:  # the first one warms up and compiles
                rates[stage].append(tokens / seconds)
            else:
                print(f"first step, {STAGES[stage]}: {seconds:.1f} s", flush=True)
    print(f"{torch.get_num_threads()} threads, {dtype}, {arguments.steps} steps of eight rows, forward and backward")
    medians = [statistics.median(found) for found in rates]
    for stage, name in enumerate(STAGES):
        apart = max(abs(a - b) for a, b in zip(losses[stage], losses[0], strict=True))
        print(
            f"{name:38} {medians[stage]:8.0f} tokens/s  {medians[stage] / medians[0]:5.2f} x   loss apart by {apart:.1e} at most"
        )


if __name__ == "__main__":
    main()
