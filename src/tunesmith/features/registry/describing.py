"""What a model's files say about it: architecture, weights, framework. No training library, nothing executed."""

from __future__ import annotations

import struct
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from tunesmith.core.errors import InvalidInput, TunesmithError
from tunesmith.recipes.adapter_info import read_adapter_info
from tunesmith.recipes.gguf import check_gguf
from tunesmith.recipes.model_info import (
    read_header,
    read_json,
    read_model_info,
    refuse_unsafe_files,
    weight_files,
)

FRAMEWORKS = {"adapter": "peft", "model": "transformers", "gguf": "llama.cpp"}
GGUF_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
GGUF_STRING, GGUF_ARRAY = 8, 9
GGUF_NAMES = {
    "num_layers": "block_count",
    "hidden_size": "embedding_length",
    "num_heads": "attention.head_count",
    "num_kv_heads": "attention.head_count_kv",
    "context_length": "context_length",
}


class Description(NamedTuple):
    """A model in numbers."""

    architecture: dict[str, Any]
    num_parameters: int | None
    """Of the files themselves: of an adapter, its own weights."""


def kind_of(path: Path) -> str:
    """`adapter`, `model` or `gguf`. Raises `InvalidInput` for a path that holds none of these."""
    if path.suffix == ".gguf" and path.is_file():
        return "gguf"
    if (path / "adapter_config.json").is_file():
        return "adapter"
    if (path / "config.json").is_file():
        return "model"
    if path.is_dir() and len(list(path.glob("*.gguf"))) == 1:
        return "gguf"
    raise InvalidInput(
        f"{path.name} holds no model.",
        hint="A model is a folder with config.json and .safetensors files, an adapter with adapter_config.json, or a GGUF file.",
    )


def describe(kind: str, path: Path, base_path: Path | None) -> Description:
    """Raises `UnsupportedFormat`, `BadData` or `NotFound` for files that cannot be used, naming them."""
    if kind == "gguf":
        file = path if path.is_file() else next(iter(sorted(path.glob("*.gguf"))), path)
        check_gguf(file)
        return _gguf(file)
    refuse_unsafe_files(path)
    if kind == "model":
        info = read_model_info(path)
        return Description(_architecture(path), info.num_parameters)
    read_adapter_info(path)
    tensors = [tensor["shape"] for file in weight_files(path) for tensor in read_header(file).values()]
    return Description(_architecture(base_path), sum(prod(shape) for shape in tensors))


def base_of_adapter(path: Path) -> str | None:
    """What an adapter's own configuration calls its base model."""
    try:
        name = read_json(path / "adapter_config.json").get("base_model_name_or_path")
    except TunesmithError:
        return None
    return name if isinstance(name, str) and name else None


def _architecture(folder: Path | None) -> dict[str, Any]:
    """Of a folder with a configuration; empty where there is none to read."""
    if folder is None:
        return {}
    try:
        info = read_model_info(folder)
        config = read_json(folder / "config.json")
    except TunesmithError:
        return {}
    text = config["text_config"] if isinstance(config.get("text_config"), dict) else config
    num_kv_heads = text.get("num_key_value_heads")
    return {
        "family": info.family,
        "num_layers": info.num_layers,
        "hidden_size": info.hidden_size,
        "num_heads": info.num_heads,
        "num_kv_heads": num_kv_heads if type(num_kv_heads) is int else info.num_heads,
        "vocab_size": info.vocab_size,
        "context_length": info.context_length,
    }


def _gguf(path: Path) -> Description:
    """From the header of a file that `check_gguf` has found whole."""
    with path.open("rb") as file:
        file.seek(8)
        num_tensors, num_keys = _read(file, "<Q"), _read(file, "<Q")
        found = dict(_pair(file) for _ in range(num_keys))
        num_parameters = sum(_tensor(file) for _ in range(num_tensors))
    family = str(found.get("general.architecture", "unknown"))
    numbers = {name: found.get(f"{family}.{key}") for name, key in GGUF_NAMES.items()}
    vocab_size = found.get(f"{family}.vocab_size") or found.get("tokenizer.ggml.tokens")
    about = {"family": family, **numbers, "vocab_size": vocab_size}
    return Description({name: value for name, value in about.items() if isinstance(value, int | str)}, num_parameters)


def _pair(file: BinaryIO) -> tuple[str, Any]:
    return _text(file), _value(file, _read(file, "<I"))


def _value(file: BinaryIO, kind: int) -> Any:
    """A scalar or text; of an array its length."""
    if kind == GGUF_STRING:
        return _text(file)
    if kind != GGUF_ARRAY:
        return _read(file, GGUF_SCALARS[kind])
    inner, length = _read(file, "<I"), _read(file, "<Q")
    if inner in GGUF_SCALARS:
        file.seek(struct.calcsize(GGUF_SCALARS[inner]) * length, 1)
    else:
        for _ in range(length):
            _value(file, inner)
    return length


def _tensor(file: BinaryIO) -> int:
    _text(file)
    shape = [_read(file, "<Q") for _ in range(_read(file, "<I"))]
    _read(file, "<I")
    _read(file, "<Q")
    return prod(shape)


def _text(file: BinaryIO) -> str:
    return file.read(_read(file, "<Q")).decode(errors="replace")


def _read(file: BinaryIO, form: str) -> Any:
    return struct.unpack(form, file.read(struct.calcsize(form)))[0]
