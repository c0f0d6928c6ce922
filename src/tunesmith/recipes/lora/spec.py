"""LoRA: a small adapter is trained, the base model stays as it is."""

from __future__ import annotations

from tunesmith.core.recipe import Recipe
from tunesmith.recipes.hyperparameters import LoraFields
from tunesmith.recipes.shapes import CAUSAL_LM_SHAPES


class LoraParams(LoraFields):
    """Settings of the `lora` recipe."""


RECIPE = Recipe(
    name="lora",
    title="LoRA",
    sentence="Trains a small adapter beside the frozen model. Fast, little memory, the usual choice.",
    params=LoraParams,
    train="tunesmith.recipes.lora.train:train",
    produces="lora_model",
    shapes=CAUSAL_LM_SHAPES,
)
