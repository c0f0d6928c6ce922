"""Attention over rows laid end to end that never crosses from one row to the next.

Registered with transformers' `AttentionInterface`, so every architecture that uses it gains it. The flat tokens are
gathered into one padded block (rows, heads, longest, head size), so that products are few and large: on CPUs two
bf16 `bmm`s with a fp32 softmax between, which run on AMX, elsewhere torch's scaled dot-product attention. Causality
alone keeps padding out: it stands behind every real token of its row. On NVIDIA GPUs in bf16 or fp16 torch's flash
attention takes rows of different lengths as they lie.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch.nn import functional as F
from transformers import AttentionInterface

from tunesmith.engine.packing import PackedBatch

NAME = "tunesmith_packed"
NUM_BLOCKS = 4
"""Blocks of queries in causal attention on CPUs. A constant, so that one compiled graph serves every length."""
EVERY_KEY = 2**31
"""A window that leaves nothing out."""
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


@torch.library.custom_op("tunesmith::causal_blocks", mutates_args=())
def causal_blocks(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, window: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """softmax(s q kᵀ) v where no query sees a later key; and the weights, which the gradient needs.

    Queries go in `NUM_BLOCKS` blocks, each beside the keys that some of its queries may see, so that two fifths of the
    scores are never computed. One operation, so that compiled layers take it as it is.

    `q` (rows, groups, longest, size): the query heads of one key head. `k` and `v` (rows, longest, size). `window`: how
    many keys back a query sees, itself included; at least `longest` for all of them.
    """
    rows, groups, longest, _ = q.shape
    allowed = _allowed(longest, window, q.device)
    bias = torch.zeros_like(allowed, dtype=q.dtype).masked_fill_(~allowed, float("-inf"))
    out = q.new_empty(rows, groups, longest, v.shape[-1])
    kept = q.new_empty(rows * groups * _num_scores(longest, window))
    for (first, begin, end), weights in zip(
        _blocks(longest, window), _parts(kept, rows, groups, longest, window), strict=True
    ):
        block = q[:, :, begin:end].reshape(rows, groups * (end - begin), -1)
        seen = bias[begin:end, first:end].repeat(groups, 1)
        scores = torch.baddbmm(seen, block, k[:, first:end].transpose(1, 2), alpha=scale)
        torch.softmax(scores, dim=-1, out=weights)  # sums in fp32 inside, whatever the format
        out[:, :, begin:end] = torch.bmm(weights, v[:, first:end]).view(rows, groups, end - begin, -1)
    return out, kept


@torch.library.custom_op("tunesmith::causal_blocks_backward", mutates_args=())
def causal_blocks_backward(
    grad: torch.Tensor, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, kept: torch.Tensor, scale: float, window: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The gradients of `q`, `k` and `v`."""
    rows, groups, longest, _ = q.shape
    q_grad = torch.empty_like(q)
    k_grad, v_grad = (torch.zeros_like(x, dtype=_exact(x.dtype)) for x in (k, v))
    for (first, begin, end), weights in zip(
        _blocks(longest, window), _parts(kept, rows, groups, longest, window), strict=True
    ):
        block, above = (x[:, :, begin:end].reshape(rows, groups * (end - begin), -1) for x in (q, grad))
        v_grad[:, first:end] += torch.bmm(weights.transpose(1, 2), above)
        weights_grad = torch.bmm(above, v[:, first:end].transpose(1, 2))
        scores_grad = torch._softmax_backward_data(weights_grad, weights, -1, weights_grad.dtype)
        q_grad[:, :, begin:end] = torch.bmm(scores_grad, k[:, first:end]).view(rows, groups, end - begin, -1)
        k_grad[:, first:end] += torch.bmm(scores_grad.transpose(1, 2), block)
    return q_grad.mul_(scale), k_grad.mul_(scale).to(k.dtype), v_grad.to(v.dtype)


@causal_blocks.register_fake
def _(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, window: int
) -> tuple[torch.Tensor, torch.Tensor]:
    rows, groups, longest, _ = q.shape
    return q.new_empty(rows, groups, longest, v.shape[-1]), q.new_empty(rows * groups * _num_scores(longest, window))


@causal_blocks_backward.register_fake
def _(
    grad: torch.Tensor, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, kept: torch.Tensor, scale: float, window: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, torch.Tensor]) -> None:
    q, k, v, ctx.scale, ctx.window = inputs
    ctx.save_for_backward(q, k, v, output[1])
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, grad: torch.Tensor | None, _kept_grad: None) -> tuple[Any, ...]:
    if grad is None:  # nothing depends on the result
        return (None,) * 5
    return (*causal_blocks_backward(grad.contiguous(), *ctx.saved_tensors, ctx.scale, ctx.window), None, None)


causal_blocks.register_autograd(_differentiate, setup_context=_keep)


def _blocks(longest: int, window: int) -> list[tuple[int, int, int]]:
    """`(first key, first query, end of both)` of each block."""
    step = -(-longest // NUM_BLOCKS)
    begins = [(i * step, min(longest, (i + 1) * step)) for i in range(NUM_BLOCKS) if i * step < longest]
    return [(max(0, begin + 1 - window), begin, end) for begin, end in begins]


def _num_scores(longest: int, window: int) -> int:
    """Scores of one query head."""
    return sum((end - begin) * (end - first) for first, begin, end in _blocks(longest, window))


def _parts(kept: torch.Tensor, rows: int, groups: int, longest: int, window: int) -> list[torch.Tensor]:
    """The weights of each block, (rows, groups · queries, keys), in the one tensor that holds them all."""
    shapes = [(groups * (end - begin), end - first) for first, begin, end in _blocks(longest, window)]
    flat = kept.split([rows * queries * keys for queries, keys in shapes])
    return [part.view(rows, *shape) for part, shape in zip(flat, shapes, strict=True)]


def _exact(dtype: torch.dtype) -> torch.dtype:
    """The format that sums of `dtype` are kept in."""
    return torch.float32 if dtype in HALVES else dtype


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
    q, k, v = (
        _ToBlock.apply(x[0].transpose(0, 1), batch.pad_index, batch.flat_index).transpose(1, 2)
        for x in (query, key, value)
    )  # (rows, heads, longest, size)
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    if query.device.type == "cpu" and not softcap and not dropout:
        num_rows, heads, longest, size = q.shape
        grouped = q.reshape(num_rows * k.shape[1], -1, longest, size)
        window = sliding_window if sliding_window is not None else EVERY_KEY
        out, _ = causal_blocks(grouped, k.flatten(0, 1), v.flatten(0, 1), scale, window)
        out = out.view(num_rows, heads, longest, -1)
    elif query.device.type == "cpu" or softcap is not None:
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
    longest = max(batch.lengths)
    out = varlen_attn(
        q, k, v, batch.cu_seqlens, batch.cu_seqlens, longest, longest, scale=scale,
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
