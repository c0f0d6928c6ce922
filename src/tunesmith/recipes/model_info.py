"""What a model folder holds, read from `config.json` and safetensors headers alone: no torch, nothing executed."""

from __future__ import annotations

import json
import re
import struct
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from tunesmith.core.errors import BadData, NotFound, UnsupportedFormat

MAX_HEADER_BYTES = 32 * 1024 * 1024
"""Longest safetensors header that is read; those of the largest models have a few."""
MAX_CONFIG_BYTES = 16 * 1024 * 1024
"""Longest `config.json` or index of weights that is read."""
MAX_DIMENSIONS = 32
MAX_NUMBER = 2**53
"""Numbers in a configuration that are larger are taken for absent."""
OUTER = re.compile(r"embed|lm_head|wte|wpe")
"""Two-dimensional weights that get no adapter."""
PICKLE_SUFFIXES = (
    ".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".npy", ".npz", ".h5", ".hdf5", ".keras", ".msgpack",
)  # fmt: skip
CODE_SUFFIXES = (".py", ".pyc", ".pyo", ".pyd", ".so", ".dll", ".dylib", ".sh", ".bat", ".ps1", ".exe")
"""Code beside a model; none of it is ever run here."""
INDEX = "model.safetensors.index.json"
"""The file that names the files with the weights, where there are many."""
BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
    "I64": 64, "U64": 64, "F64": 64, "C64": 64,
}  # fmt: skip
"""Of one weight, by its type in a safetensors header."""
AGAIN = "Download the model again; the file may be cut off or forged."


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


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files, by name. What only has such a name, a folder or a pipe, is none."""
    return sorted(path for path in folder.glob("*.safetensors") if path.is_file())


def read_header(path: Path) -> dict[str, Any]:
    """The tensors of a safetensors file: name → {dtype, shape, data_offsets}. Raises `BadData` when the header lies."""
    size_bytes = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= min(MAX_HEADER_BYTES, size_bytes - 8):
            raise _bad(path, f"is not a safetensors file: its header is {length} bytes of {size_bytes}")
        try:
            header = json.loads(file.read(length))
        except (ValueError, RecursionError):
            raise _bad(path, "is not a safetensors file: its header is not JSON") from None
    if not isinstance(header, dict):
        raise _bad(path, "is not a safetensors file: its header is not an object")
    header.pop("__metadata__", None)
    for name, tensor in header.items():
        if not _is_tensor(tensor):
            raise _bad(path, f"is not a safetensors file: {name[:80]} does not describe a tensor")
        begin, end = tensor["data_offsets"]
        if not 0 <= begin <= end <= size_bytes - 8 - length:
            raise _bad(path, f"is cut or forged: tensor {name[:80]} ends beyond the file")
        if not _fits(tensor, end - begin):
            raise _bad(path, f"is forged: tensor {name[:80]} has another shape than its {end - begin} bytes")
    return header


def _bad(path: Path, what: str) -> BadData:
    return BadData(f"{path.name} {what}.", hint=AGAIN)


def _is_tensor(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    offsets, shape = value.get("data_offsets"), value.get("shape")
    if not (isinstance(offsets, list) and len(offsets) == 2 and isinstance(shape, list)):
        return False
    if len(shape) > MAX_DIMENSIONS:
        return False
    return all(type(number) is int for number in offsets) and all(type(n) is int and 0 <= n < 2**63 for n in shape)


def _fits(tensor: dict[str, Any], size_bytes: int) -> bool:
    """Whether so many bytes hold so many weights; types that are not known yet have a bit a weight at least."""
    num_weights, bits = prod(tensor["shape"]), BITS.get(str(tensor.get("dtype")))
    return num_weights <= 8 * size_bytes if bits is None else num_weights * bits == 8 * size_bytes


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of a model folder. Raises `NotFound` when there is no such file, `BadData` for anything else in it."""
    place = f"{path.parent.name}/{path.name}"
    if not path.is_file():
        raise NotFound(f"{path.parent.name} has no {path.name}, so it is not a model.", hint=AGAIN)
    if path.stat().st_size > MAX_CONFIG_BYTES:
        raise BadData(f"{place} is longer than {MAX_CONFIG_BYTES >> 20} MB.", hint=AGAIN)
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        raise BadData(f"{place} is not JSON.", hint=AGAIN) from None
    if not isinstance(found, dict):
        raise BadData(f"{place} is not an object.", hint=AGAIN)
    return found


