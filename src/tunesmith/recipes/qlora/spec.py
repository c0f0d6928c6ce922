"""QLoRA (arXiv:2305.14314): LoRA on a base model held in 4 bits (NF4, double quantisation)."""

from __future__ import annotations

from tunesmith.core.recipe import Recipe
from tunesmith.recipes.hyperparameters import LoraFields
from tunesmith.recipes.shapes import CAUSAL_LM_SHAPES


class QloraParams(LoraFields):
    """Settings of the `qlora` recipe."""


RECIPE = Recipe(
    name="qlora",
    title="QLoRA",
    sentence="LoRA on a base model squeezed to 4 bits. Least memory; slower than LoRA where that fits.",
    params=QloraParams,
    train="tunesmith.recipes.qlora.train:train",
    produces="qlora_model",
    shapes=CAUSAL_LM_SHAPES,
)
