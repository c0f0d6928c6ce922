"""Full fine-tuning: every weight is trained."""

from __future__ import annotations

from pydantic import Field

from tunesmith.core.acting import Scope
from tunesmith.core.recipe import DataContract, Output, Recipe
from tunesmith.recipes.hyperparameters import SftParams, about
from tunesmith.recipes.language_models import LANGUAGE_METRICS, LANGUAGE_MODEL
from tunesmith.recipes.sft_plan import choose
from tunesmith.recipes.shapes import CAUSAL_LM_SHAPES


class StandardParams(SftParams):
    """Settings of the `standard` recipe."""

    learning_rate: float = Field(2e-5, gt=0, le=1.0, json_schema_extra=about("basic", usual=(1e-6, 5e-5)))
    """Peak learning rate: how big each step is. All weights move, so it is lower than LoRA's."""


RECIPE = Recipe(
    name="standard",
    title="Standard (all weights)",
    sentence="Trains every weight. The most it can learn, and the most memory: about 16 bytes a weight.",
    params=StandardParams,
    train="tunesmith.recipes.standard.train:train",
    permission=Scope.TRAIN,
    tasks=("text-generation",),
    data=DataContract(shapes=CAUSAL_LM_SHAPES),
    metrics=LANGUAGE_METRICS,
    outputs=(Output(type="model", folder="standard_model", kinds=(LANGUAGE_MODEL,)),),
    plan=choose,
)
