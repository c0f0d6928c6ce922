from __future__ import annotations

import dataclasses

from pydantic import BaseModel, ConfigDict, Field

from tunesmith.core.acting import Scope
from tunesmith.core.recipe import DataContract, MetricSpec, Output, Recipe
from tunesmith.recipes.plans import Facts, Plan
from tunesmith_lines.kind import LINE


class LineParams(BaseModel):
    """Settings of the `line` recipe."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    x: str = Field("x", max_length=100, title="Column of x")
    """The column that is known."""
    y: str = Field("y", max_length=100, title="Column of y")
    """The column that is to be told."""
    steps: int = Field(20, ge=1, le=10_000)
    """Steps of the descent."""
    step_s: float = Field(0.0, ge=0, le=10)
    """Pause after each step, seconds."""
    learning_rate: float = Field(0.5, gt=0, le=10)
    """How big each step is."""


def plan(recipe: Recipe, given: dict, facts: Facts, auto: bool) -> Plan:
    params = recipe.params.model_validate(given)
    reasons = {"steps": "Twenty steps are enough for a line."} if "steps" not in given else {}
    return Plan(params.model_dump(mode="json"), reasons, {"total_steps": params.steps, "device": "cpu"})


RECIPE = Recipe(
    name="line",
    title="Straight line",
    sentence="Lays a straight line through two columns.",
    params=LineParams,
    train="tunesmith_lines.train:train",
    permission=Scope.TRAIN,
    tasks=("tabular-regression",),
    data=DataContract(modality="table"),
    metrics=(
        MetricSpec(name="rmse", title="RMSE", better="lower"),
        MetricSpec(name="r2", title="R²", better="higher", is_primary=True),
    ),
    outputs=(Output(type="model", folder="line_model", kinds=(LINE,)),),
    needs_model=False,
    plan=plan,
)
TAKEN = dataclasses.replace(RECIPE, name="lora")
