"""Making one format: GGUF files and merged weights a few rows at a time, the others through the library that reads them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from tunesmith.core.errors import FailureCode, JobFailure
from tunesmith.core.job_spec import ModelRef
from tunesmith.recipes.blocks.loading import keep_four_bits
from tunesmith.recipes.blocks.memory import free_bytes
from tunesmith.recipes.blocks.merging import MODEL_TEXTS, TOKENIZER, write_merged
from tunesmith.recipes.blocks.to_gguf import write_gguf, write_lora_gguf
from tunesmith.recipes.compress.spec import UNWEIGHED
from tunesmith.recipes.model_info import read_header, read_model_info, refuse_unsafe_files, weight_files

Progress = Callable[[int, int], None]
Importance = Mapping[str, np.ndarray] | None
"""By the name of a weight, how much an error in each of its columns counts."""
ADAPTER_FILE = "adapter.gguf"
SHARE_OF_WEIGHTS = 0.8
"""Of the memory that a measured model takes."""


class Source(NamedTuple):
    """The model that is compressed."""

    base: Path
    adapter: Path | None
    name: str


def source_of(model: ModelRef, *, offline: bool) -> Source:
    """Where the weights lie. Raises `JobFailure` for a model that is compressed already or not here."""
    path = Path(model.path)
    if path.is_file():
        raise JobFailure(
            FailureCode.UNSUPPORTED, f"{model.name} is a GGUF file, which is compressed already.",
            hint="Compress the version that it was made from.",
        )  # fmt: skip
    if not path.is_dir():
        from huggingface_hub import snapshot_download

        patterns = ["*.safetensors", *MODEL_TEXTS, *TOKENIZER, "*.safetensors.index.json"]
        path = Path(
            snapshot_download(model.path, revision=model.revision, allow_patterns=patterns, local_files_only=offline)
        )
    refuse_unsafe_files(path)
    return Source(path, Path(model.adapter_path) if model.adapter_path else None, model.name)


def size_of(source: Source) -> int:
    """Bytes of all weights, adapter included."""
    files = [*weight_files(source.base), *(weight_files(source.adapter) if source.adapter else [])]
    return sum(path.stat().st_size for path in files)


def is_float32(source: Source) -> bool:
    """Whether all of the model's weights are float32, so that nothing is rounded where they are written."""
    return all(told["dtype"] == "F32" for file in weight_files(source.base) for told in read_header(file).values())


def make_gguf(
    source: Source, kind: str, folder: Path, file_name: str, *, merge: bool, progress: Progress, importance: Importance
) -> str:
    """Write a GGUF file to `folder`, and the adapter beside it where it is not merged. Returns the file's name."""
    name = f"{file_name}-{kind}.gguf"
    adapter = source.adapter if merge else None
    weighed = None if kind in UNWEIGHED else importance
    write_gguf(source.base, folder / name, kind, adapter=adapter, report=progress, name=file_name, importance=weighed)
    if source.adapter and not merge:
        write_lora_gguf(source.adapter, source.base, folder / ADAPTER_FILE)
    return name


def make_merged(source: Source, folder: Path, progress: Progress) -> None:
    """The model as plain safetensors in `folder`, with the adapter in it."""
    if source.adapter:
        part = folder / "part"
        write_merged(source.base, source.adapter, part, progress)
        for path in part.iterdir():
            path.rename(folder / path.name)
        part.rmdir()
        return
    patterns = ("*.safetensors", "*.safetensors.index.json", *MODEL_TEXTS, *TOKENIZER)
    for path in sorted({path for pattern in patterns for path in source.base.glob(pattern)}):
        shutil.copyfile(path, folder / path.name)


def make_quantised(
    kind: str, model: Path, folder: Path, device: torch.device, tokenizer: Any, rows: list[list[int]]
) -> None:
    """Quantise the whole model in `model` and save it to `folder` as safetensors. `rows`: text for awq and gptq."""
    from transformers import AutoModelForCausalLM

    if kind in ("awq", "gptq"):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            model, dtype="auto", trust_remote_code=False, use_safetensors=True
        )
        _calibrate(kind, loaded.to(device), rows)
        loaded.save_pretrained(folder, save_compressed=True)
    else:
        loaded = AutoModelForCausalLM.from_pretrained(
            model, dtype=torch.bfloat16, device_map={"": device}, quantization_config=_config_of(kind),
            trust_remote_code=False, use_safetensors=True,
        )  # fmt: skip
        loaded.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    refuse_unsafe_files(folder)


class Place(NamedTuple):
    """Where a model is computed, and in which format."""

    device: torch.device
    dtype: torch.dtype


def place_for(folder: Path, device: torch.device, dtype: torch.dtype) -> Place:
    """Where the plain weights in `folder` are measured: in fp32, which is the same on every processor, on `device` or else on the
    CPU; only where neither has the memory, in `dtype` on `device`."""
    wanted_bytes = read_model_info(folder).num_parameters * 4 / SHARE_OF_WEIGHTS
    for place in dict.fromkeys((device, torch.device("cpu"))):
        if wanted_bytes <= free_bytes(place):
            return Place(place, torch.float32)
    return Place(device, dtype)


def load_saved(folder: Path, device: torch.device, dtype: torch.dtype | None) -> Any:
    """As users will; in the format that it is saved for where `dtype` is None."""
    from transformers import AutoModelForCausalLM

    loaded: Any = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=dtype or "auto",
        device_map={"": device},
        trust_remote_code=False,
        use_safetensors=True,
        local_files_only=True,
    )
    keep_four_bits(loaded)
    return loaded.eval()


def _config_of(kind: str) -> Any:
    from transformers import BitsAndBytesConfig, TorchAoConfig

    if kind == "torchao_int8":
        from torchao.quantization import Int8DynamicActivationInt8WeightConfig

        return TorchAoConfig(Int8DynamicActivationInt8WeightConfig())
    if kind == "bnb_int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )


def _calibrate(kind: str, model: Any, rows: list[list[int]]) -> None:
    """4-bit weights in groups of 128, chosen by what they do to `rows` (llm-compressor), in place."""
    from llmcompressor import oneshot
    from llmcompressor.modifiers.awq import AWQModifier
    from llmcompressor.modifiers.quantization import GPTQModifier

    from datasets import Dataset

    kinds: dict[str, Any] = {"awq": AWQModifier, "gptq": GPTQModifier}
    data = Dataset.from_list([{"input_ids": row, "attention_mask": [1] * len(row)} for row in rows])
    oneshot(
        model=model, dataset=data, recipe=[kinds[kind](targets=["Linear"], scheme="W4A16", ignore=["lm_head"])],
        max_seq_length=max(map(len, rows)), num_calibration_samples=len(rows),
    )  # fmt: skip
