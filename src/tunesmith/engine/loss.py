"""Cross-entropy at supervised positions only, straight from hidden states: the logits of all tokens never exist at once.

`head_loss` is its sum; `token_losses` are the losses one by one, for what weighs them only once all are known.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from tunesmith.engine import kernels

CHUNK_TOKENS = 512
"""Positions whose logits exist at the same time."""


class _HeadLoss(torch.autograd.Function):
    """Sum of cross-entropies; the gradient is taken in the forward pass, so nothing of size (tokens, vocabulary) is kept.

    The idea is that of Liger's and Apple's fused heads; chunks are of tokens over the whole vocabulary, so that each
    gradient product accumulates inside one matrix product.
    """

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        exact = kernels.exact(hidden.dtype)
        total = hidden.new_zeros((), dtype=exact)
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        hidden_grad = torch.empty_like(hidden) if needs_hidden else None
        weight_grad = torch.zeros_like(weight, dtype=exact) if needs_weight else None
        space = hidden.new_empty(min(CHUNK_TOKENS, hidden.shape[0]), weight.shape[0])
        for start in range(0, hidden.shape[0], CHUNK_TOKENS):
            part = slice(start, start + CHUNK_TOKENS)
            logits = torch.mm(hidden[part], weight.T, out=space[: len(targets[part])])  # (chunk, vocabulary)
            loss, grad = _loss_and_grad(logits, targets[part], wanted=needs_hidden or needs_weight)
            total += loss
            if hidden_grad is not None:
                torch.mm(grad, weight, out=hidden_grad[part])
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


def _loss_and_grad(logits: torch.Tensor, targets: torch.Tensor, *, wanted: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Summed cross-entropy, and the gradient of the logits in their own format; nothing of use there unless `wanted`."""
    if kernels.usable(logits):
        return kernels.cross_entropy_(logits, targets, to_grad=wanted).sum(), logits
    exact = logits.to(kernels.exact(logits.dtype))
    loss = F.cross_entropy(exact, targets, reduction="sum")
    return loss, _gradient(exact, targets).to(logits.dtype) if wanted else logits


def _gradient(exact: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    grad = torch.softmax(exact, dim=-1)
    grad[torch.arange(len(grad), device=grad.device), targets] -= 1
    return grad


def head_loss(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Summed cross-entropy, nats, of `hidden` (supervised, size) under `weight` (vocabulary, size)."""
    return _HeadLoss.apply(hidden, weight, targets)  # type: ignore[no-any-return]


class _TokenLosses(torch.autograd.Function):
    """Cross-entropies one by one. The gradient of the hidden states is taken in the forward pass, each token's for a weight of
    one, and scaled in the backward pass; that of the head's weight needs the logits again there."""

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        losses = hidden.new_empty(len(targets), dtype=kernels.exact(hidden.dtype))
        hidden_grad = torch.empty_like(hidden) if needs_hidden and not needs_weight else None
        space = hidden.new_empty(min(CHUNK_TOKENS, hidden.shape[0]), weight.shape[0])
        for start in range(0, hidden.shape[0], CHUNK_TOKENS):
            part = slice(start, start + CHUNK_TOKENS)
            logits = torch.mm(hidden[part], weight.T, out=space[: len(targets[part])])  # (chunk, vocabulary)
            losses[part], grad = _losses_and_grad(logits, targets[part], wanted=hidden_grad is not None)
            if hidden_grad is not None:
                torch.mm(grad, weight, out=hidden_grad[part])
        if needs_weight:
            ctx.save_for_backward(hidden, weight, targets)
        ctx.hidden_grad = hidden_grad
        return losses

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None, None]:
        scales = grads[0].unsqueeze(1)  # (tokens, 1)
        if ctx.hidden_grad is not None:
            return ctx.hidden_grad * scales.to(ctx.hidden_grad.dtype), None, None
        hidden, weight, targets = ctx.saved_tensors
        hidden_grad = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        weight_grad = torch.zeros_like(weight, dtype=kernels.exact(hidden.dtype))
        space = hidden.new_empty(min(CHUNK_TOKENS, hidden.shape[0]), weight.shape[0])
        for start in range(0, hidden.shape[0], CHUNK_TOKENS):
            part = slice(start, start + CHUNK_TOKENS)
            logits = torch.mm(hidden[part], weight.T, out=space[: len(targets[part])])
            _, grad = _losses_and_grad(logits, targets[part], wanted=True)
            grad = grad * scales[part].to(grad.dtype)
            if hidden_grad is not None:
                torch.mm(grad, weight, out=hidden_grad[part])
            weight_grad += grad.T @ hidden[part]
        return hidden_grad, weight_grad.to(weight.dtype), None


def _losses_and_grad(logits: torch.Tensor, targets: torch.Tensor, *, wanted: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """(chunk,) cross-entropies, and the gradient of the logits in their own format; nothing of use there unless `wanted`."""
    if kernels.usable(logits):
        return kernels.cross_entropy_(logits, targets, to_grad=wanted), logits
    exact = logits.to(kernels.exact(logits.dtype))
    losses = F.cross_entropy(exact, targets, reduction="none")
    return losses, _gradient(exact, targets).to(logits.dtype) if wanted else logits


def token_losses(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """(supervised,) cross-entropies, nats, of `hidden` (supervised, size) under `weight` (vocabulary, size)."""
    return _TokenLosses.apply(hidden, weight, targets)  # type: ignore[no-any-return]
