"""What a model folder holds, read from `config.json` and safetensors headers alone: no torch, nothing executed."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any, NamedTuple

from tunesmith.core.errors import BadData, NotFound, UnsupportedFormat

MAX_HEADER_BYTES = 100 * 1024 * 1024
"""Longest safetensors header that is read; the format's own limit."""
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
        except ValueError:
            raise BadData(f"{path.name} is not a safetensors file: its header is not JSON.") from None
    header.pop("__metadata__", None)
    for name, tensor in header.items():
        begin, end = tensor["data_offsets"]
        if not 0 <= begin <= end <= size_bytes - 8 - length:
            raise BadData(f"{path.name} is cut or forged: tensor {name[:80]} ends beyond the file.")
    return dict(header)


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
    refuse_unsafe_files(folder)
    text = config.get("text_config") or config
    files = sorted(folder.glob("*.safetensors"))
    count = 0
    for file in files:
        for tensor in read_header(file).values():
            number = 1
            for side in tensor["shape"]:
                number *= side
            count += number

    def first(*names: str, default: int = 0) -> int:
        return next((int(text[name]) for name in names if isinstance(text.get(name), int | float)), default)

    return ModelInfo(
        family=str(config.get("model_type", "unknown")),
        architecture=str((config.get("architectures") or ["unknown"])[0]),
        num_parameters=count,
        size_bytes=sum(file.stat().st_size for file in files),
        num_layers=first("num_hidden_layers", "n_layer"),
        hidden_size=first("hidden_size", "n_embd"),
        num_heads=first("num_attention_heads", "n_head"),
        vocab_size=first("vocab_size"),
        context_length=first("max_position_embeddings", "n_positions", default=2048),
    )
