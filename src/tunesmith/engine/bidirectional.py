"""Attention of encoders over rows laid end to end: every token sees its whole row, before and behind it, and no other row.

Registered with transformers' `AttentionInterface`. Rows that lie beside each other and are of like length go through torch's
scaled dot-product attention as one block, so little is computed for padding; rows of one length need no copy and no mask.
Causal layers are handed on to `engine/attention.py`, so one name serves both.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn import functional as F
from transformers import AttentionInterface

from tunesmith.engine import attention
from tunesmith.engine.packing import PackedBatch

NAME = "tunesmith_packed_rows"
ALIKE, ALIKE_TOKENS = 1.25, 4
"""Rows share a block while the longest is at most so many times, or so many tokens, longer than the shortest."""


class Block(NamedTuple):
    """Rows that lie beside each other and are attended together."""

    span: slice
    """Their tokens."""
    num_rows: int
    longest: int
    pad_index: torch.Tensor | None
    """(rows, longest): place within the span; 0 where there is padding. None when all rows are equally long."""
    flat_index: torch.Tensor | None
    """(tokens,): place of each token in the flattened block."""
    lengths: torch.Tensor | None
    """(rows,)"""


_current: list[Block] | None = None


def blocks_of(lengths: Sequence[int], device: torch.device) -> list[Block]:
    """Rows of `lengths` tokens, as they lie, in blocks of like length."""
    found, start, begin = [], 0, 0
    while begin < len(lengths):
        least = most = lengths[begin]
        end = begin + 1
        while end < len(lengths):
            low, high = min(least, lengths[end]), max(most, lengths[end])
            if high > max(ALIKE * low, low + ALIKE_TOKENS):
                break
            least, most, end = low, high, end + 1
        inside = np.array(lengths[begin:end])
        tokens = int(inside.sum())
        found.append(_block(inside, slice(start, start + tokens), device))
        begin, start = end, start + tokens
    return found


def _block(lengths: np.ndarray, span: slice, device: torch.device) -> Block:
    longest = int(lengths.max())
    if int(lengths.min()) == longest:
        return Block(span, len(lengths), longest, None, None, None)
    starts, places = np.concatenate(([0], np.cumsum(lengths)[:-1])), np.arange(longest)
    real = places < lengths[:, None]
    pad_index = torch.from_numpy(np.where(real, starts[:, None] + places, 0)).to(device)
    flat_index = torch.from_numpy(np.flatnonzero(real.ravel())).to(device)
    return Block(span, len(lengths), longest, pad_index, flat_index, torch.from_numpy(lengths).to(device))


@contextlib.contextmanager
def rows_of(batch: PackedBatch) -> Iterator[None]:
    """Within this block (forward and backward pass), attention follows the rows of `batch`, causal or not."""
    global _current
    before, _current = _current, blocks_of(batch.lengths, batch.input_ids.device)
    try:
        with attention.rows_of(batch):
            yield
    finally:
        _current = before


def packed_rows(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **more: Any,
) -> tuple[torch.Tensor, None]:
    """`query` (1, heads, tokens, size), `key` and `value` (1, kv heads, tokens, size) → (1, tokens, heads, size).

    `sliding_window`: a token sees others that are fewer than so many tokens away.
    """
    if _current is None:
        raise RuntimeError("packed attention was called outside rows_of(batch)")
    if getattr(module, "is_causal", True):
        return attention.packed_attention(
            module, query, key, value, attention_mask, scaling, dropout, sliding_window, **more
        )
    if more.get("softcap"):
        raise ValueError("attention of encoders knows no soft cap")
    dropout = dropout if module.training else 0.0
    flat = [x[0].transpose(0, 1) for x in (query, key, value)]  # (tokens, heads, size)
    parts = [_attend(block, [x[block.span] for x in flat], scaling, dropout, sliding_window) for block in _current]
    out = parts[0] if len(parts) == 1 else torch.cat(parts)
    return out.unsqueeze(0), None


def _attend(
    block: Block, flat: list[torch.Tensor], scale: float | None, dropout: float, window: int | None
) -> torch.Tensor:
    """(tokens, heads, size) each → (tokens, heads, size) of the rows of `block`."""
    if block.pad_index is None or block.flat_index is None:
        q, k, v = (x.unflatten(0, (block.num_rows, block.longest)).transpose(1, 2) for x in flat)
    else:
        q, k, v = (attention._ToBlock.apply(x, block.pad_index, block.flat_index).transpose(1, 2) for x in flat)
    out = F.scaled_dot_product_attention(
        q, k, v, attn_mask=_allowed(block, window, q.device), dropout_p=dropout, scale=scale,
        enable_gqa=q.shape[1] != k.shape[1],
    ).transpose(1, 2)  # fmt: skip
    if block.flat_index is None:
        return out.flatten(0, 1)
    return attention._ToFlat.apply(out, block.flat_index)  # type: ignore[no-any-return]


def _allowed(block: Block, window: int | None, device: torch.device) -> torch.Tensor | None:
    """(rows or 1, 1, longest or 1, longest), True where a query may look at a key; None where it may look at all."""
    places = torch.arange(block.longest, device=device)
    mask = None if block.lengths is None else (places < block.lengths[:, None])[:, None, None, :]
    if window is not None and window <= block.longest:
        near = ((places[:, None] - places).abs() < window)[None, None]
        # a padded query far behind its row would see no key at all; what it gets goes nowhere
        mask = near if mask is None else (near & mask) | torch.eye(block.longest, dtype=torch.bool, device=device)
    return mask


AttentionInterface.register(NAME, packed_rows)
