"""Supervised fine-tuning once the model is ready to train: data, loop, and what is left behind. Shared by the causal-LM recipes."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers.modeling_layers import GradientCheckpointingLayer

from tunesmith.core.errors import FailureCode, JobFailure
from tunesmith.core.job_spec import DatasetRef, ModelRef
from tunesmith.core.recipe import Outcome, RunContext
from tunesmith.engine import compiling, kernels, sharding
from tunesmith.engine.forward import Forward
from tunesmith.engine.fp8 import to_fp8
from tunesmith.engine.fusing import fuse
from tunesmith.engine.lora import add_lora, expert_share, linear_names
from tunesmith.engine.precision import keep_freed_memory
from tunesmith.engine.ranks import Ranks
from tunesmith.recipes.blocks import before_after
from tunesmith.recipes.blocks.chat import give_tools, learned_end_ids
from tunesmith.recipes.blocks.data import find_bad, load_rows
from tunesmith.recipes.blocks.endings import join_ends, write_ends
from tunesmith.recipes.blocks.loading import load_causal_lm, load_config, load_tokenizer
from tunesmith.recipes.blocks.loop import Loop
from tunesmith.recipes.blocks.memory import SHARE_OF_FREE_MEMORY, free_bytes, layers_to_recompute
from tunesmith.recipes.blocks.model_card import write_card
from tunesmith.recipes.blocks.neftune import apply_neftune
from tunesmith.recipes.blocks.report import write_report
from tunesmith.recipes.blocks.split import contents_of, needed_rows, split_rows, split_usable
from tunesmith.recipes.blocks.token_rows import TokenRows
from tunesmith.recipes.blocks.tracking import tracked
from tunesmith.recipes.blocks.validate import validate_model
from tunesmith.recipes.hyperparameters import LoraFields, SftParams


def target_names(model: Any, targets: str | list[str]) -> list[str]:
    """Full names of the layers that `targets` means. Raises `JobFailure` naming those that exist."""
    everything = linear_names(model)
    if not everything:
        raise JobFailure(
            FailureCode.UNSUPPORTED,
            "The model has no linear layers that an adapter could stand beside.",
            hint="Use method standard.",
        )
    found = [name for name in everything if name.rpartition(".")[2] in targets or name in targets]
    missing = [
        t
        for t in targets
        if targets != "all-linear" and not any(name == t or name.rpartition(".")[2] == t for name in everything)
    ]
    if missing:
        known = sorted({name.rpartition(".")[2] for name in everything})
        raise JobFailure(
            FailureCode.INVALID_SETTINGS,
            f"The model has no linear layer named {', '.join(missing)}.",
            hint=f"target_modules can be all-linear, or some of: {', '.join(known)}.",
        )
    return everything if targets == "all-linear" else found


def add_adapter(model: Any, params: LoraFields, *, in_fp8: bool = False) -> None:
    """Put LoRA on `model`, initialised from the seed, beside frozen layers as they are or `in_fp8`."""
    torch.manual_seed(params.seed)
    names = target_names(model, params.target_modules)
    add_lora(model, names, params.lora_r, params.lora_alpha, params.lora_dropout)
    if in_fp8:
        to_fp8(model)
    fuse(model)


def tell_frozen_experts(run: RunContext, model: Any) -> None:
    """Say what share of a mixture of experts an adapter cannot reach."""
    if share := expert_share(model):
        run.notice(
            f"The experts of this model, {share:.0%} of its weights, stay frozen: the adapter stands beside attention and other "
            "linear layers, and experts are none.",
            code="frozen_experts",
            hint="Use method standard to train the experts as well.",
        )


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
        rows, train, held_out, known = load_split(run, params, tokenizer)
        model = loading.result()
    if isinstance(params, LoraFields):
        tell_frozen_experts(run, model)
    torch.manual_seed(params.seed)
    forward = Forward(model, packing=params.packing)
    if params.packing and not forward.packed:
        run.notice(
            f"Rows are padded instead of laid end to end: {forward.why}. The result is the same, the training slower.",
            code="packing_fallback",
        )
    if device.type == "cpu" and (why_not := kernels.why_not()):
        run.notice(
            f"The kernels for CPUs are not used: {why_not}. The result is the same, the training slower.",
            code="no_kernels",
        )
    loop = Loop(run, params, forward, rows, train, held_out, device, ranks)
    use_checkpointing(run, params, model, loop)
    loop.take_up()
    use_compiling(run, params, model, loop)
    stop_noise = apply_neftune(model, params.neftune_noise_alpha) if params.neftune_noise_alpha else None
    with tracked(run, params.report_to, params.model_dump(mode="json")):
        outcome = loop.fit()
    if stop_noise:
        stop_noise()
    if outcome != Outcome.COMPLETED:
        return outcome
    metrics = {"train_steps": float(loop.state.step), "tokens_seen": float(loop.state.tokens_seen)}
    times = {"training_s": "elapsed_s", "evaluation_s": "evaluation_s", "checkpoint_s": "checkpoint_s"}
    metrics |= {name: round(getattr(loop.state, field), 3) for name, field in times.items()}
    metrics |= {"rows_skipped": float(len(rows.skipped))} if params.skip_bad_rows else {}
    if len(held_out[1]):
        metrics |= loop.final_scores()
    run.metrics(metrics)
    sharding.gather_trained(model, keep=run.is_main)
    if run.is_main:
        unknown = np.setdiff1d(held_out[0].numbers[held_out[1]], known)
        leave(run, params, model, tokenizer, produces, save, metrics, unknown, device)
    return outcome


def check_graphs(params: SftParams, device: torch.device) -> None:
    """Raise `JobFailure` where `cuda_graphs` cannot be."""
    if params.cuda_graphs and device.type != "cuda":
        raise JobFailure(
            FailureCode.UNSUPPORTED, "cuda_graphs needs an NVIDIA GPU.",
            hint="Leave it off; on CPUs nothing is gained by it.",
        )  # fmt: skip


def within_context(run: RunContext, params: SftParams) -> SftParams:
    """`params` with `max_length` no longer than what the model was made for."""
    assert run.spec.model is not None  # the service refuses a job without one
    config = load_config(run.spec.model, offline=run.spec.offline)
    context: int | None = getattr(config.get_text_config(), "max_position_embeddings", None)
    if not context or params.max_length <= context:
        return params
    run.notice(
        f"The model reads at most {context} tokens, so rows are cut there and not at max_length={params.max_length}.",
        level="warning", code="max_length_lowered",
    )  # fmt: skip
    return params.model_copy(update={"max_length": context})


def load_split(
    run: RunContext, params: SftParams, tokenizer: Any
) -> tuple[TokenRows, np.ndarray, tuple[TokenRows, np.ndarray], np.ndarray]:
    """`(rows, training rows, (rows, held-out rows), numbers of the held-out rows that are trained on too)`."""
    data = run.spec.dataset
    if data is None:
        raise JobFailure(FailureCode.INVALID_SETTINGS, "The job has no dataset.")
    if "split_by" not in run.spec.params:  # a job of before: its rows are split as they were then
        rows = load_rows(run, data, tokenizer, params)
        train, held_out = split_rows(len(rows), params.validation_split, params.seed)
        return rows, train, _held_out(run, params, tokenizer, rows, held_out), np.zeros(0, np.int64)
    contents = contents_of(data.path, data.mapping)
    bad = find_bad(run, data) if params.skip_bad_rows else np.zeros(0, dtype=np.int64)
    share = 0.0 if run.spec.eval_dataset else params.validation_split
    split = split_usable(data, contents, bad, share, params.seed, by=params.split_by)
    if run.spec.eval_dataset:
        split = split[0], split[1][:0]
    wanted = needed_rows(split[0], rows_read(params), params.seed)
    is_whole = len(wanted) == len(split[0]) and not len(bad)
    numbers = None if is_whole else np.sort(np.concatenate([wanted, split[1]]))
    rows = load_rows(run, data, tokenizer, params, numbers, bad.tolist())
    is_held_out = np.isin(rows.numbers, split[1])
    train, held_out = np.flatnonzero(~is_held_out), np.flatnonzero(is_held_out)
    if not len(train):
        raise JobFailure(
            FailureCode.BAD_DATA, f"All rows of {data.name} that can be learned from are held out.",
            hint="Set validation_split to 0, or raise max_length.",
        )  # fmt: skip
    known = tell_known(run, data, contents, split)
    return rows, train, _held_out(run, params, tokenizer, rows, held_out), known


def _held_out(
    run: RunContext, params: SftParams, tokenizer: Any, rows: TokenRows, held_out: np.ndarray
) -> tuple[TokenRows, np.ndarray]:
    """`(rows, places)`: of the separate dataset when there is one."""
    if run.spec.eval_dataset is None:
        return rows, held_out
    data = run.spec.eval_dataset
    bad = find_bad(run, data) if params.skip_bad_rows else np.zeros(0, dtype=np.int64)
    numbers = np.setdiff1d(np.arange(data.num_rows), bad - 1) if len(bad) else None
    other = load_rows(run, data, tokenizer, params, numbers, bad.tolist())
    return other, np.arange(len(other))


def rows_read(params: SftParams) -> int:
    """Rows that the steps of a limited run read on one device; more than any dataset has when it is not limited."""
    if params.max_steps is None:
        return sys.maxsize
    return params.max_steps * params.batch_size * params.gradient_accumulation_steps * max(1, Ranks().count)


def tell_known(
    run: RunContext, data: DatasetRef, contents: np.ndarray, split: tuple[np.ndarray, np.ndarray]
) -> np.ndarray:
    """Name the held-out rows that are trained on too: a score on them says nothing. Returns their numbers from 0."""
    if run.spec.eval_dataset is not None:
        theirs, whose = (
            contents_of(run.spec.eval_dataset.path, run.spec.eval_dataset.mapping),
            run.spec.eval_dataset.name,
        )
        numbers = np.arange(len(theirs))
    else:
        numbers, whose = split[1], data.name
        theirs = contents[numbers]
    known: np.ndarray = numbers[np.isin(theirs, contents[split[0]])]
    if len(known):
        named = ", ".join(map(str, known[:20] + 1))
        run.notice(
            f"{len(known)} of {len(numbers)} held-out rows are trained on too, so their score says little: row {named} of {whose}.",
            hint="Set split_by: content, or take them out of one side.", level="warning", code="held_out_in_training",
        )  # fmt: skip
    if not len(numbers) and run.spec.params.get("validation_split"):
        run.notice(
            "No row is held out: all rows are equal.",
            hint="Give a held-out dataset.",
            level="warning",
            code="nothing_held_out",
        )
    return known


def use_checkpointing(run: RunContext, params: SftParams, model: Any, loop: Loop) -> None:
    """Recompute activations of all layers when asked to, else of as many as the largest micro-batch needs to fit.

    What is kept for the backward pass grows with the tokens, so a forward pass over one short row tells what a large
    micro-batch will keep.
    """
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    wanted = len(layers) if params.gradient_checkpointing else 0
    if params.gradient_checkpointing is None and layers:
        per_token = loop.kept_bytes_a_token() / len(layers)
        tokens = max(sum(lengths) for lengths in loop.micro_batches(epoch=0))
        input_bytes = model.config.get_text_config().hidden_size * next(model.parameters()).element_size()
        (room,) = loop.ranks.least(SHARE_OF_FREE_MEMORY * (free_bytes(loop.device) - loop.bytes_to_come()))
        wanted = layers_to_recompute(len(layers), tokens * per_token, tokens * input_bytes, room)
        if wanted:
            run.notice(
                f"The activations of {wanted} of {len(layers)} layers are recomputed to fit the memory; "
                "a smaller batch_size would be faster."
            )
    if wanted:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
        for layer in layers[wanted:]:
            layer.gradient_checkpointing = False


def use_compiling(run: RunContext, params: SftParams, model: Any, loop: Loop) -> None:
    """Compile the layers when asked to, or when the run is long. What cannot be compiled runs as it is, and says so."""
    wanted = True if params.cuda_graphs else params.torch_compile
    if wanted is None:
        tokens = loop.total_steps * loop.rows_per_step * float(loop.lengths.mean())
        wanted = compiling.pays(loop.device, tokens * loop.speed.flop_per_token)
    if not wanted:
        return
    why_not = compiling.why_not(loop.device)
    if not why_not:
        run.phase("compiling")
        compiling.compile_layers(model, graphs=params.cuda_graphs)
        why_not = loop.try_out()
    if why_not:
        compiling.undo(model)
        run.notice(
            f"The layers are not compiled: {why_not}. The training is slower, its result the same.", code="not_compiled"
        )


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
    params: SftParams,
    model: Any,
    tokenizer: Any,
    produces: str,
    save: Callable[[Any, Path], None],
    metrics: dict[str, float],
    unknown: np.ndarray,
    device: torch.device,
) -> None:
    """The model folder (weights, tokenizer, card, configuration), checked by loading it; answers before and after to held-out
    rows of the numbers `unknown`, which were not trained on; the report."""
    run.phase("saving", produces)
    settings = params.model_dump(mode="json")
    base = run.spec.model
    base_path = base.path if base else ""
    if base and base.adapter_path and isinstance(params, LoraFields):
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
        write_report(folder, run.spec.name, run.spec, settings, run.dir.events, metrics, compared)
