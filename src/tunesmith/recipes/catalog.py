"""The explicit list of recipes. Importing it must not import torch."""

from __future__ import annotations

from tunesmith.core.errors import InvalidInput
from tunesmith.core.recipe import Recipe
from tunesmith.recipes.compress.spec import RECIPE as COMPRESS
from tunesmith.recipes.custom.spec import RECIPE as CUSTOM
from tunesmith.recipes.evaluate.spec import RECIPE as EVALUATE
from tunesmith.recipes.lora.spec import RECIPE as LORA
from tunesmith.recipes.qlora.spec import RECIPE as QLORA
from tunesmith.recipes.standard.spec import RECIPE as STANDARD
from tunesmith.recipes.unsloth.spec import RECIPE as UNSLOTH

RECIPES: tuple[Recipe, ...] = (LORA, QLORA, STANDARD, UNSLOTH, CUSTOM, EVALUATE, COMPRESS)
TRAINING = tuple(recipe for recipe in RECIPES if recipe.kind == "training")
"""Those that make a model out of data."""


def get_recipe(name: str) -> Recipe:
    """The recipe of that name. Raises `InvalidInput` naming those that exist."""
    for recipe in RECIPES:
        if recipe.name == name:
            return recipe
    raise InvalidInput(
        f"There is no method {name!r}.",
        hint=f"Choose one of: {', '.join(r.name for r in RECIPES)}.",
        details=[{"loc": "method", "message": f"unknown method {name!r}"}],
    )
