"""How much memory is free, and how much a step needs."""

from __future__ import annotations

from collections.abc import Sequence

import psutil
import torch


def free_bytes(device: torch.device) -> int:
    """Memory that is free on `device`."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def activation_bytes(config: object, lengths: Sequence[int], item_bytes: int) -> int:
    """What the backward pass of a micro-batch of rows of `lengths` tokens keeps, bytes.

    About 34 values a token, layer and hidden unit (Korthikanti et al., arXiv:2205.05198), and the attention's scores, which
    are computed in a block as long as the longest row: once in fp32, once in the model's own format.
    """
    layers = int(getattr(config, "num_hidden_layers", 1))
    hidden = int(getattr(config, "hidden_size", 1))
    heads = int(getattr(config, "num_attention_heads", 1))
    linear = sum(lengths) * 34 * hidden * item_bytes
    return layers * (linear + len(lengths) * max(lengths, default=0) ** 2 * heads * (4 + item_bytes))
