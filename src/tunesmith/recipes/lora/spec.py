"""LoRA: a small adapter is trained, the base model stays as it is."""

from __future__ import annotations

from pydantic import Field, model_validator

from tunesmith.core.acting import Scope
from tunesmith.core.recipe import DataContract, Output, Recipe
from tunesmith.recipes.hyperparameters import LoraFields, about
from tunesmith.recipes.language_models import ADAPTER, LANGUAGE_METRICS
from tunesmith.recipes.sft_plan import choose
from tunesmith.recipes.shapes import CAUSAL_LM_SHAPES


class LoraParams(LoraFields):
    """Settings of the `lora` recipe."""

    fp8: bool = Field(False, title="Frozen layers in fp8", json_schema_extra=about("precision"))
    """Compute the frozen layers in fp8: NVIDIA GPUs from Ada and Hopper on. Faster from about 7B weights on, at a small loss of accuracy."""

    @model_validator(mode="after")
    def _fp8_is_whole(self) -> LoraParams:
        if self.fp8 and self.sharding != "none":
            raise ValueError("fp8 weights cannot be shared out; use sharding: none, or fp8: false.")
        return self


RECIPE = Recipe(
    name="lora",
    title="LoRA",
    sentence="Trains a small adapter beside the frozen model. Fast, little memory, the usual choice.",
    params=LoraParams,
    train="tunesmith.recipes.lora.train:train",
    permission=Scope.TRAIN,
    tasks=("text-generation",),
    data=DataContract(shapes=CAUSAL_LM_SHAPES),
    metrics=LANGUAGE_METRICS,
    outputs=(Output(type="model", folder="lora_model", kinds=(ADAPTER,)),),
    plan=choose,
)
