"""Attention over rows laid end to end that never crosses from one row to the next.

Registered with transformers' `AttentionInterface`, so every architecture that uses it gains it. On CPUs each row goes through
products of its own (`engine/causal.py`), on NVIDIA GPUs in bf16 or fp16 torch's flash attention takes rows of different
lengths as they lie. Elsewhere the flat tokens are gathered into one padded block (rows, heads, longest, head size) for torch's
scaled dot-product attention; causality alone keeps padding out: it stands behind every real token of its row.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch.nn import functional as F
from transformers import AttentionInterface

from tunesmith.engine.causal import EVERY_KEY, causal_rows
from tunesmith.engine.packing import PackedBatch

NAME = "tunesmith_packed"
HALVES = (torch.bfloat16, torch.float16)

_current: PackedBatch | None = None


@contextlib.contextmanager
def rows_of(batch: PackedBatch) -> Iterator[None]:
    """Within this block (forward and backward pass), attention follows the rows of `batch`."""
    global _current
    before, _current = _current, batch
    try:
        yield
    finally:
        _current = before


def current_rows() -> PackedBatch | None:
    """The rows that are computed now."""
    return _current


class _ToBlock(torch.autograd.Function):
    """(tokens, …) → (rows, longest, …). Each flat position stands in one place, so the gradient is a gather as well."""

    @staticmethod
    def forward(ctx: Any, flat: torch.Tensor, pad_index: torch.Tensor, flat_index: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(flat_index)
        return flat[pad_index]

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (flat_index,) = ctx.saved_tensors
        return grads[0].flatten(0, 1)[flat_index], None, None


class _ToFlat(torch.autograd.Function):
    """(rows, longest, …) → (tokens, …)."""

    @staticmethod
    def forward(ctx: Any, block: torch.Tensor, flat_index: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(flat_index)
        ctx.shape = block.shape
        return block.flatten(0, 1)[flat_index]

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        (flat_index,) = ctx.saved_tensors
        block = grads[0].new_zeros(ctx.shape)
        block.flatten(0, 1)[flat_index] = grads[0]
        return block, None


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """`query` (1, heads, tokens, size), `key` and `value` (1, kv heads, tokens, size) → (1, tokens, heads, size)."""
    if _current is None:
        raise RuntimeError("packed attention was called outside rows_of(batch)")
    batch = _current
    dropout = dropout if module.training else 0.0
    if query.device.type == "cuda" and query.dtype in HALVES and not softcap and not dropout:
        return _flash(query, key, value, batch, scaling, sliding_window), None
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    if query.device.type == "cpu" and not softcap and not dropout:
        window = sliding_window if sliding_window is not None else EVERY_KEY
        flat_q, flat_k, flat_v = (x[0].transpose(0, 1) for x in (query, key, value))  # (tokens, heads, size)
        return causal_rows(flat_q, flat_k, flat_v, batch.cu_seqlens, scale, window).unsqueeze(0), None
    q, k, v = (
        _ToBlock.apply(x[0].transpose(0, 1), batch.pad_index, batch.flat_index).transpose(1, 2)
        for x in (query, key, value)
    )  # (rows, heads, longest, size)
    if query.device.type == "cpu" or softcap is not None:
        out = _products(q, k, v, scale, dropout, sliding_window, softcap)
    else:
        mask = None if sliding_window is None else _allowed(q.shape[2], sliding_window, q.device)
        out = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=mask is None, scale=scale, enable_gqa=q.shape[1] != k.shape[1],
            dropout_p=dropout,
        )  # fmt: skip
    flat = _ToFlat.apply(out.transpose(1, 2), batch.flat_index)
    return flat.unsqueeze(0), None


def _flash(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    batch: PackedBatch,
    scale: float | None,
    window: int | None,
) -> torch.Tensor:
    """Torch's own variable-length flash attention, which needs no padded block."""
    from torch.nn.attention.varlen import varlen_attn

    q, k, v = (x[0].transpose(0, 1).contiguous() for x in (query, key, value))  # (tokens, heads, size)
    bound = batch.length_bound  # the length of the longest row itself would compile anew for each
    out = varlen_attn(
        q, k, v, batch.cu_seqlens, batch.cu_seqlens, bound, bound, scale=scale,
        window_size=(-1 if window is None else window - 1, 0), enable_gqa=q.shape[1] != k.shape[1],
    )  # fmt: skip
    return out.unsqueeze(0)  # type: ignore[union-attr,no-any-return]


def _allowed(longest: int, sliding_window: int | None, device: torch.device) -> torch.Tensor:
    """(longest, longest), True where a query (row) may look at a key (column)."""
    allowed = torch.ones(longest, longest, dtype=torch.bool, device=device).tril_()
    return allowed if sliding_window is None else allowed.triu_(1 - sliding_window)


def _products(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    scale: float,
    dropout: float,
    window: int | None,
    softcap: float | None,
) -> torch.Tensor:
    """Two batched products with a fp32 softmax between. Query heads that share a key head are laid under each other."""
    rows, heads, longest, size = q.shape
    groups = heads // k.shape[1]
    q = q.reshape(rows * k.shape[1], groups * longest, size)
    k, v = k.flatten(0, 1), v.flatten(0, 1)
    scores = torch.bmm(q, k.transpose(1, 2)).view(rows, heads, longest, longest).float() * scale
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    scores = scores.masked_fill(~_allowed(longest, window, q.device), float("-inf"))
    weights = torch.softmax(scores, dim=-1).to(v.dtype)
    if dropout:
        weights = F.dropout(weights, dropout)
    out = torch.bmm(weights.view(v.shape[0], groups * longest, longest), v)
    return out.view(rows, heads, longest, v.shape[-1])


AttentionInterface.register(NAME, packed_attention)
