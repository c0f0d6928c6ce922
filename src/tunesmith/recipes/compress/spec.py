"""Compression: a model in smaller number formats, each checked against the source."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from tunesmith.core.acting import Scope
from tunesmith.core.recipe import DataContract, Output, Recipe
from tunesmith.recipes.compress.result import on_completed
from tunesmith.recipes.hyperparameters import about
from tunesmith.recipes.language_models import GGUF, LANGUAGE_MODEL
from tunesmith.recipes.shapes import CAUSAL_LM_SHAPES

Format = Literal[
    "merged", "f32", "f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q5_k_s", "q5_1", "q5_0", "q4_k_m", "q4_k_s", "q4_1", "q4_0",
    "q3_k_l", "q3_k_m", "q3_k_s", "q2_k", "torchao_int8", "bnb_int8", "bnb_int4", "awq", "gptq",
]  # fmt: skip
WHOLE = ("merged", "torchao_int8", "bnb_int8", "bnb_int4", "awq", "gptq")
"""Formats that are folders of safetensors; the others are GGUF files."""
NEEDED = {
    "torchao_int8": ("torchao", "pip install 'tunesmith[torchao]'"),
    "bnb_int8": ("bitsandbytes", "pip install bitsandbytes"),
    "bnb_int4": ("bitsandbytes", "pip install bitsandbytes"),
    "awq": ("llmcompressor", "pip install llmcompressor (needs an NVIDIA GPU to be quick)"),
    "gptq": ("llmcompressor", "pip install llmcompressor (needs an NVIDIA GPU to be quick)"),
}
"""Format → the package that makes it, and how to get that."""
ABOUT: dict[str, tuple[float, str]] = {
    "merged": (16, "The model with its adapter in it, as safetensors, for everything that reads transformers' models."),
    "f32": (32, "GGUF in full precision: a source for other tools, not for use."),
    "f16": (16, "GGUF, not compressed, in half precision."),
    "bf16": (16, "GGUF, not compressed, in bfloat16."),
    "q8_0": (8.5, "Nearly without loss, for llama.cpp, Ollama and LM Studio."),
    "q6_k": (6.6, "Very close to the original, a quarter smaller than q8_0."),
    "q5_k_m": (5.7, "A little loss: where q4_k_m is not good enough."),
    "q5_k_s": (5.5, "Like q5_k_m, slightly smaller."),
    "q5_1": (6, "Older 5-bit format, for old readers."),
    "q5_0": (5.5, "Older 5-bit format, for old readers."),
    "q4_k_m": (4.9, "The usual choice where memory is short."),
    "q4_k_s": (4.6, "Like q4_k_m, slightly smaller."),
    "q4_1": (5, "Older 4-bit format, for old readers."),
    "q4_0": (4.5, "Older 4-bit format; quick on some phones."),
    "q3_k_l": (4.3, "For large models only; small ones lose much."),
    "q3_k_m": (3.9, "For large models only; small ones lose much."),
    "q3_k_s": (3.5, "For large models only; small ones lose much."),
    "q2_k": (3, "The smallest; only for very large models."),
    "torchao_int8": (8.5, "8-bit weights for transformers, on processors and GPUs."),
    "bnb_int8": (8.5, "8-bit weights for transformers, by bitsandbytes."),
    "bnb_int4": (4.6, "4-bit weights for transformers, by bitsandbytes."),
    "awq": (4.5, "4-bit weights for vLLM, chosen by real text."),
    "gptq": (4.5, "4-bit weights for vLLM, chosen by real text."),
}
"""Format → about how many bits a weight takes, and what it is for."""
UNWEIGHED = ("f32", "f16", "bf16", "q8_0")
"""GGUF formats that lose so little that calibration is not worth its time."""
QUESTION = "What is the capital of France?"


class CompressParams(BaseModel):
    """Settings of the `compress` recipe."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    formats: list[Format] = Field(["q8_0", "q4_k_m"], min_length=1, max_length=23, json_schema_extra=about("basic"))
    """What to make. `merged` is the model with its adapter in it, as safetensors; `f16` to `q2_k` are GGUF files for llama.cpp,
    Ollama and LM Studio; `torchao_int8`, `bnb_int8` and `bnb_int4` load in transformers, `awq` and `gptq` in vLLM."""
    merge: bool = Field(True, title="Merge the adapter", json_schema_extra=about("basic"))
    """Merge an adapter into its base model. Off: GGUF files hold the base model, and the adapter lies beside as a file of its own."""
    num_eval_tokens: int = Field(
        4096,
        ge=0,
        le=10_000_000,
        title="Tokens for the check",
        json_schema_extra=about("data", "tokens", usual=(2048, 65_536)),
    )
    """How much text the perplexity is measured on, before and after; 0 measures none. From the dataset, when there is one."""
    max_length: int = Field(
        512,
        ge=32,
        le=131_072,
        title="Maximum sequence length",
        json_schema_extra=about("data", "tokens", usual=(256, 2048)),
    )
    """Rows of the check and of the calibration are cut there."""
    question: str = Field(QUESTION, min_length=1, max_length=20_000, json_schema_extra=about("data"))
    """Asked of the source and of every format; the greedy answers are compared."""
    max_new_tokens: int = Field(
        24, ge=1, le=4096, title="Maximum answer length", json_schema_extra=about("data", "tokens", usual=(16, 256))
    )
    """An answer is cut there."""
    calibrate: bool = Field(True, title="Weigh by real text", json_schema_extra=about("basic"))
    """Look at what real text does in the model, and spare the weights that matter most: GGUF formats below 8 bits lose about half
    as much (an importance matrix). The rows are others than those of the check."""
    num_calibration_rows: int = Field(
        32,
        ge=1,
        le=100_000,
        title="Rows for calibration",
        json_schema_extra=about("data", "rows", usual=(32, 512)),
    )
    """Rows that `calibrate`, `awq` and `gptq` look at."""
    seed: int = Field(42, ge=0, le=2**32 - 1, json_schema_extra=about("data"))
    """Chooses the rows."""
    skip_bad_rows: bool = Field(False, title="Skip bad rows", json_schema_extra=about("data"))
    """Measure without the rows that cannot be used, and name them in the job; otherwise data with errors is refused."""

    @field_validator("formats")
    @classmethod
    def _can_be_made(cls, names: list[Format]) -> list[Format]:
        for name in names:
            if why := why_not(name):
                raise ValueError(why)
        return list(dict.fromkeys(names))


def why_not(name: str) -> str:
    """Why a format cannot be made here; empty where it can."""
    package, how = NEEDED.get(name, ("gguf", ""))
    return f"{name} needs {package}, which is not installed here: {how}" if find_spec(package) is None else ""


RECIPE = Recipe(
    name="compress",
    title="Compression",
    sentence="Makes a model smaller, in formats for llama.cpp, Ollama, vLLM and transformers, and measures what that costs.",
    params=CompressParams,
    train="tunesmith.recipes.compress.train:train",
    permission=Scope.TRAIN,
    kind="compression",
    tasks=("text-generation",),
    data=DataContract(shapes=CAUSAL_LM_SHAPES, is_needed=False),
    outputs=(Output(type="model", folder="compressed", kinds=(GGUF, LANGUAGE_MODEL)),),
    on_completed=on_completed,
)
