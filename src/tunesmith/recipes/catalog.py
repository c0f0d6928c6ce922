"""All recipes and the kinds of models that they make: those of this package, and those that other packages bring by the entry
point `tunesmith.recipes`. Importing it must not import torch."""

from __future__ import annotations

import logging
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import NamedTuple

from tunesmith.core.errors import InvalidInput
from tunesmith.core.job_spec import ModelRef
from tunesmith.core.metrics import MetricSpec
from tunesmith.core.model_kind import ModelKind
from tunesmith.core.recipe import Recipe
from tunesmith.recipes.classifiers import TEXT_CLASSIFIER
from tunesmith.recipes.compress.spec import RECIPE as COMPRESS
from tunesmith.recipes.custom.spec import RECIPE as CUSTOM
from tunesmith.recipes.dpo.spec import RECIPE as DPO
from tunesmith.recipes.encoders import TEXT_ENCODER
from tunesmith.recipes.evaluate.spec import RECIPE as EVALUATE
from tunesmith.recipes.lora.spec import RECIPE as LORA
from tunesmith.recipes.qlora.spec import RECIPE as QLORA
from tunesmith.recipes.standard.spec import RECIPE as STANDARD
from tunesmith.recipes.tabular.spec import RECIPE as TABULAR
from tunesmith.recipes.text_classification.spec import RECIPE as TEXT_CLASSIFICATION
from tunesmith.recipes.unsloth.spec import RECIPE as UNSLOTH

log = logging.getLogger(__name__)
GROUP = "tunesmith.recipes"
OURS: tuple[Recipe, ...] = (
    LORA, QLORA, STANDARD, UNSLOTH, DPO, TEXT_CLASSIFICATION, TABULAR, CUSTOM, EVALUATE, COMPRESS,
)  # fmt: skip


class Plugin(NamedTuple):
    """A recipe of another package."""

    name: str
    """As its entry point calls it."""
    package: str
    """Which package brought it, with its version."""
    recipe: Recipe | None
    problem: str = ""
    """Why it cannot be used, in words; empty when it can."""


def find_plugins(taken: tuple[Recipe, ...] = OURS) -> tuple[Plugin, ...]:
    """What other packages bring. One that is broken is named, and harms nobody else."""
    found: list[Plugin] = []
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        plugin = _plugin(entry, {recipe.name for recipe in taken} | {p.recipe.name for p in found if p.recipe})
        if plugin.problem:
            log.warning("the recipe %s of %s cannot be used: %s", plugin.name, plugin.package, plugin.problem)
        found.append(plugin)
    return tuple(found)


def _plugin(entry: EntryPoint, taken: set[str]) -> Plugin:
    package = f"{entry.dist.name} {entry.dist.version}" if entry.dist else "an unknown package"
    try:
        recipe = entry.load()
    except (
        Exception,
        SystemExit,
    ) as error:  # code of somebody else: whatever it brings, the others go on
        return Plugin(entry.name, package, None, f"{entry.value} cannot be imported: {type(error).__name__}: {error}")
    if not isinstance(recipe, Recipe):
        return Plugin(entry.name, package, None, f"{entry.value} is no tunesmith.core.recipe.Recipe")
    if recipe.name in taken:
        return Plugin(entry.name, package, None, f"there is a recipe {recipe.name} already")
    return Plugin(entry.name, package, recipe)


PLUGINS = find_plugins()
RECIPES: tuple[Recipe, ...] = (*OURS, *(plugin.recipe for plugin in PLUGINS if plugin.recipe))
TRAINING = tuple(recipe for recipe in RECIPES if recipe.kind == "training")
"""Those that make a model out of data."""
KNOWN_KINDS: tuple[ModelKind, ...] = (TEXT_CLASSIFIER, TEXT_ENCODER)
"""Kinds that can be imported and served whether or not a recipe makes them."""
MODEL_KINDS: dict[str, ModelKind] = {kind.name: kind for kind in KNOWN_KINDS} | {
    kind.name: kind for recipe in reversed(RECIPES) for output in recipe.outputs for kind in output.kinds
}
"""By name; of two of the same name the first recipe's stays."""


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


def metrics_of(name: str) -> tuple[MetricSpec, ...]:
    """What jobs of a recipe report; nothing for one that is here no more."""
    return next((recipe.metrics for recipe in RECIPES if recipe.name == name), ())


def get_kind(name: str) -> ModelKind:
    """Raises `InvalidInput` naming those that exist."""
    if name in MODEL_KINDS:
        return MODEL_KINDS[name]
    raise InvalidInput(f"There is no kind of model {name!r}.", hint=f"One of {', '.join(MODEL_KINDS)}.")


def find_kind(path: Path) -> ModelKind | None:
    """What a folder or file holds, or None where it holds no model."""
    known = sorted(MODEL_KINDS.values(), key=lambda kind: kind.name == "model")  # its mark is the least particular
    return next((kind for kind in known if kind.matches(path)), None)


def kind_of_ref(ref: ModelRef) -> ModelKind | None:
    """The kind of a model that is on this machine; None for one that is not, or that is none."""
    if ref.kind in MODEL_KINDS:
        return MODEL_KINDS[ref.kind]
    path = Path(ref.adapter_path or ref.path)
    return find_kind(path) if path.is_absolute() and path.exists() else None


def kind_of(path: Path) -> ModelKind:
    """What a folder or file holds. Raises `InvalidInput` for a path that holds no model."""
    if kind := find_kind(path):
        return kind
    raise InvalidInput(
        f"{path.name} holds no model.",
        hint="A model is a folder with config.json and .safetensors files, an adapter with adapter_config.json, or a GGUF file.",
    )
