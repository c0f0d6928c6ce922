"""Model and tokenizer, safetensors only, no code of the model's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tunesmith.core.errors import FailureCode, JobFailure
from tunesmith.core.job_spec import ModelRef
from tunesmith.recipes.blocks.overlay import merge_into
from tunesmith.recipes.model_info import refuse_unsafe_files

PLAIN_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'assistant' %}"
    "{{ 'Assistant: ' + message['content'] + eos_token + '\n' }}"
    "{% else %}{{ message['role'].capitalize() + ': ' + message['content'] + '\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
"""For base models whose tokenizer brings no chat template."""


def load_tokenizer(path: str, *, revision: str | None = None, offline: bool = False) -> Any:
    """The tokenizer, with a chat template and a padding token in any case."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            path, revision=revision, trust_remote_code=False, local_files_only=offline
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        if not Path(path).is_dir():
            raise
        raise JobFailure(
            FailureCode.MODEL_NOT_FOUND,
            f"The model folder {Path(path).name} has no tokenizer that can be read: {str(error).partition(chr(10))[0][:200]}",
            hint="Put tokenizer.json and tokenizer_config.json of the base model into the folder.",
        ) from error
    if tokenizer.eos_token is None:
        raise JobFailure(
            FailureCode.UNSUPPORTED,
            "The model's tokenizer has no end-of-text token, so a tuned model could never stop.",
            hint="Choose the instruction-tuned variant of the model.",
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if not tokenizer.chat_template:
        tokenizer.chat_template = ("{{ bos_token }}" if opening(tokenizer) else "") + PLAIN_TEMPLATE
    return tokenizer


def opening(tokenizer: Any) -> str:
    """The token that the model expects at the start of a text; empty for models that know none."""
    first = tokenizer("a")["input_ids"][0]
    return str(tokenizer.bos_token) if tokenizer.bos_token is not None and first == tokenizer.bos_token_id else ""


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
    return loaded
