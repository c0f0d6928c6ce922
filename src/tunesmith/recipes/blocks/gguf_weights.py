"""Weights of a model folder read a few rows at a time. NumPy only.

Files are memory-mapped: whatever the model's size, only the rows that are being written are in memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tunesmith.core.errors import UnsupportedFormat
from tunesmith.recipes.model_info import read_header, refuse_unsafe_files, weight_files

DTYPES = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16, "F64": np.float64}
"""How the types of a safetensors header lie in memory; NumPy knows no bfloat16."""

Rows = Callable[[np.ndarray], np.ndarray]
"""Row numbers → those rows as float32."""


class Tensor(NamedTuple):
    """One tensor that can be read in parts. A vector counts as one row."""

    shape: tuple[int, ...]
    rows: Rows

    @property
    def num_rows(self) -> int:
        return math.prod(self.shape[:-1])

    def read(self, start: int, stop: int) -> np.ndarray:
        """Rows `start` to `stop`, (rows, columns) float32."""
        return self.rows(np.arange(start, stop))

    def all(self) -> np.ndarray:
        """The whole tensor in its own shape, float32."""
        return self.read(0, self.num_rows).reshape(self.shape)

    def map(self, change: Callable[[np.ndarray], np.ndarray]) -> Tensor:
        """The same with `change` done to each part that is read."""
        return Tensor(self.shape, lambda rows: change(self.rows(rows)))

    def picked(self, order: np.ndarray) -> Tensor:
        """The same with its rows in another order: row `i` is what was row `order[i]`."""
        return Tensor((len(order), *self.shape[1:]), lambda rows: self.rows(order[rows]))

    def entries(self, order: np.ndarray) -> Tensor:
        """A vector in another order."""
        return Tensor(self.shape, lambda rows: self.rows(rows)[:, order])


def open_weights(folder: Path) -> dict[str, Tensor]:
    """Every tensor of the folder's safetensors files, by name.

    Raises `NotFound`, `BadData`, or `UnsupportedFormat` for weights that are compressed already.
    """
    refuse_unsafe_files(folder)
    found: dict[str, Tensor] = {}
    for path in weight_files(folder):
        found |= open_file(path)
    return found


def open_file(path: Path) -> dict[str, Tensor]:
    """Every tensor of one safetensors file. Raises as `open_weights`."""
    header = read_header(path)
    data = np.memmap(path, mode="r", dtype=np.uint8)
    begin = 8 + int(data[:8].view(np.uint64)[0])
    found = {}
    for name, told in header.items():
        dtype = DTYPES.get(told["dtype"])
        if dtype is None:
            raise UnsupportedFormat(
                f"{path.name} holds {name[:80]} as {told['dtype']}: these weights are compressed already.",
                hint="Start from the model as it was before it was compressed.",
            )
        first, last = told["data_offsets"]
        array = data[begin + first : begin + last].view(dtype) if last > first else np.zeros(0, dtype)
        found[name] = of_array(array.reshape(told["shape"]))
    return found


def of_array(array: np.ndarray) -> Tensor:
    """A tensor that lies in memory or in a mapped file; 16-bit integers are bfloat16."""
    shape = array.shape or (1,)
    flat = array.reshape(-1, shape[-1])

    def rows(wanted: np.ndarray) -> np.ndarray:
        part = flat[wanted]
        if part.dtype == np.uint16:
            return (part.astype(np.uint32) << 16).view(np.float32)
        return part.astype(np.float32)

    return Tensor(shape, rows)


def transposed(tensor: Tensor) -> Tensor:
    """Columns for rows; reads the whole tensor each time a part is asked for."""
    return Tensor(tensor.shape[::-1], lambda rows: np.ascontiguousarray(tensor.all().T[rows]))
