"""LoRA with Unsloth's kernels, told from the top. NVIDIA GPUs only."""

from __future__ import annotations

from typing import Any

import torch

from tunesmith.core.errors import FailureCode, JobFailure
from tunesmith.core.recipe import RunContext
from tunesmith.engine.precision import pick_device
from tunesmith.recipes.blocks.adapter import target_names
from tunesmith.recipes.blocks.loading import load_tokenizer
from tunesmith.recipes.blocks.sft import fit
from tunesmith.recipes.unsloth.spec import RECIPE, UnslothParams, why_not


def train(params: UnslothParams, run: RunContext) -> str:
    """Train an adapter with Unsloth's model. Returns an `Outcome`."""
    # 1) Only where Unsloth runs
    reason = why_not()
    if reason:
        raise JobFailure(FailureCode.UNSUPPORTED, reason, hint="Choose the lora method; it runs everywhere.")
    from unsloth import FastLanguageModel

    device = pick_device()
    base = run.spec.model
    assert base is not None  # the service refuses a job without one
    # 2) What we train: an adapter on Unsloth's patched model
    model, _ = FastLanguageModel.from_pretrained(
        base.path,
        max_seq_length=params.max_length,
        load_in_4bit=params.load_in_4bit,
        dtype=torch.float16 if params.fp16 else None,
        trust_remote_code=False,
        local_files_only=run.spec.offline,
    )
    tokenizer = load_tokenizer(base.path, revision=base.revision, offline=run.spec.offline, adapter=base.adapter_path)
    names = target_names(model, params.target_modules)
    model = FastLanguageModel.get_peft_model(
        model,
        r=params.lora_r,
        lora_alpha=params.lora_alpha,
        lora_dropout=params.lora_dropout,
        target_modules=sorted({name.rpartition(".")[2] for name in names}),
        use_gradient_checkpointing="unsloth" if params.gradient_checkpointing else False,
        random_state=params.seed,
    )

    # 3) Train, then leave behind what others can use
    def save(tuned: Any, folder: Any) -> None:
        tuned.save_pretrained(folder, safe_serialization=True)

    return fit(run, params, lambda: model, tokenizer, device, RECIPE.produces, save)
