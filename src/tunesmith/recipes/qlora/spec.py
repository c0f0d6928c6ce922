"""QLoRA (arXiv:2305.14314): LoRA on a base model held in 4 bits (NF4, double quantisation)."""

from __future__ import annotations

from importlib.util import find_spec

from pydantic import model_validator

from tunesmith.core.acting import Scope
from tunesmith.core.recipe import DataContract, Output, Recipe
from tunesmith.recipes.hyperparameters import LoraFields
from tunesmith.recipes.language_models import ADAPTER, LANGUAGE_METRICS
from tunesmith.recipes.sft_plan import choose
from tunesmith.recipes.shapes import CAUSAL_LM_SHAPES


class QloraParams(LoraFields):
    """Settings of the `qlora` recipe."""

    @model_validator(mode="after")
    def _base_is_whole(self) -> QloraParams:
        if self.sharding != "none":
            raise ValueError(
                "4-bit weights cannot be shared out; use sharding: none, each device holds the 4-bit weights."
            )
        return self


def why_not() -> str | None:
    """Why 4-bit weights cannot be had here, with what can."""
    if find_spec("bitsandbytes") is None:
        return "QLoRA needs bitsandbytes, which is not installed here; choose lora instead."
    return None


RECIPE = Recipe(
    name="qlora",
    title="QLoRA",
    sentence="LoRA on a base model squeezed to 4 bits. Least memory; slower than LoRA where that fits.",
    params=QloraParams,
    train="tunesmith.recipes.qlora.train:train",
    permission=Scope.TRAIN,
    tasks=("text-generation",),
    data=DataContract(shapes=CAUSAL_LM_SHAPES),
    metrics=LANGUAGE_METRICS,
    outputs=(Output(type="model", folder="qlora_model", kinds=(ADAPTER,)),),
    plan=choose,
    unavailable_reason=why_not,
)
