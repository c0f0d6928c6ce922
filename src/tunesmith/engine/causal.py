"""Causal attention over rows of different lengths laid end to end, for CPUs: batched products with a softmax between.

One operation to torch, so that compiled layers take it as it is. Rows of like length go through the products together;
a row of its own is read where it lies. Queries go in blocks, each beside only the keys that it may see. No weights are kept:
the backward pass computes them again, one product more, so memory grows with the tokens and not with their square.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch

EVERY_KEY = 2**31
"""A window that leaves nothing out."""
LEAST_BLOCK, LARGEST_BLOCK = 64, 512
"""How many queries a block holds; a row is cut into four when that is within these bounds."""
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


def _gather(flat: torch.Tensor, group: Group, each: int = 1) -> torch.Tensor:
    """(tokens, heads, size) → (rows · heads · each, longest, size); every head stands there `each` times."""
    if group.places is None:
        block = flat[group.span].transpose(0, 1)
    else:
        rows = flat.index_select(0, group.places).unflatten(0, (group.num_rows, group.longest))
        block = rows.transpose(1, 2).flatten(0, 1)
    return block if each == 1 else block.repeat_interleave(each, 0)


def _put_back(block: torch.Tensor, flat: torch.Tensor, group: Group) -> None:
    """The other way: `block` (rows · heads, longest, size) into its places in `flat` (tokens, heads, size)."""
    rows = block.unflatten(0, (group.num_rows, -1)).transpose(1, 2)
    if group.places is None:
        flat[group.span] = rows[0]
    elif group.real is None:
        flat.index_copy_(0, group.places, rows.flatten(0, 1))
    else:
        flat.index_copy_(0, group.places[group.real], rows.flatten(0, 1)[group.real])


def _blocks(longest: int, window: int) -> Iterator[tuple[int, int, int]]:
    """`(first key, first query, end of both)` of each block."""
    step = min(LARGEST_BLOCK, max(LEAST_BLOCK, -(-longest // 4)))
    for begin in range(0, longest, step):
        yield max(0, begin + 1 - window), begin, min(longest, begin + step)


def _weights(q: torch.Tensor, k: torch.Tensor, scale: float, window: int, back: int) -> torch.Tensor:
    """The softmax of a block: `q` (batch, queries, size), `k` (batch, keys, size), the last query being level with the last key.

    `back`: how many keys stand before the first query.
    """
    queries, keys = q.shape[1], k.shape[1]
    scores = torch.baddbmm(q.new_empty(()).expand(len(q), queries, keys), q, k.transpose(1, 2), beta=0, alpha=scale)
    ahead = torch.ones(queries, queries, dtype=torch.bool).triu_(1)
    scores[:, :, back:].masked_fill_(ahead, float("-inf"))
    if window < keys:
        scores.masked_fill_(torch.ones(queries, keys, dtype=torch.bool).tril_(back - window), float("-inf"))
    return torch.softmax(scores, dim=-1)  # sums in fp32 inside, whatever the format


@torch.library.custom_op("tunesmith::causal_rows", mutates_args=())
def causal_rows(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, borders: torch.Tensor, scale: float, window: int
) -> torch.Tensor:
    """softmax(s q kᵀ) v where no query sees a later key or another row; (tokens, heads, size).

    `q` (tokens, heads, size), `k` and `v` (tokens, key heads, size), of which each serves `heads / key heads` query heads.
    `borders` (rows + 1,): where rows begin, and the end of the last. `window`: how many keys back a query sees, itself included.
    """
    each = q.shape[1] // k.shape[1]
    out = q.new_empty(*q.shape[:2], v.shape[-1])
    for group in groups_of(borders.tolist()):
        qs, ks, vs = _gather(q, group), _gather(k, group, each), _gather(v, group, each)
        done = qs.new_empty(*qs.shape[:2], v.shape[-1])
        for first, begin, end in _blocks(group.longest, window):
            weights = _weights(qs[:, begin:end], ks[:, first:end], scale, window, begin - first)
            done[:, begin:end] = torch.bmm(weights, vs[:, first:end])
        _put_back(done, out, group)
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
    each = q.shape[1] // k.shape[1]
    q_grad, k_grad, v_grad = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
    for group in groups_of(borders.tolist()):
        qs, ks, vs, above = _gather(q, group), _gather(k, group, each), _gather(v, group, each), _gather(grad, group)
        if group.real is not None:  # places behind the end of a row repeat a token, and must not count twice
            above.unflatten(0, (group.num_rows, -1)).mul_(group.real.view(group.num_rows, 1, -1, 1))
        q_done = qs.new_empty(qs.shape)
        k_done, v_done = (torch.zeros(x.shape, dtype=torch.promote_types(x.dtype, torch.float32)) for x in (ks, vs))
        for first, begin, end in _blocks(group.longest, window):
            mine, seen, over = qs[:, begin:end], slice(first, end), above[:, begin:end]
            weights = _weights(mine, ks[:, seen], scale, window, begin - first)
            v_done[:, seen] += torch.bmm(weights.transpose(1, 2), over)
            scores = torch.bmm(over, vs[:, seen].transpose(1, 2))
            torch.ops.aten._softmax_backward_data.out(scores, weights, -1, scores.dtype, grad_input=scores)
            q_done[:, begin:end] = torch.bmm(scores, ks[:, seen])
            k_done[:, seen] += torch.bmm(scores.transpose(1, 2), mine)
        _put_back(q_done, q_grad, group)
        for done, into in ((k_done, k_grad), (v_done, v_grad)):
            summed = done if each == 1 else done.unflatten(0, (-1, each)).sum(1)
            _put_back(summed.to(into.dtype), into, group)
    return q_grad.mul_(scale), k_grad.mul_(scale), v_grad


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
