"""An adapter: put on a model, and saved so that plain PEFT loads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel
from safetensors.torch import save_file
from transformers.pytorch_utils import Conv1D

from tunesmith.core.errors import FailureCode, JobFailure
from tunesmith.core.job_spec import JobSpec
from tunesmith.core.recipe import RunContext
from tunesmith.engine.fp8 import to_fp8
from tunesmith.engine.fusing import fuse
from tunesmith.engine.lora import add_lora, expert_share, linear_names, lora_layers, peft_state
from tunesmith.recipes.hyperparameters import AdapterFields


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


def add_adapter(model: Any, params: AdapterFields, seed: int, *, in_fp8: bool = False) -> None:
    """Put LoRA on `model`, initialised from `seed`, beside frozen layers as they are or `in_fp8`."""
    torch.manual_seed(seed)
    names = target_names(model, params.target_modules)
    add_lora(model, names, params.lora_r, params.lora_alpha, params.lora_dropout)
    if in_fp8:
        to_fp8(model)
    fuse(model)


def trains_adapter(params: BaseModel) -> bool:
    """Whether a job trains an adapter; methods that leave it to the user have a setting `adapter`."""
    return isinstance(params, AdapterFields) and bool(getattr(params, "adapter", True))


def tell_frozen_experts(run: RunContext, model: Any) -> None:
    """Say what share of a mixture of experts an adapter cannot reach."""
    if share := expert_share(model):
        run.notice(
            f"The experts of this model, {share:.0%} of its weights, stay frozen: the adapter stands beside attention and other "
            "linear layers, and experts are none.",
            code="frozen_experts",
            hint="Use method standard to train the experts as well.",
        )


def save_adapter(model: Any, folder: Path, spec: JobSpec, params: AdapterFields) -> None:
    """Write `adapter_model.safetensors` and `adapter_config.json` to `folder`."""
    from peft import LoraConfig

    base = spec.model
    config = LoraConfig(
        r=params.lora_r,
        lora_alpha=params.lora_alpha,
        lora_dropout=params.lora_dropout,
        target_modules=_targets(model),
        task_type="CAUSAL_LM",
        base_model_name_or_path=base.name if base else None,
        fan_in_fan_out=any(isinstance(layer.base, Conv1D) for _, layer in lora_layers(model)),
        inference_mode=True,
    )
    config.save_pretrained(str(folder))
    save_file(peft_state(model), folder / "adapter_model.safetensors", metadata={"format": "pt"})


def _targets(model: Any) -> list[str]:
    """The adapted layers by the ends of their names, which everybody understands; by whole names where other layers end alike."""
    names = {name for name, _ in lora_layers(model)}
    ends = {name.rpartition(".")[2] for name in names}
    others = {name for name, layer in model.named_modules() if isinstance(layer, torch.nn.Linear | Conv1D)} - names
    inner = {f"{name}.base" for name in names}
    is_told = not any(name.rpartition(".")[2] in ends for name in others - inner)
    return sorted(ends if is_told else names)
