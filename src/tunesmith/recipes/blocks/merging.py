"""An adapter merged into its base model, written as safetensors a few rows at a time: memory for those rows, not for the model."""

from __future__ import annotations

import json
import math
import os
import shutil
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tunesmith.core.errors import BadData
from tunesmith.core.job_dir import durable_folder, fsync_dir, fsync_tree
from tunesmith.recipes.blocks.adapter_weights import merge, open_adapter
from tunesmith.recipes.blocks.gguf_weights import Tensor, open_weights
from tunesmith.recipes.model_info import read_header, read_json, weight_files

Report = Callable[[int, int], None]
"""Called with the weights written and those to write in all."""

CHUNK_WEIGHTS = 8 * 1024 * 1024
MAX_FILE_BYTES = 4 * 1024**3
"""Longest file with weights; more of them get an index."""
MODEL_TEXTS = ("config.json", "generation_config.json")
TOKENIZER = ("tokenizer*.json", "special_tokens_map.json", "chat_template.jinja", "*.model", "vocab.json", "merges.txt", "added_tokens.json")  # fmt: skip


class _Plan(NamedTuple):
    """One tensor to write."""

    name: str
    dtype: str
    tensor: Tensor

    @property
    def size_bytes(self) -> int:
        return math.prod(self.tensor.shape) * (4 if self.dtype == "F32" else 2)


def write_merged(model: Path, adapter: Path, target: Path, report: Report | None = None) -> None:
    """Write base model plus adapter to the folder `target`, in the number format of the base model.

    The sum is made in float32. The folder appears whole or not at all. Raises as `open_weights`,
    `open_adapter` and `merge`.
    """
    dtypes = {name: told["dtype"] for file in weight_files(model) for name, told in read_header(file).items()}
    weights, config = merge(open_weights(model), open_adapter(adapter), read_json(model / "config.json"))
    plans = [_Plan(name, _format_of(name, dtypes), tensor) for name, tensor in weights.items()]
    durable_folder(target.parent)
    temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    try:
        _write_files(plans, temporary, report or (lambda _done, _total: None))
        (temporary / "config.json").write_text(json.dumps(config, indent=2))
        _copy(model, temporary, MODEL_TEXTS[1:])
        _copy(adapter, temporary, MODEL_TEXTS[1:])  # with the end marks that it has learned
        _copy(adapter if (adapter / "tokenizer.json").is_file() else model, temporary, TOKENIZER)
        fsync_tree(temporary)
        temporary.chmod(0o755)
        if target.exists():
            shutil.rmtree(target)
        os.rename(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)  # in its place by now, when all went well
    fsync_dir(target.parent)


def _format_of(name: str, dtypes: dict[str, str]) -> str:
    """Of a weight of the base its own; an output that has become one of its own gets that of the others."""
    found = dtypes.get(name) or next(iter(dtypes.values()))
    return found if found in ("F32", "F16", "BF16") else "F32"


def _write_files(plans: list[_Plan], folder: Path, report: Report) -> None:
    parts: list[list[_Plan]] = [[]]
    for plan in plans:
        if parts[-1] and sum(p.size_bytes for p in parts[-1]) + plan.size_bytes > MAX_FILE_BYTES:
            parts.append([])
        parts[-1].append(plan)
    done, total = 0, sum(math.prod(plan.tensor.shape) for plan in plans)
    index = {}
    for number, part in enumerate(parts, start=1):
        name = "model.safetensors" if len(parts) == 1 else f"model-{number:05d}-of-{len(parts):05d}.safetensors"
        index.update({plan.name: name for plan in part})
        with (folder / name).open("wb") as file:
            file.write(_header(part))
            for plan in part:
                for rows in _parts(plan):
                    file.write(rows)
                done += math.prod(plan.tensor.shape)
                report(done, total)
    if len(parts) > 1:
        told = {"metadata": {"total_size": sum(plan.size_bytes for plan in plans)}, "weight_map": index}
        (folder / "model.safetensors.index.json").write_text(json.dumps(told, indent=2))


def _header(plans: list[_Plan]) -> bytes:
    told: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for plan in plans:
        told[plan.name] = {
            "dtype": plan.dtype,
            "shape": list(plan.tensor.shape),
            "data_offsets": [at, at + plan.size_bytes],
        }
        at += plan.size_bytes
    text = json.dumps(told, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _parts(plan: _Plan) -> Any:
    step = max(1, CHUNK_WEIGHTS // max(1, plan.tensor.shape[-1]))
    for start in range(0, plan.tensor.num_rows, step):
        rows = plan.tensor.read(start, min(start + step, plan.tensor.num_rows))
        if not np.isfinite(rows).all():
            raise BadData(
                f"{plan.name} holds values that are not finite.", hint="Train again with a lower learning rate."
            )
        yield _as(rows, plan.dtype)


def _as(rows: np.ndarray, dtype: str) -> bytes:
    if dtype == "F32":
        return rows.astype("<f4").tobytes()
    if dtype == "F16":
        return np.clip(rows, -65504, 65504).astype("<f2").tobytes()
    bits = np.ascontiguousarray(rows, dtype=np.float32).view(np.uint32)
    rounded = bits + 0x7FFF + ((bits >> 16) & 1)  # to the nearest, halves to the even one
    return (rounded >> 16).astype("<u2").tobytes()


def _copy(source: Path, target: Path, patterns: tuple[str, ...]) -> None:
    for pattern in patterns:
        for path in source.glob(pattern):
            if path.is_file():
                shutil.copyfile(path, target / path.name)
