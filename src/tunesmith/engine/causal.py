"""Causal attention over rows of different lengths laid end to end, for CPUs: batched products with a softmax between.

One operation to torch, so that compiled layers take it as it is. Rows of like length go through the products together;
a row of its own is read where it lies. Queries go in blocks, each beside only the keys that it may see. No weights are kept:
the backward pass computes them again, one product more, so memory grows with the tokens and not with their square.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch

from tunesmith.engine import kernels

EVERY_KEY = 2**31
"""A window that leaves nothing out."""
LEAST_BLOCK, LARGEST_BLOCK, PARTS = 64, 512, 4
"""How many queries a block holds; a row is cut into `PARTS` when that is within these bounds."""
SHORT = 64
"""Rows of at most so many tokens go through the products together; a longer one goes by itself and is not copied."""


class Group(NamedTuple):
    """Rows that go through the products together."""

    num_rows: int
    longest: int
    span: slice
    """Where the only row stands, when there is one only."""
    places: torch.Tensor | None
    """(rows · longest,): the flat position of each place; the last token of a row again where it has ended."""
    real: torch.Tensor | None
    """(rows · longest,): False where a row has ended; None when all are equally long."""


def groups_of(borders: list[int]) -> Iterator[Group]:
    """The rows between `borders`: all short ones, then each of the others."""
    rows = [(end - start, start) for start, end in zip(borders, borders[1:], strict=False)]
    short = [row for row in rows if row[0] <= SHORT]
    if short:
        lengths, starts = torch.tensor(short).unbind(1)
        longest = int(lengths.max())
        steps = torch.arange(longest)
        places = (starts[:, None] + torch.minimum(steps, lengths[:, None] - 1)).flatten()
        real = None if int(lengths.min()) == longest else (steps < lengths[:, None]).flatten()
        yield Group(len(short), longest, slice(0), places, real)
    for length, start in rows:
        if length > SHORT:
            yield Group(1, length, slice(start, start + length), None, None)


def _gather(flat: torch.Tensor, group: Group, kv_heads: int) -> torch.Tensor:
    """(tokens, heads, size) → (rows · key heads, heads of each, longest, size)."""
    if group.places is None:
        rows = flat[group.span].unsqueeze(0)
    else:
        rows = flat.index_select(0, group.places).unflatten(0, (group.num_rows, group.longest))
    return rows.unflatten(2, (kv_heads, -1)).permute(0, 2, 3, 1, 4).contiguous().flatten(0, 1)


def _put_back(block: torch.Tensor, flat: torch.Tensor, group: Group) -> None:
    """The other way: `block` (rows · key heads, heads of each, longest, size) into its places in `flat` (tokens, heads, size)."""
    rows = block.unflatten(0, (group.num_rows, -1)).permute(0, 3, 1, 2, 4).flatten(2, 3)  # (rows, longest, heads, size)
    if group.places is None:
        flat[group.span] = rows[0]
    elif group.real is None:
        flat.index_copy_(0, group.places, rows.flatten(0, 1))
    else:
        flat.index_copy_(0, group.places[group.real], rows.flatten(0, 1)[group.real])


class _Block(NamedTuple):
    """Queries `begin` to `end`, and the keys that they see: `first` to `end`."""

    first: int
    begin: int
    end: int
    window: int
    scale: float

    def queries(self, block: torch.Tensor) -> torch.Tensor:
        """(batch, each, longest, size) → (batch, each · queries, size)"""
        return block[:, :, self.begin : self.end].flatten(1, 2)

    def keys(self, block: torch.Tensor) -> torch.Tensor:
        """(batch, 1, longest, size) → (batch, keys, size)"""
        return block[:, 0, self.first : self.end]

    def weights(self, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        """(batch, each · queries, keys): the softmax; sums in fp32 inside, whatever the format."""
        scores = torch.bmm(q, k.transpose(1, 2))
        queries, back = self.end - self.begin, self.begin - self.first
        if kernels.usable(scores):
            kernels.softmax_(scores, queries, back, self.window, self.scale)
            return scores
        hidden = torch.ones(queries, k.shape[1], dtype=torch.bool)
        hidden = hidden.triu(back + 1) | hidden.tril(back - self.window)
        by_query = scores.unflatten(1, (-1, queries)).mul_(self.scale).masked_fill_(hidden, float("-inf"))
        return torch.softmax(by_query, dim=-1).flatten(1, 2)

    def scores_grad(self, grad: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """The gradient of the scores from that of the weights, which gives way."""
        if kernels.usable(grad, weights):
            queries, back = self.end - self.begin, self.begin - self.first
            kernels.softmax_backward_(grad, weights, queries, back, self.window, self.scale)
            return grad
        torch.ops.aten._softmax_backward_data.out(grad, weights, -1, grad.dtype, grad_input=grad)
        return grad.mul_(self.scale)


def _blocks(longest: int, window: int, scale: float) -> list[_Block]:
    step = min(LARGEST_BLOCK, max(LEAST_BLOCK, -(-longest // PARTS)))
    return [
        _Block(max(0, begin + 1 - window), begin, min(longest, begin + step), window, scale)
        for begin in range(0, longest, step)
    ]


@torch.library.custom_op("tunesmith::causal_rows", mutates_args=())
def causal_rows(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, borders: torch.Tensor, scale: float, window: int
) -> torch.Tensor:
    """softmax(s q kᵀ) v where no query sees a later key or another row; (tokens, heads, size).

    `q` (tokens, heads, size), `k` and `v` (tokens, key heads, size), of which each serves `heads / key heads` query heads.
    `borders` (rows + 1,): where rows begin, and the end of the last. `window`: how many keys back a query sees, itself included.
    """
    q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    if kernels.attends(q, k, v, len(borders) - 1):
        return kernels.attention(q, k, v, borders.int(), scale, window)
    kv_heads = k.shape[1]
    out = q.new_empty(*q.shape[:2], v.shape[-1])
    for group in groups_of(borders.tolist()):
        qs, ks, vs = (_gather(x, group, kv_heads) for x in (q, k, v))
        blocks = _blocks(group.longest, window, scale)
        done = [
            torch.bmm(block.weights(block.queries(qs), block.keys(ks)), block.keys(vs)).unflatten(1, (qs.shape[1], -1))
            for block in blocks
        ]
        _put_back(_one(done), out, group)
    return out


@torch.library.custom_op("tunesmith::causal_rows_backward", mutates_args=())
def causal_rows_backward(
    grad: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    borders: torch.Tensor,
    scale: float,
    window: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The gradients of `q`, `k` and `v`."""
    grad, q, k, v = (x.contiguous() for x in (grad, q, k, v))
    if kernels.attends(q, k, v, len(borders) - 1):
        return kernels.attention_backward(grad, q, k, v, borders.int(), scale, window)
    kv_heads = k.shape[1]
    q_grad, k_grad, v_grad = (x.new_empty(x.shape) for x in (q, k, v))
    for group in groups_of(borders.tolist()):
        qs, ks, vs, above = (_gather(x, group, kv_heads) for x in (q, k, v, grad))
        if group.real is not None:  # places behind the end of a row repeat a token, and must not count twice
            above.unflatten(0, (group.num_rows, -1)).mul_(group.real.view(group.num_rows, 1, 1, -1, 1))
        blocks = _blocks(group.longest, window, scale)
        q_done: list[torch.Tensor] = []
        k_done, v_done = _Sum(ks, len(blocks)), _Sum(vs, len(blocks))
        for block in blocks:
            mine, over, seen = block.queries(qs), block.queries(above), block.keys(ks)
            weights = block.weights(mine, seen)
            v_done.add(block, torch.bmm(weights.transpose(1, 2), over))
            scores = block.scores_grad(torch.bmm(over, block.keys(vs).transpose(1, 2)), weights)
            q_done.append(torch.bmm(scores, seen).unflatten(1, (qs.shape[1], -1)))
            k_done.add(block, torch.bmm(scores.transpose(1, 2), mine))
        for done, into in ((_one(q_done), q_grad), (k_done.sum, k_grad), (v_done.sum, v_grad)):
            _put_back(done.to(into.dtype), into, group)
    return q_grad, k_grad, v_grad


def _one(parts: list[torch.Tensor]) -> torch.Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)


class _Sum:
    """Of what each block adds to its keys, (batch, 1, longest, size); in fp32 where there are several."""

    def __init__(self, like: torch.Tensor, parts: int) -> None:
        self.sum = (
            like.new_zeros(like.shape, dtype=torch.promote_types(like.dtype, torch.float32)) if parts > 1 else like
        )

    def add(self, block: _Block, part: torch.Tensor) -> None:
        if self.sum.shape[2] == part.shape[1] and block.begin == 0:
            self.sum = part.unsqueeze(1)
        else:
            block.keys(self.sum).add_(part)


@causal_rows.register_fake
def _(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, borders: torch.Tensor, scale: float, window: int
) -> torch.Tensor:
    return q.new_empty(*q.shape[:2], v.shape[-1])


@causal_rows_backward.register_fake
def _(
    grad: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    borders: torch.Tensor,
    scale: float,
    window: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    *tensors, ctx.scale, ctx.window = inputs
    ctx.save_for_backward(*tensors)


def _differentiate(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
    return (*causal_rows_backward(grad, *ctx.saved_tensors, ctx.scale, ctx.window), None, None, None)


causal_rows.register_autograd(_differentiate, setup_context=_keep)
