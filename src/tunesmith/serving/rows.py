"""Keys and values of several requests in one cache that rows join and leave.

Rows end at the same column, so that a step appends one column for all of them; a short row is padded on its left. Columns
are counted from the first row's first token on and never renumbered: a row that is longer than the others begins at a
negative one.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

SPARE = 128
"""Columns that a layer has room for beyond those it needs, at least."""


class _Bounds:
    """Which columns the rows fill, the same in all layers."""

    def __init__(self) -> None:
        self.rows, self.start, self.end = 1, 0, 0


class _Layer(CacheLayerMixin):
    """One layer: (rows, heads, columns, head size), with room to grow."""

    is_sliding = False  # a sliding window is the mask's affair: all columns are kept

    def __init__(self, bounds: _Bounds) -> None:
        super().__init__()
        self._bounds, self._first = bounds, 0
        self._both: tuple[torch.Tensor, ...] = ()
        """Keys and values, from column `_first` on."""

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        self._both = tuple(
            states.new_zeros((states.shape[0], states.shape[1], 0, states.shape[3]))
            for states in (key_states, value_states)
        )
        self._first, self.is_initialized = self._bounds.start, True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write after the last column. It counts when the bounds move, so that a step that failed can be tried again."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        bounds = self._bounds
        end = bounds.end + key_states.shape[-2]
        self.cover(bounds.rows, bounds.start, end)
        for room, states in zip(self.part(bounds.rows, bounds.end, end), (key_states, value_states), strict=True):
            room.copy_(states)
        return self.part(bounds.rows, bounds.start, end)

    def part(self, rows: int, start: int, end: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of the first `rows` rows, from one column to another."""
        columns = slice(start - self._first, end - self._first)
        keys, values = self._both
        return keys[:rows, :, columns], values[:rows, :, columns]

    def cover(self, rows: int, start: int, end: int) -> None:
        """Have room for so many rows and these columns."""
        room, _, columns, _ = self._both[0].shape
        if rows <= room and start >= self._first and end <= self._first + columns:
            return
        bounds = self._bounds
        room = rows if rows <= room else 1 << (rows - 1).bit_length()
        wide = (end - start) + max(SPARE, (end - start) // 4)
        old = self.part(bounds.rows, bounds.start, bounds.end)
        grown = tuple(part.new_zeros((room, part.shape[1], wide, part.shape[3])) for part in old)
        for new, part in zip(grown, old, strict=True):
            new[: bounds.rows, :, bounds.start - start : bounds.end - start] = part
        self._both, self._first = grown, start

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def get_seq_length(self) -> int:
        return self._bounds.end - self._bounds.start

    def get_max_length(self) -> int:
        return -1


class RowsCache(Cache):
    """A cache that starts with one row. `lengths` are the tokens of each."""

    def __init__(self, layers: int) -> None:
        self.bounds, self.lengths = _Bounds(), [0]
        self.parts = [_Layer(self.bounds) for _ in range(layers)]
        super().__init__(layers=list(self.parts))

    def advance(self, tokens: int) -> None:
        """So many tokens of each row were computed."""
        self.bounds.end += tokens
        self.lengths = [length + tokens for length in self.lengths]

    def join(self, other: RowsCache) -> None:
        """Take the one row of `other` in, as the last."""
        bounds, theirs, length = self.bounds, other.bounds, other.lengths[0]
        start = min(bounds.start, bounds.end - length)
        for layer, source in zip(self.parts, other.parts, strict=True):
            layer.cover(bounds.rows + 1, start, bounds.end)
            for mine, new in zip(
                layer.part(bounds.rows + 1, start, bounds.end), source.part(1, theirs.start, theirs.end), strict=True
            ):
                mine[-1].zero_()  # what a former row left may be no number, and a mask does not hide that
                mine[-1, :, -length:] = new[0]
        bounds.rows, bounds.start = bounds.rows + 1, start
        self.lengths.append(length)

    def leave(self, row: int) -> None:
        """Free a row; the last one takes its place."""
        bounds = self.bounds
        last = bounds.rows - 1
        for layer in self.parts if row != last else []:
            for part in layer.part(bounds.rows, bounds.start, bounds.end):
                part[row] = part[last]
        self.lengths[row] = self.lengths[last]
        self.lengths.pop()
        bounds.rows, bounds.start = last, bounds.end - max(self.lengths, default=0)

    def about(self, device: torch.device) -> dict[str, torch.Tensor]:
        """What the model must be told to compute the next column; nothing when no row is padded."""
        if len(set(self.lengths)) == 1:
            return {}
        lengths = torch.tensor(self.lengths, device=device)[:, None]
        width = self.bounds.end - self.bounds.start + 1
        columns = torch.arange(width, device=device)[None]
        return {"position_ids": lengths, "attention_mask": (columns >= width - 1 - lengths).long()}


def rows_of(config: Any) -> int | None:
    """How many layers a `RowsCache` for this model has; None where rows cannot be padded: a layer carries a state from token
    to token, shares another's keys or looks at pieces of fixed places."""
    layers = DynamicCache(config=config).layers
    if any(type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers):
        return None
    if not layers or getattr(config.get_text_config(), "attention_chunk_size", None):
        return None
    return len(layers)
