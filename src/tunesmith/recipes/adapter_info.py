"""What a LoRA adapter's folder holds, read from `adapter_config.json` and safetensors headers alone: no torch, nothing executed.

Every setting and every tensor is either one that is understood here or refused by name, so that nothing of an adapter is dropped
when it is served, merged or converted.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

from tunesmith.core.errors import BadData, UnsupportedFormat
from tunesmith.recipes.model_info import read_header, read_json

ADAPTER_WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
"""What PEFT puts before the name of every tensor."""
PLAIN_INITS = ("gaussian", "eva", "orthogonal", "mica")
"""Ways of initializing that leave the base as it is: the file alone is the adapter."""
USED = frozenset(
    ("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora", "fan_in_fan_out", "bias", "lora_bias",
     "modules_to_save", "trainable_token_indices", "target_parameters", "init_lora_weights", "peft_type")
)  # fmt: skip
"""Settings that decide what the adapter computes, and are heeded."""
WITHOUT_EFFECT = frozenset(
    ("task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode", "target_modules",
     "exclude_modules", "lora_dropout", "layers_to_transform", "layers_pattern", "megatron_core", "loftq_config", "eva_config",
     "corda_config", "lora_ga_config", "velora_config", "runtime_config", "qalora_group_size", "ensure_weight_tying")
)  # fmt: skip
"""Settings of the training, and what the names of the tensors say as well."""
HOW_TO_MERGE = "Merge it into its base model with PEFT (merge_and_unload), and import the merged model."
PARTS = re.compile(
    r"^(?P<module>.+?)\.(?P<part>lora_A\.weight|lora_B\.weight|lora_B\.bias|lora_embedding_A|lora_embedding_B|lora_magnitude_vector"
    r"|token_adapter\.trainable_tokens_delta)$"
)
PAIRS = {"lora_A.weight": "lora_B.weight", "lora_embedding_A": "lora_embedding_B"}
"""Of which one without the other is half an adapter."""


class AdapterInfo(NamedTuple):
    """An adapter's configuration and the names of its tensors."""

    config: dict[str, Any]
    parts: dict[str, dict[str, str]]
    """Layer → part (one of those in `PARTS`) → name of the tensor in the file."""
    whole: dict[str, str]
    """Weight of the base model that the file holds in place of the base's → name of the tensor in the file."""

    @property
    def is_plain(self) -> bool:
        """Whether it is nothing but LoRA of linear maps: what every engine can lay over a base."""
        plain = {"lora_A.weight", "lora_B.weight"}
        return (
            not self.whole
            and not self.config.get("target_parameters")
            and all(set(parts) == plain for parts in self.parts.values())
        )

    @property
    def is_merged_only(self) -> bool:
        """Whether its file holds weights of the base itself, trained anew, of which one process can have one only."""
        return any(
            not self.is_saved_module(weight) and not key.endswith(".base_layer.weight")
            for weight, key in self.whole.items()
        )

    def is_saved_module(self, weight: str) -> bool:
        """Whether a whole weight belongs to a module of `modules_to_save`, of which each adapter has its own copy."""
        module = weight.rpartition(".")[0]
        return any(module == name or module.endswith(f".{name}") for name in self.config.get("modules_to_save") or ())


def read_adapter_info(folder: Path) -> AdapterInfo:
    """Raises `NotFound`, `BadData`, or `UnsupportedFormat` naming the setting or the tensor that is not understood."""
    config = read_json(folder / "adapter_config.json")
    _check_settings(config)
    path = folder / ADAPTER_WEIGHTS
    if not path.is_file():
        raise UnsupportedFormat(
            f"The adapter has no {ADAPTER_WEIGHTS}.", hint="Save it again with safetensors; other formats can run code."
        )
    parts: dict[str, dict[str, str]] = {}
    whole: dict[str, str] = {}
    for name in read_header(path):
        plain = name.removeprefix(PREFIX)
        found = PARTS.match(plain)
        if found:
            parts.setdefault(found["module"], {})[found["part"]] = name
        elif "lora_" in plain or "token_adapter" in plain:
            raise UnsupportedFormat(f"The adapter's {name[:120]} is of no kind that is known here.", hint=HOW_TO_MERGE)
        else:
            whole[plain.replace(".base_layer.", ".")] = name
    if not parts and not whole:
        raise BadData(f"{path.name} holds no adapter.")
    for module, there in parts.items():
        for first, second in PAIRS.items():
            if (first in there) != (second in there):
                raise BadData(f"{path.name} holds half of the adapter of {module[:80]}.")
    return AdapterInfo(config, parts, whole)


def _check_settings(config: dict[str, Any]) -> None:
    kind = str(config.get("peft_type") or "LORA")[:40]
    if kind.upper() != "LORA":
        raise UnsupportedFormat(f"Adapters of the kind {kind} are not used here: LoRA is.", hint=HOW_TO_MERGE)
    strange = sorted(key for key, value in config.items() if value and key not in USED and key not in WITHOUT_EFFECT)
    if strange:
        raise UnsupportedFormat(
            f"The adapter's configuration sets {strange[0][:60]!r}, which is not understood here.", hint=HOW_TO_MERGE
        )
    if (config.get("bias") or "none") not in ("none", "all", "lora_only"):
        raise UnsupportedFormat(f"The adapter's bias is {str(config['bias'])[:40]!r}, which is not understood here.")
    init = config.get("init_lora_weights", True)
    if isinstance(init, str) and init.lower() not in PLAIN_INITS:
        raise UnsupportedFormat(
            f"The adapter was initialized with {init[:40]!r}: it counts from a base whose weights were changed for it, and "
            "would change the answers of every model over the same base.",
            hint="Save it with PEFT's path_initial_model_for_weight_conversion, which makes a plain LoRA adapter of it, or "
            "merge it into its base model and import the merged model.",
        )
