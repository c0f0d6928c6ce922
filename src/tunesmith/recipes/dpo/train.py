"""DPO, told from the top."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tunesmith.core.errors import FailureCode, JobFailure
from tunesmith.core.recipe import Outcome, RunContext
from tunesmith.engine import sharding
from tunesmith.engine.fusing import fuse
from tunesmith.engine.precision import keep_freed_memory, pick_device, pick_dtype, set_threads
from tunesmith.engine.ranks import Ranks
from tunesmith.recipes.blocks.adapter import add_adapter, save_adapter
from tunesmith.recipes.blocks.chat import give_tools
from tunesmith.recipes.blocks.held_out import load_split, within_context
from tunesmith.recipes.blocks.loading import load_causal_lm, load_tokenizer, loading_device
from tunesmith.recipes.blocks.sft import final_metrics, leave, make_ready, prepared_forward
from tunesmith.recipes.blocks.tracking import tracked
from tunesmith.recipes.blocks.trainer import Trainer
from tunesmith.recipes.dpo.pair_task import Pairs, PairTask
from tunesmith.recipes.dpo.pairs import load_pairs
from tunesmith.recipes.dpo.reference import reference_of
from tunesmith.recipes.dpo.spec import METRICS, RECIPE, DpoParams


def train(params: DpoParams, run: RunContext) -> str:
    """Train an adapter, or all weights, to prefer the better answers. Returns an `Outcome`."""
    # 1) Where and in which number format
    set_threads(run.spec.resources.cpu_threads)
    keep_freed_memory()
    device = pick_device()
    dtype = pick_dtype(device, params.bf16, params.fp16)
    base = run.spec.model
    assert base is not None  # the service refuses a job without one
    refuse_other_rows(run)
    params, ranks = within_context(run, params), Ranks()
    sharding.check(params.sharding, params.sharding_offload, ranks, device)

    # 2) What we train, while the rows become tokens
    tokenizer = load_tokenizer(base.path, revision=base.revision, offline=run.spec.offline, adapter=base.adapter_path)
    if params.tool_calls == "ready":
        give_tools(tokenizer)

    def load() -> Any:
        home = loading_device(device, params.sharding)
        model = load_causal_lm(base, dtype=dtype, device=home, offline=run.spec.offline)
        switch_dropout_off(model)
        if params.adapter:
            add_adapter(model, params, params.seed)
            return model
        fuse(model)
        return model.requires_grad_(True)

    with ThreadPoolExecutor(1) as pool:
        loading = pool.submit(load)
        rows, places, (other_rows, other_places), known = load_split(run, params, tokenizer, load_pairs)
        model = loading.result()
    torch.manual_seed(params.seed)
    forward = prepared_forward(run, params, model, device, packing=True)
    task = PairTask(params, forward, Pairs(rows, places), Pairs(other_rows, other_places))
    trainer = Trainer(run, params, task, device, ranks)
    make_ready(run, trainer)

    # 3) What the reference says, once
    if not params.reference_free:
        for pairs in (task.train, task.held_out):
            found = reference_of(run, trainer, forward, pairs.rows)
            if isinstance(found, str):
                return found
            pairs.reference = found

    # 4) Train, then leave behind what others can use
    with tracked(run, params.report_to, params.model_dump(mode="json")):
        outcome = trainer.fit()
    if outcome != Outcome.COMPLETED:
        return outcome
    metrics = final_metrics(trainer)
    metrics |= {"rows_skipped": float(len(rows.skipped))} if params.skip_bad_rows else {}
    metrics |= trainer.final_scores() if task.num_held_out else {}
    run.metrics(metrics)
    sharding.gather_trained(model, keep=run.is_main)
    if run.is_main:

        def save(tuned: Any, folder: Path) -> None:
            if params.adapter:
                save_adapter(tuned, folder, run.spec, params)
            else:
                tuned.save_pretrained(folder)

        unknown = np.setdiff1d(other_rows.numbers[other_places], known)
        leave(run, params, model, tokenizer, RECIPE.produces, save, metrics, unknown, device, METRICS)
    return outcome


def refuse_other_rows(run: RunContext) -> None:
    """Raise `JobFailure` for rows that are no pairs."""
    for data in (run.spec.dataset, run.spec.eval_dataset):
        if data is not None and data.shape != "preference":
            raise JobFailure(
                FailureCode.BAD_DATA, f"The rows of {data.name} are of shape {data.shape or 'unknown'}, and dpo needs preference.",
                hint="Map the columns of the better and of the worse answer as chosen and rejected.",
            )  # fmt: skip


def switch_dropout_off(model: nn.Module) -> None:
    """The model's own dropout: answers are compared with the reference, so chance must not tell them apart."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0  # type: ignore[assignment]
