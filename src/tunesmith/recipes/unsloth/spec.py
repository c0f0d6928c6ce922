"""LoRA with Unsloth's kernels, on an NVIDIA GPU."""

from __future__ import annotations

import shutil
from importlib.util import find_spec

from pydantic import Field, model_validator

from tunesmith.core.acting import Scope
from tunesmith.core.recipe import DataContract, Output, Recipe
from tunesmith.recipes.hyperparameters import LoraFields, about
from tunesmith.recipes.language_models import ADAPTER, LANGUAGE_METRICS
from tunesmith.recipes.sft_plan import choose
from tunesmith.recipes.shapes import CAUSAL_LM_SHAPES


class UnslothParams(LoraFields):
    """Settings of the `unsloth` recipe."""

    load_in_4bit: bool = Field(False, title="4-bit base", json_schema_extra=about("precision"))
    """Hold the base model in 4 bits, as QLoRA does."""

    @model_validator(mode="after")
    def _base_is_whole(self) -> UnslothParams:
        if self.sharding != "none":
            raise ValueError("Unsloth's kernels need whole weights; use sharding: none, or method lora.")
        return self


def why_not() -> str | None:
    """Why Unsloth cannot run here, with what can."""
    if not shutil.which("nvidia-smi"):
        return "Unsloth needs an NVIDIA GPU and this machine has none; choose lora (or qlora when memory is short) instead."
    if find_spec("unsloth") is None:
        return "Unsloth is not installed: run pip install unsloth, or choose lora instead."
    return None


RECIPE = Recipe(
    name="unsloth",
    title="Unsloth",
    sentence="LoRA with Unsloth's kernels. NVIDIA GPUs only.",
    params=UnslothParams,
    train="tunesmith.recipes.unsloth.train:train",
    permission=Scope.TRAIN,
    tasks=("text-generation",),
    data=DataContract(shapes=CAUSAL_LM_SHAPES),
    metrics=LANGUAGE_METRICS,
    outputs=(Output(type="model", folder="lora_model", kinds=(ADAPTER,)),),
    plan=choose,
    unavailable_reason=why_not,
)
