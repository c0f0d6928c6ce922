"""How much memory is free, what a micro-batch keeps for its backward pass, and how many layers must be recomputed to fit."""

from __future__ import annotations

import math
from collections.abc import Callable

import psutil
import torch
from torch import nn

SHARE_OF_FREE_MEMORY = 0.6
"""How much of it activations may take."""


def free_bytes(device: torch.device) -> int:
    """Memory that is free on `device`."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def kept_bytes(model: nn.Module, forward: Callable[[], torch.Tensor]) -> int:
    """What `forward` keeps for the backward pass beside the weights of `model`, bytes. Nothing is left behind."""
    weights = {p.untyped_storage().data_ptr() for p in (*model.parameters(), *model.buffers())}
    found: dict[int, int] = {}

    def count(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        forward()
    return sum(found.values())


def layers_to_recompute(num_layers: int, layer_bytes: float, input_bytes: float, room_bytes: float) -> int:
    """How many of `num_layers` keep only their input, so that all of them together fit into `room_bytes`.

    `layer_bytes`: what one keeps otherwise. All of them when even that is not enough.
    """
    too_much = num_layers * layer_bytes - room_bytes
    if too_much <= 0:
        return 0
    saved = layer_bytes - input_bytes
    return num_layers if saved <= 0 else min(num_layers, math.ceil(too_much / saved))
