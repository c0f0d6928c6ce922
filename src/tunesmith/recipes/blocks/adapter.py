"""Saving an adapter so that plain PEFT loads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers.pytorch_utils import Conv1D

from tunesmith.core.job_spec import JobSpec
from tunesmith.engine.lora import lora_layers, peft_state
from tunesmith.recipes.hyperparameters import LoraFields


def save_adapter(model: Any, folder: Path, spec: JobSpec, params: LoraFields) -> None:
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
