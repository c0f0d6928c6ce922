"""Cross-entropy at supervised positions only, straight from hidden states: the logits of all tokens never exist at once."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

CHUNK_TOKENS = 512
"""Positions whose logits exist at the same time."""


class _HeadLoss(torch.autograd.Function):
    """Sum of cross-entropies; the gradient is taken in the forward pass, so nothing of size (tokens, vocabulary) is kept.

    The idea is that of Liger's and Apple's fused heads; chunks are of tokens over the whole vocabulary, so that each
    gradient product accumulates inside one matrix product.
    """

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        total = hidden.new_zeros((), dtype=torch.float32)
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        hidden_grad = torch.empty_like(hidden) if needs_hidden else None
        weight_grad = torch.zeros_like(weight, dtype=torch.float32) if needs_weight else None
        for start in range(0, hidden.shape[0], CHUNK_TOKENS):
            part = slice(start, start + CHUNK_TOKENS)
            logits = (hidden[part] @ weight.T).float()  # (chunk, vocabulary)
            total += F.cross_entropy(logits, targets[part], reduction="sum")
            if not (needs_hidden or needs_weight):
                continue
            grad = torch.softmax(logits, dim=-1)
            grad[torch.arange(len(grad), device=grad.device), targets[part]] -= 1
            grad = grad.to(weight.dtype)
            if hidden_grad is not None:
                hidden_grad[part] = grad @ weight
            if weight_grad is not None:
                weight_grad += grad.T @ hidden[part]
        ctx.hidden_grad, ctx.weight_grad, ctx.weight_dtype = hidden_grad, weight_grad, weight.dtype
        return total

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None, None]:
        scale = grads[0]
        hidden_grad = None if ctx.hidden_grad is None else ctx.hidden_grad * scale.to(ctx.hidden_grad.dtype)
        weight_grad = None if ctx.weight_grad is None else (ctx.weight_grad * scale).to(ctx.weight_dtype)
        return hidden_grad, weight_grad, None


def head_loss(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Summed cross-entropy, nats, of `hidden` (supervised, size) under `weight` (vocabulary, size)."""
    return _HeadLoss.apply(hidden, weight, targets)  # type: ignore[no-any-return]
