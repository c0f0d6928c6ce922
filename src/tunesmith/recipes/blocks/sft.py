"""Supervised fine-tuning once the model is ready to train: data, training, and what is left behind. Shared by the causal-LM recipes."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tunesmith.core.errors import FailureCode, JobFailure
from tunesmith.core.job_spec import ModelRef
from tunesmith.core.recipe import MetricSpec, Outcome, RunContext
from tunesmith.engine import kernels, sharding
from tunesmith.engine.forward import Forward
from tunesmith.engine.precision import keep_freed_memory
from tunesmith.engine.ranks import Ranks
from tunesmith.recipes.blocks import before_after
from tunesmith.recipes.blocks.adapter import tell_frozen_experts, trains_adapter
from tunesmith.recipes.blocks.chat import give_tools, learned_end_ids
from tunesmith.recipes.blocks.data import load_rows
from tunesmith.recipes.blocks.endings import join_ends, write_ends
from tunesmith.recipes.blocks.held_out import load_split, within_context
from tunesmith.recipes.blocks.loading import load_causal_lm, load_tokenizer
from tunesmith.recipes.blocks.model_card import write_card
from tunesmith.recipes.blocks.neftune import apply_neftune
from tunesmith.recipes.blocks.preparation import use_checkpointing, use_compiling
from tunesmith.recipes.blocks.report import write_report
from tunesmith.recipes.blocks.token_task import TokenTask
from tunesmith.recipes.blocks.tracking import tracked
from tunesmith.recipes.blocks.trainer import Trainer
from tunesmith.recipes.blocks.validate import validate_model
from tunesmith.recipes.hyperparameters import LanguageParams, SftParams
from tunesmith.recipes.language_models import LANGUAGE_METRICS


def fit(
    run: RunContext,
    params: SftParams,
    load: Callable[[], Any],
    tokenizer: Any,
    device: torch.device,
    produces: str,
    save: Callable[[Any, Path], None],
) -> str:
    """Train a model on the job's dataset and leave model, card, report and validation. Returns an `Outcome`.

    `load()` gives the model ready to train; it runs in a thread beside the tokenising. `save(model, folder)` writes the
    weights; everything else in the folder is written here.
    """
    keep_freed_memory()
    params, ranks = within_context(run, params), Ranks()
    sharding.check(params.sharding, params.sharding_offload, ranks, device)
    check_graphs(params, device)
    if params.tool_calls == "ready":
        give_tools(tokenizer)
    with ThreadPoolExecutor(1) as pool:
        loading = pool.submit(load)
        rows, train, held_out, known = load_split(run, params, tokenizer, load_rows)
        model = loading.result()
    torch.manual_seed(params.seed)
    forward = prepared_forward(run, params, model, device, packing=params.packing)
    task = TokenTask(forward, rows, train, held_out, graphs=params.cuda_graphs)
    trainer = Trainer(run, params, task, device, ranks)
    make_ready(run, trainer)
    stop_noise = apply_neftune(model, params.neftune_noise_alpha) if params.neftune_noise_alpha else None
    with tracked(run, params.report_to, params.model_dump(mode="json")):
        outcome = trainer.fit()
    if stop_noise:
        stop_noise()
    if outcome != Outcome.COMPLETED:
        return outcome
    metrics = final_metrics(trainer)
    metrics |= {"rows_skipped": float(len(rows.skipped))} if params.skip_bad_rows else {}
    metrics |= trainer.final_scores() if task.num_held_out else {}
    run.metrics(metrics)
    sharding.gather_trained(model, keep=run.is_main)
    if run.is_main:
        unknown = np.setdiff1d(held_out[0].numbers[held_out[1]], known)
        leave(run, params, model, tokenizer, produces, save, metrics, unknown, device)
    return outcome


def prepared_forward(
    run: RunContext, params: LanguageParams, model: Any, device: torch.device, *, packing: bool
) -> Forward:
    """How losses are computed with `model`; says where that is slower than it could be, and what stays frozen."""
    if trains_adapter(params):
        tell_frozen_experts(run, model)
    forward = Forward(model, packing=packing)
    if packing and not forward.packed:
        run.notice(
            f"Rows are padded instead of laid end to end: {forward.why}. The result is the same, the training slower.",
            code="packing_fallback",
        )
    if device.type == "cpu" and (why_not := kernels.why_not()):
        run.notice(
            f"The kernels for CPUs are not used: {why_not}. The result is the same, the training slower.",
            code="no_kernels",
        )
    return forward


def make_ready(run: RunContext, trainer: Trainer) -> None:
    """Everything between a trainer and its first step."""
    use_checkpointing(run, trainer.params, trainer)
    trainer.take_up()
    use_compiling(run, trainer.params, trainer)


def final_metrics(trainer: Trainer) -> dict[str, float]:
    """What a run took: steps, tokens and seconds."""
    state = trainer.state
    metrics = {"train_steps": float(state.step), "tokens_seen": float(state.tokens_seen)}
    times = {"training_s": "elapsed_s", "evaluation_s": "evaluation_s", "checkpoint_s": "checkpoint_s"}
    return metrics | {name: round(getattr(state, field), 3) for name, field in times.items()}


def check_graphs(params: SftParams, device: torch.device) -> None:
    """Raise `JobFailure` where `cuda_graphs` cannot be."""
    if params.cuda_graphs and device.type != "cuda":
        raise JobFailure(
            FailureCode.UNSUPPORTED, "cuda_graphs needs an NVIDIA GPU.",
            hint="Leave it off; on CPUs nothing is gained by it.",
        )  # fmt: skip


def leave_merged_base(run: RunContext, base: ModelRef) -> Path:
    """The base with the adapter that this job went on from, merged: the new adapter stands on it and on nothing else."""
    merged = load_causal_lm(base, dtype=torch.float32, device=torch.device("cpu"), offline=run.spec.offline)
    with run.artifact("base_model") as folder:
        merged.save_pretrained(folder)
        tokenizer = load_tokenizer(
            base.path, revision=base.revision, offline=run.spec.offline, adapter=base.adapter_path
        )
        tokenizer.save_pretrained(folder)
    return run.dir.artifacts / "base_model"


def leave(
    run: RunContext,
    params: LanguageParams,
    model: Any,
    tokenizer: Any,
    produces: str,
    save: Callable[[Any, Path], None],
    metrics: dict[str, float],
    unknown: np.ndarray,
    device: torch.device,
    measured: Sequence[MetricSpec] = LANGUAGE_METRICS,
) -> None:
    """The model folder (weights, tokenizer, card, configuration), checked by loading it; answers before and after to held-out
    rows of the numbers `unknown`, which were not trained on; the report with a chart of each of `measured`."""
    run.phase("saving", produces)
    settings = params.model_dump(mode="json")
    base = run.spec.model
    base_path = base.path if base else ""
    if base and base.adapter_path and trains_adapter(params):
        base_path = str(leave_merged_base(run, base))
    join_ends(model, learned_end_ids(tokenizer))
    with run.artifact(produces) as folder:
        save(model, folder)
        write_ends(model, folder)
        tokenizer.save_pretrained(folder)
        write_card(folder, run.spec, settings, metrics)
        finished = validate_model(folder, produces, base_path)
    run.phase("evaluating", "before and after")
    asked = before_after.questions(run, params, tokenizer, unknown)
    compared = before_after.compare(run, params, finished, asked, metrics["training_s"], device)
    with run.artifact(before_after.NAME) as folder:
        (folder / f"{before_after.NAME}.json").write_text(json.dumps(compared, indent=1, ensure_ascii=False))
    with run.artifact("report") as folder:
        write_report(folder, run.spec.name, run.spec, settings, run.dir.events, metrics, compared, measured)
