"""Rows laid end to end: one flat line of tokens with the borders of its rows, so that nothing is computed for padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

IGNORE = -100
"""Label of a token that is not learned from."""
LEAST_BOUND = 256
"""Tokens; see `PackedBatch.length_bound`."""
FULL_TOKENS, FULL_ROWS = 1024, 8
"""A filled batch holds a multiple of these."""


@dataclass(frozen=True)
class PackedBatch:
    """Rows end to end. `tokens` is their total length."""

    input_ids: torch.Tensor
    """(tokens,)"""
    position_ids: torch.Tensor
    """(tokens,): 0 at the start of each row."""
    targets: torch.Tensor
    """(supervised,): the token that follows each supervised position."""
    target_positions: torch.Tensor
    """(supervised,): flat positions whose next token is learned."""
    lengths: tuple[int, ...]
    """Tokens in each row."""
    length_bound: int
    """A power of two that no row is longer than: what is compiled for it serves most batches."""
    pad_index: torch.Tensor
    """(rows, longest): flat position of each place of the padded block; 0 where it is padding."""
    flat_index: torch.Tensor
    """(tokens,): place of each flat position in the flattened padded block."""
    cu_seqlens: torch.Tensor
    """(rows + 1,), int32: where each row begins, and the end of the last; the end again for empty rows of a filled batch."""

    @property
    def num_rows(self) -> int:
        return len(self.lengths)

    def to(self, device: torch.device) -> PackedBatch:
        """The same batch on `device`; a GPU copies it while this process goes on."""
        on_cuda = device.type == "cuda"
        tensors: dict[str, Any] = {
            name: (value.pin_memory() if on_cuda else value).to(device, non_blocking=True)
            for name, value in vars(self).items()
            if isinstance(value, torch.Tensor)
        }
        return replace(self, **tensors)


def pack(rows: Sequence[tuple[np.ndarray, np.ndarray]], *, fill: bool = False) -> PackedBatch:
    """`rows` holds `(input_ids (length,), labels (length,))` pairs; labels are `IGNORE` where nothing is learned.

    `fill`: one more row that nothing is learned from, and empty ones, so that batches come in few sizes.
    """
    if fill and (missing := -sum(len(ids) for ids, _ in rows) % FULL_TOKENS):
        rows = [*rows, (np.zeros(missing, np.int64), np.full(missing, IGNORE))]
    lengths = np.array([len(ids) for ids, _ in rows])
    longest, starts = int(lengths.max()), np.concatenate(([0], np.cumsum(lengths)[:-1]))
    places = np.arange(longest)
    real = places < lengths[:, None]
    pad_index = np.where(real, starts[:, None] + places, 0)
    # The label of a position is the next token of the same row; the last token of a row predicts nothing.
    shifted = np.concatenate([np.append(labels[1:], IGNORE) for _, labels in rows])
    positions = np.flatnonzero(shifted != IGNORE)
    borders = np.append(starts, lengths.sum())
    if fill:
        borders = np.append(borders, np.repeat(borders[-1], -len(lengths) % FULL_ROWS))
    return PackedBatch(
        input_ids=torch.from_numpy(np.concatenate([ids for ids, _ in rows]).astype(np.int64)),
        position_ids=torch.from_numpy(np.concatenate([np.arange(n) for n in lengths])),
        targets=torch.from_numpy(shifted[positions].astype(np.int64)),
        target_positions=torch.from_numpy(positions),
        lengths=tuple(int(n) for n in lengths),
        length_bound=max(FULL_TOKENS if fill else LEAST_BOUND, 1 << (longest - 1).bit_length()),
        pad_index=torch.from_numpy(pad_index),
        flat_index=torch.from_numpy(np.flatnonzero(real.ravel())),
        cu_seqlens=torch.from_numpy(borders.astype(np.int32)),
    )


def count_supervised(labels: np.ndarray) -> int:
    """How many positions of a row are learned: labels after the first token."""
    return int((labels[1:] != IGNORE).sum())
