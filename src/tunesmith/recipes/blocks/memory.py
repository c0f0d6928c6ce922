"""How much memory is free, and whether to recompute activations so that it does not."""

from __future__ import annotations

import psutil
import torch


def free_bytes(device: torch.device) -> int:
    """Memory that is free on `device`."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def wants_checkpointing(
    config: object, micro_batch: int, row_tokens: int, device: torch.device, item_bytes: int
) -> bool:
    """Whether the activations of one micro-batch would take more than 60 % of the free memory.

    About 34 values a token, layer and hidden unit are kept (Korthikanti et al., arXiv:2205.05198, without attention
    scores, which are added).
    """
    layers = int(getattr(config, "num_hidden_layers", 1))
    hidden = int(getattr(config, "hidden_size", 1))
    heads = int(getattr(config, "num_attention_heads", 1))
    tokens = micro_batch * row_tokens
    per_token = 34 * hidden * item_bytes + 2 * heads * row_tokens * 4
    return layers * tokens * per_token > 0.6 * free_bytes(device)
