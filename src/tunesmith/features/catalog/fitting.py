"""Whether a model fits this machine, way by way, with the arithmetic in words. Pure but for `read_shape`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tunesmith.features.catalog.memory import LENGTH_TOKENS, least_params, usual_shape
from tunesmith.recipes.catalog import get_recipe
from tunesmith.recipes.gguf import GgufInfo
from tunesmith.recipes.model_info import ModelInfo
from tunesmith.recipes.plans import USABLE, Facts, Machine
from tunesmith.recipes.sft_plan import (
    FOUR_BIT_BYTES,
    HEAD_CHUNK_TOKENS,
    OPTIMIZER_BYTES,
    PROCESS_BYTES,
    memory_parts,
    trained_weights,
)
from tunesmith.schemas.models import MemoryPart, MemoryUse, Way

METHODS: dict[Way, str] = {"lora": "lora", "qlora": "qlora", "full": "standard"}
TITLES: dict[Way, str] = {
    "weights": "Weights alone",
    "inference": "Answer (inference)",
    "lora": "Tune with LoRA",
    "qlora": "Tune with QLoRA",
    "full": "Tune all weights",
}
PARTS = {
    "process": "Process",
    "weights": "Weights",
    "gradients": "Gradients",
    "optimizer": "Optimizer states",
    "activations": "Activations",
    "logits": "Logits",
    "kv_cache": "KV cache",
}
HALF_BYTES = 2
CONTEXT_TOKENS = 4096
"""Length of the conversation for which the KV cache is told, or the model's context when that is less."""


class Shape(NamedTuple):
    """A model's architecture with what its KV cache takes."""

    info: ModelInfo
    kv_width: int
    """Values that one token keeps in one layer, for keys; the same for values."""
    weight_bytes: int
    """Of the weights when it answers: in 16 bits, or as they lie in a GGUF file."""
    is_estimated: bool = False
    is_gguf: bool = False


def shape_of_folder(info: ModelInfo, folder: Path) -> Shape:
    """Of a model that is here."""
    try:
        config = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        config = {}
    width = _kv_width(config, info.hidden_size, info.num_heads) if isinstance(config, dict) else info.hidden_size
    return Shape(info, width, info.num_parameters * HALF_BYTES)


def shape_of_gguf(info: GgufInfo) -> Shape:
    """Of a GGUF file that is here."""
    head = info.hidden_size // info.num_heads if info.num_heads else 0
    made = usual_shape(info.num_parameters, info.context_length or 4096)._replace(
        family=info.architecture, architecture=info.architecture, size_bytes=info.size_bytes, num_layers=info.num_layers,
        hidden_size=info.hidden_size, num_heads=info.num_heads, vocab_size=info.vocab_size,
    )  # fmt: skip
    return Shape(made, info.num_kv_heads * head, info.size_bytes, is_gguf=True)


