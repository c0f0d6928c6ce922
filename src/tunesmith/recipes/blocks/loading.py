"""Model and tokenizer, safetensors only, no code of the model's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tunesmith.core.job_spec import ModelRef
from tunesmith.recipes.blocks.endings import ends_in, join_ends
from tunesmith.recipes.blocks.overlay import merge_into
from tunesmith.recipes.blocks.tokenizer import load_tokenizer as load_tokenizer
from tunesmith.recipes.blocks.tokenizer import opening as opening
from tunesmith.recipes.model_info import refuse_unsafe_files


def load_config(model: ModelRef, *, offline: bool) -> Any:
    """What the model is, without its weights."""
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(
        model.path, revision=model.revision, trust_remote_code=False, local_files_only=offline
    )


def loading_device(device: torch.device, sharding: str) -> torch.device:
    """Where a model is loaded that is trained on `device`: in CPU memory when it is shared out over several."""
    return device if sharding == "none" else torch.device("cpu")


def keep_four_bits(model: Any) -> None:
    """Keep bitsandbytes from repacking 4-bit weights for some CPUs at their first use: training reads them as they came, and
    rows that are no multiple of 64 long cannot be repacked."""
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def load_causal_lm(
    model: ModelRef, *, dtype: torch.dtype, device: torch.device, offline: bool, quantization: Any = None
) -> Any:
    """The model in `dtype` on `device`, with `model.adapter_path` merged in. Weights are read from mapped safetensors."""
    from transformers import AutoModelForCausalLM

    if Path(model.path).is_dir():
        refuse_unsafe_files(Path(model.path))
    loaded = AutoModelForCausalLM.from_pretrained(
        model.path,
        revision=model.revision,
        dtype=dtype,
        device_map={"": device} if quantization or device.type == "cuda" else None,
        quantization_config=quantization,
        trust_remote_code=False,
        use_safetensors=True,
        local_files_only=offline,
    )
    keep_four_bits(loaded)
    if model.adapter_path:
        loaded = merge_into(loaded, Path(model.adapter_path))
        join_ends(loaded, ends_in(model.adapter_path))
    return loaded
