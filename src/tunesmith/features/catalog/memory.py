"""What training a model would take of this machine, method by method. Pure but for `read_machine`."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

from tunesmith.recipes.catalog import get_recipe
from tunesmith.recipes.model_info import ModelInfo
from tunesmith.recipes.plans import USABLE, Facts, Machine
from tunesmith.recipes.sft_plan import memory_parts
from tunesmith.schemas.models import MemoryNeed

METHODS = ("lora", "qlora", "standard")
LENGTH_TOKENS = 1024
"""Row length for which the need is told; one row at a time, activations recomputed."""
LAYERS = ((1e9, 24), (5e9, 28), (10e9, 32), (20e9, 40), (50e9, 60), (math.inf, 80))
"""Up to so many weights: the usual number of layers."""
USUAL_VOCABULARY = 64_000
WIDTH_A_LAYER = 19
"""Inputs plus outputs of one layer's linear maps, in hidden sizes (attention 8, feed-forward 11)."""


def needs(info: ModelInfo, machine: Machine, *, estimated: bool = False) -> list[MemoryNeed]:
    """The least memory for each method, in the order of `METHODS`."""
    return [_need(method, info, machine, estimated) for method in METHODS]


def _need(method: str, info: ModelInfo, machine: Machine, estimated: bool) -> MemoryNeed:
    recipe = get_recipe(method)
    params = least_params(method, info)
    total = memory_parts(recipe, params, Facts(machine=machine, model=info))["total"]
    why_not = recipe.unavailable_reason() or ""
    return MemoryNeed(
        method=method,
        memory_bytes=total,
        available_bytes=machine.memory_bytes,
        device=machine.device,
        fit="unavailable" if why_not else _fit(total, machine.memory_bytes),
        why_not=why_not,
        estimated=estimated,
    )


def _fit(total: int, available: int) -> str:
    if total <= available * USABLE:
        return "fits"
    return "tight" if total <= available else "too_large"


def least_params(method: str, info: ModelInfo) -> dict[str, Any]:
    """The settings that take the least memory: one row at a time, activations recomputed."""
    return _defaults(method) | {"max_length": min(LENGTH_TOKENS, max(16, info.context_length))}


@cache
def _defaults(method: str) -> dict[str, object]:
    return get_recipe(method).params(batch_size=1, gradient_checkpointing=True).model_dump()


def usual_shape(num_parameters: int, context_length: int = 4096) -> ModelInfo:
    """What a model of so many weights looks like as a rule: layers by `LAYERS`, the width from 12 h² a layer and the
    two outer maps (Kaplan et al., arXiv:2001.08361)."""
    num_layers = next(layers for limit, layers in LAYERS if num_parameters <= limit)
    inner, outer = 12 * num_layers, 2 * USUAL_VOCABULARY
    hidden = (-outer + math.sqrt(outer**2 + 4 * inner * num_parameters)) / (2 * inner)
    hidden_size = max(64, round(hidden / 64) * 64)
    return ModelInfo(
        family="unknown",
        architecture="unknown",
        num_parameters=num_parameters,
        size_bytes=2 * num_parameters,
        num_layers=num_layers,
        hidden_size=hidden_size,
        num_heads=max(1, hidden_size // 64),
        vocab_size=USUAL_VOCABULARY,
        context_length=context_length,
        linear_width=WIDTH_A_LAYER * hidden_size * num_layers,
    )
