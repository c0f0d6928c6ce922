"""Weights of a model folder read a few rows at a time, an adapter merged in while they are read. NumPy only.

Files are memory-mapped: whatever the model's size, only the rows that are being written are in memory.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tunesmith.core.errors import BadData, UnsupportedFormat
from tunesmith.recipes.model_info import read_header, read_json, refuse_unsafe_files, weight_files

PLAIN_NAME = re.compile(r"[A-Za-z0-9_.]{1,200}")
"""Of a layer."""
DTYPES = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16, "F64": np.float64}
"""How the types of a safetensors header lie in memory; NumPy knows no bfloat16."""
PEFT_PREFIX = "base_model.model."

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
        found |= _open_file(path)
    return found


def _open_file(path: Path) -> dict[str, Tensor]:
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


class Delta(NamedTuple):
    """What LoRA adds to one linear map: `scale * b @ a`."""

    a: np.ndarray
    """(rank, inputs)"""
    b: np.ndarray
    """(outputs, rank)"""
    alpha: float
    scale: float


class Adapter(NamedTuple):
    """A LoRA adapter, by the names of the weights it changes."""

    deltas: dict[str, Delta]
    replaced: dict[str, Tensor]
    """Weights that were trained whole and are in the adapter's file."""
    config: dict[str, Any]

    def merged(self, name: str, tensor: Tensor) -> Tensor:
        """The tensor with the adapter in it. Raises `BadData` when their shapes do not fit."""
        if name in self.replaced:
            if self.replaced[name].shape != tensor.shape:
                raise BadData(f"The adapter holds {name} in another shape than its base model.")
            return self.replaced[name]
        delta = self.deltas.get(name)
        if delta is None:
            return tensor
        if (len(delta.b), delta.a.shape[1]) != tensor.shape:
            raise BadData(
                f"The adapter does not fit the model: {name} is {tensor.shape}, its change {len(delta.b), delta.a.shape[1]}.",
                hint="Choose the base model that the adapter was trained on.",
            )
        return Tensor(tensor.shape, lambda rows: tensor.rows(rows) + delta.scale * (delta.b[rows] @ delta.a))


def open_adapter(folder: Path) -> Adapter:
    """A PEFT adapter. Raises `UnsupportedFormat` for kinds that cannot be merged row by row."""
    config = read_json(folder / "adapter_config.json")
    if str(config.get("peft_type", "LORA")).upper() != "LORA" or config.get("use_dora"):
        kind = "DoRA" if config.get("use_dora") else str(config.get("peft_type"))[:40]
        raise UnsupportedFormat(f"{kind} adapters cannot be merged here.", hint="Merge it with PEFT first.")
    path = folder / "adapter_model.safetensors"
    tensors = {name.removeprefix(PEFT_PREFIX): tensor for name, tensor in _open_file(path).items()}
    deltas, replaced = {}, {}
    for name, tensor in tensors.items():
        if name.endswith(".lora_A.weight"):
            module = name.removesuffix(".lora_A.weight")
            other = tensors.get(f"{module}.lora_B.weight")
            if other is None:
                raise BadData(f"{path.name} holds half of the adapter of {module[:80]}.")
            deltas[f"{module}.weight"] = _delta(module, tensor.all(), other.all(), config)
        elif ".lora_" not in name:
            replaced[name] = tensor
    if not deltas and not replaced:
        raise BadData(f"{path.name} holds no adapter.")
    return Adapter(deltas, replaced, config)


def _names(key: str, module: str) -> bool:
    """Whether a key of `alpha_pattern` means a layer: its name, or the end of it. PEFT takes regular expressions, which come
    with the adapter here; raises `UnsupportedFormat` for one that is more than a name."""
    plain = key.removeprefix("^").replace("\\.", ".")
    if not PLAIN_NAME.fullmatch(plain):
        raise UnsupportedFormat(
            f"The adapter gives layers their alpha by the pattern {key[:60]!r}.", hint="Merge it with PEFT first."
        )
    return module == plain or module.endswith(f".{plain}")


def _delta(module: str, a: np.ndarray, b: np.ndarray, config: dict[str, Any]) -> Delta:
    rank = len(a)
    patterns = config.get("alpha_pattern") or {}
    own = next((v for key, v in patterns.items() if _names(key, module)), None)
    alpha = float(own if own is not None else config.get("lora_alpha", rank))
    return Delta(a, b, alpha, alpha / (math.sqrt(rank) if config.get("use_rslora") else rank))
