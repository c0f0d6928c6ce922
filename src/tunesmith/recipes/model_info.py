"""What a model folder holds, read from `config.json` and safetensors headers alone: no torch, nothing executed."""

from __future__ import annotations

import json
import re
import struct
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from tunesmith.core.errors import BadData, NotFound, UnsupportedFormat

MAX_HEADER_BYTES = 100 * 1024 * 1024
"""Longest safetensors header that is read; the format's own limit."""
OUTER = re.compile(r"embed|lm_head|wte|wpe")
"""Two-dimensional weights that get no adapter."""
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".h5", ".msgpack")


class ModelInfo(NamedTuple):
    """A model's architecture in numbers."""

    family: str
    architecture: str
    num_parameters: int
    size_bytes: int
    """Of the weights on disk."""
    num_layers: int
    hidden_size: int
    num_heads: int
    vocab_size: int
    context_length: int
    linear_width: int
    """Inputs plus outputs, summed over the layers' linear maps: an adapter of rank r has r times this many weights."""


def read_header(path: Path) -> dict[str, Any]:
    """The tensors of a safetensors file: name → {dtype, shape, data_offsets}. Raises `BadData` when the header lies."""
    size_bytes = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= min(MAX_HEADER_BYTES, size_bytes - 8):
            raise BadData(f"{path.name} is not a safetensors file: its header is {length} bytes of {size_bytes}.")
        try:
            header = json.loads(file.read(length))
        except (ValueError, RecursionError):
            raise BadData(f"{path.name} is not a safetensors file: its header is not JSON.") from None
    if not isinstance(header, dict):
        raise BadData(f"{path.name} is not a safetensors file: its header is not an object.")
    header.pop("__metadata__", None)
    for name, tensor in header.items():
        if not _is_tensor(tensor):
            raise BadData(f"{path.name} is not a safetensors file: {name[:80]} does not describe a tensor.")
        begin, end = tensor["data_offsets"]
        if not 0 <= begin <= end <= size_bytes - 8 - length:
            raise BadData(f"{path.name} is cut or forged: tensor {name[:80]} ends beyond the file.")
    return header


def _is_tensor(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    offsets, shape = value.get("data_offsets"), value.get("shape")
    if not (isinstance(offsets, list) and len(offsets) == 2 and isinstance(shape, list)):
        return False
    return all(type(number) is int for number in offsets) and all(type(n) is int and n >= 0 for n in shape)


def refuse_unsafe_files(folder: Path) -> None:
    """Raise `UnsupportedFormat` when the weights are only there as pickle, which can run code when it is read."""
    if any(folder.glob("*.safetensors")):
        return
    pickles = [p.name for p in folder.iterdir() if p.suffix in PICKLE_SUFFIXES]
    if pickles:
        raise UnsupportedFormat(
            f"The model has its weights as {pickles[0]}, a format that can run code when it is read.",
            hint="Use a version with .safetensors files, or convert it once on a machine that you can spare.",
        )
    raise NotFound("The model folder has no .safetensors file.", hint="Download the model again; it may be incomplete.")


def read_model_info(folder: Path) -> ModelInfo:
    """Raises `NotFound`, `UnsupportedFormat` or `BadData`, each naming the file."""
    try:
        config = json.loads((folder / "config.json").read_bytes())
    except FileNotFoundError:
        raise NotFound(f"{folder.name} has no config.json, so it is not a model.") from None
    except ValueError:
        raise BadData(f"{folder.name}/config.json is not JSON.") from None
    if not isinstance(config, dict):
        raise BadData(f"{folder.name}/config.json is not an object.")
    refuse_unsafe_files(folder)
    text = config["text_config"] if isinstance(config.get("text_config"), dict) else config
    files = sorted(folder.glob("*.safetensors"))
    tensors = [(name, tensor["shape"]) for file in files for name, tensor in read_header(file).items()]
    architectures = config.get("architectures")

    def first(*names: str, default: int = 0) -> int:
        return next((text[name] for name in names if type(text.get(name)) is int), default)

    return ModelInfo(
        family=str(config.get("model_type", "unknown")),
        architecture=str(architectures[0]) if isinstance(architectures, list) and architectures else "unknown",
        num_parameters=sum(prod(shape) for _, shape in tensors),
        size_bytes=sum(file.stat().st_size for file in files),
        num_layers=first("num_hidden_layers", "n_layer"),
        hidden_size=first("hidden_size", "n_embd"),
        num_heads=first("num_attention_heads", "n_head"),
        vocab_size=first("vocab_size"),
        context_length=first("max_position_embeddings", "n_positions", default=2048),
        linear_width=sum(sum(shape) for name, shape in tensors if len(shape) == 2 and not OUTER.search(name)),
    )