def shape_of_weights(num_parameters: int, context_length: int = 4096) -> Shape:
    """Of a model of which only the number of weights is known: the usual shape, a quarter of the heads for keys."""
    info = usual_shape(num_parameters, context_length)
    return Shape(info, info.hidden_size // 4, num_parameters * HALF_BYTES, is_estimated=True)


def shape_of_config(config: Mapping[str, Any], num_parameters: int) -> Shape | None:
    """Of a model on the hub, from its `config.json`; None when that does not say the sizes."""
    inner = config.get("text_config")
    text = inner if isinstance(inner, dict) else config

    def number(*names: str) -> int:
        return next((value for name in names if type(value := text.get(name)) is int and 0 < value < 2**40), 0)

    hidden, layers = number("hidden_size", "n_embd", "dim"), number("num_hidden_layers", "n_layer", "n_layers")
    heads, vocabulary = number("num_attention_heads", "n_head", "n_heads"), number("vocab_size")
    if not (hidden and layers and heads and vocabulary):
        return None
    kv, inner_width = _kv_width(text, hidden, heads), number("intermediate_size", "n_inner") or 4 * hidden
    across = (number("head_dim") or hidden // heads) * heads
    linear = layers * (2 * (hidden + across) + 2 * (hidden + kv) + 3 * (hidden + inner_width))
    architectures = config.get("architectures")
    info = ModelInfo(
        family=str(config.get("model_type", "unknown"))[:100],
        architecture=str(architectures[0])[:100] if isinstance(architectures, list) and architectures else "unknown",
        num_parameters=num_parameters,
        size_bytes=num_parameters * HALF_BYTES,
        num_layers=layers,
        hidden_size=hidden,
        num_heads=heads,
        vocab_size=vocabulary,
        context_length=number("max_position_embeddings", "n_positions") or 2048,
        linear_width=linear,
    )
    return Shape(info, kv, num_parameters * HALF_BYTES)


def _kv_width(config: Mapping[str, Any], hidden_size: int, num_heads: int) -> int:
    inner = config.get("text_config")
    text = inner if isinstance(inner, dict) else config
    kv_heads, head = text.get("num_key_value_heads"), text.get("head_dim")
    if not (type(kv_heads) is int and 0 < kv_heads <= num_heads):
        kv_heads = num_heads
    if not (type(head) is int and 0 < head < 2**20):
        head = hidden_size // num_heads if num_heads else 0
    return kv_heads * head


def uses(shape: Shape, machine: Machine) -> list[MemoryUse]:
    """Every way, from the least to the most."""
    found = [_weights(shape, machine), _inference(shape, machine)]
    if not shape.is_gguf:
        found += [_training(way, shape, machine) for way in METHODS]
    return found


def best_way(found: list[MemoryUse]) -> Way | None:
    """The most that the machine can do; tuning all weights before LoRA before QLoRA before answering."""
    fits = {use.way for use in found if use.fit == "fits"}
    order: tuple[Way, ...] = ("full", "lora", "qlora", "inference")
    return next((way for way in order if way in fits), None)


def _weights(shape: Shape, machine: Machine) -> MemoryUse:
    return _use("weights", machine, [_part("weights", shape.weight_bytes, _weights_sum(shape))])


def _weights_sum(shape: Shape) -> str:
    if shape.is_gguf:
        return f"{shape.info.num_parameters:,} weights as they are in the file"
    return f"{shape.info.num_parameters:,} weights × {HALF_BYTES} bytes (16 bits)"


def _inference(shape: Shape, machine: Machine) -> MemoryUse:
    info = shape.info
    tokens = min(CONTEXT_TOKENS, info.context_length) if info.context_length else CONTEXT_TOKENS
    kv = 2 * info.num_layers * shape.kv_width * tokens * HALF_BYTES
    logits = info.vocab_size * 4
    parts = [
        _part("process", PROCESS_BYTES, "Python, torch and its libraries"),
        _part("weights", shape.weight_bytes, _weights_sum(shape)),
        _part(
            "kv_cache",
            kv,
            f"2 (keys, values) × {info.num_layers} layers × {shape.kv_width:,} values × {tokens:,} tokens × {HALF_BYTES} bytes",
        ),
        _part("logits", logits, f"{info.vocab_size:,} words × 4 bytes"),
    ]
    return _use("inference", machine, parts)


def _training(way: Way, shape: Shape, machine: Machine) -> MemoryUse:
    recipe, info = get_recipe(METHODS[way]), shape.info
    params = least_params(recipe.name, info)
    reckoned = memory_parts(recipe, params, Facts(machine=machine, model=info))
    sums = _sums(way, shape, machine, params)
    parts = [_part(name, size, sums[name]) for name, size in reckoned.items() if name != "total"]
    return _use(way, machine, parts, recipe.unavailable_reason() or "")


def _sums(way: Way, shape: Shape, machine: Machine, params: Mapping[str, Any]) -> dict[str, str]:
    """How `memory_parts` comes to its numbers."""
    info, recipe = shape.info, get_recipe(METHODS[way])
    item = HALF_BYTES if machine.fast_bf16 else 4
    outer = min(2 * info.vocab_size * info.hidden_size, info.num_parameters)
    trained, tokens = trained_weights(recipe, params, info), params["max_length"]
    states = OPTIMIZER_BYTES[params["optimizer"]]
    adapter = f" (rank {params['lora_r']} × {info.linear_width:,})" if way != "full" else ""
    return {
        "process": "Python, torch and its libraries",
        "weights": f"{info.num_parameters - outer:,} weights × {FOUR_BIT_BYTES} bytes (4 bits and scales) + {outer:,} of the outer "
        f"maps × {HALF_BYTES} bytes" if way == "qlora" else f"{info.num_parameters:,} weights × {item} bytes",
        "gradients": f"{trained:,} trained weights{adapter} × 4 bytes",
        "optimizer": f"{trained:,} trained weights × {states:g} bytes ({params['optimizer']})",
        "activations": f"{tokens:,} tokens × {info.hidden_size:,} wide × {item} bytes × (34 for the layer at work + "
        f"{info.num_layers} layers)",
        "logits": f"3 × {HEAD_CHUNK_TOKENS} tokens × {info.vocab_size:,} words × 4 bytes",
    }  # fmt: skip


def _part(name: str, size: int, how: str) -> MemoryPart:
    return MemoryPart(name=name, title=PARTS[name], bytes=size, sum=how)


def _use(way: Way, machine: Machine, parts: list[MemoryPart], why_not: str = "") -> MemoryUse:
    total, has = sum(part.bytes for part in parts), machine.memory_bytes
    where = "GPU memory" if machine.device == "cuda" else "memory"
    fit = "unavailable" if why_not else "fits" if total <= has * USABLE else "tight" if total <= has else "too_large"
    terms = " + ".join(f"{part.title.lower()} {_gb(part.bytes)}" for part in parts)
    ends = {
        "fits": "which fits",
        "tight": f"which is over {USABLE:.0%} of it and may not fit",
        "too_large": f"which is {_gb(total - has)} too much",
        "unavailable": "but it cannot run here",
    }
    said = f"{TITLES[way]}: {terms} = {_gb(total)} of {_gb(has)} {where}, {ends[fit]}."
    if way in METHODS:
        said += f" One row of {LENGTH_TOKENS:,} tokens at a time."
    return MemoryUse(
        way=way,
        title=TITLES[way],
        memory_bytes=total,
        available_bytes=has,
        device=machine.device,
        fit=fit,
        why_not=why_not,
        parts=parts,
        sentence=f"{said} {why_not}".strip(),
    )


def _gb(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