def refuse_unsafe_files(folder: Path) -> None:
    """Raise `UnsupportedFormat` when a library that loads the folder would read pickle, which can run code, or files that
    lie elsewhere; `NotFound` or `BadData` when there are no weights to load."""
    if not weight_files(folder):
        pickles = sorted(p.name for p in folder.iterdir() if p.suffix.lower() in PICKLE_SUFFIXES)
        if pickles:
            raise _unsafe(f"The model has its weights as {pickles[0]}, a format that can run code when it is read.")
        raise NotFound(
            "The model folder has no .safetensors file.", hint="Download the model again; it may be incomplete."
        )
    if (folder / INDEX).exists():
        _check_index(folder, folder / INDEX)
    if (folder / "config.json").is_file():
        _check_config(folder)
    if (folder / "adapter_config.json").exists() and not (folder / "adapter_model.safetensors").is_file():
        raise _unsafe("The adapter's weights are not in adapter_model.safetensors.")


def _check_index(folder: Path, index: Path) -> None:
    """Every file that an index of weights names is a safetensors file in the folder itself."""
    named = read_json(index).get("weight_map")
    if not isinstance(named, dict) or not all(isinstance(name, str) for name in named.values()):
        raise _bad(index, "does not name the files with the weights")
    there = {path.name for path in weight_files(folder)}
    for name in sorted(set(named.values())):
        if not name.endswith(".safetensors") or Path(name).name != name:
            raise _unsafe(f"{index.name} names {name[:120]!r}, which is not a .safetensors file beside it.")
        if name not in there:
            raise _bad(index, f"names {name[:120]!r}, which is not there")


def _check_config(folder: Path) -> None:
    """The configuration does not turn to another file for the weights."""
    weights = read_json(folder / "config.json").get("transformers_weights")
    if weights is None:
        return
    if not isinstance(weights, str) or Path(weights).name != weights or ".safetensors" not in weights:
        raise _unsafe(f"config.json names {str(weights)[:120]!r} as the weights.")
    if weights.endswith(".index.json") and (folder / weights).exists():
        _check_index(folder, folder / weights)


def _unsafe(message: str) -> UnsupportedFormat:
    return UnsupportedFormat(
        message,
        hint="Use a version with .safetensors files, or convert it to safetensors once on a machine that you can spare: load it "
        "there with transformers or PEFT, and save_pretrained writes safetensors.",
    )


def read_model_info(folder: Path) -> ModelInfo:
    """Raises `NotFound`, `UnsupportedFormat` or `BadData`, each naming the file."""
    config = read_json(folder / "config.json")
    refuse_unsafe_files(folder)
    text = config["text_config"] if isinstance(config.get("text_config"), dict) else config
    files = weight_files(folder)
    tensors = [(name, tensor["shape"]) for file in files for name, tensor in read_header(file).items()]
    architectures = config.get("architectures")

    def first(*names: str, default: int = 0) -> int:
        found = (text.get(name) for name in names)
        return next((n for n in found if type(n) is int and 0 <= n < MAX_NUMBER), default)

    return ModelInfo(
        family=str(config.get("model_type", "unknown"))[:100],
        architecture=str(architectures[0])[:100] if isinstance(architectures, list) and architectures else "unknown",
        num_parameters=sum(prod(shape) for _, shape in tensors),
        size_bytes=sum(file.stat().st_size for file in files),
        num_layers=first("num_hidden_layers", "n_layer"),
        hidden_size=first("hidden_size", "n_embd"),
        num_heads=first("num_attention_heads", "n_head"),
        vocab_size=first("vocab_size"),
        context_length=first("max_position_embeddings", "n_positions", default=2048),
        linear_width=sum(sum(shape) for name, shape in tensors if len(shape) == 2 and not OUTER.search(name)),
    )
