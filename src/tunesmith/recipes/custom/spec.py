"""A user's own Python file. Administrators only, off by default (`TUNESMITH_CUSTOM_SCRIPTS`)."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from tunesmith.core.acting import Scope
from tunesmith.core.metrics import MetricSpec
from tunesmith.core.recipe import DataContract, Output, Recipe
from tunesmith.recipes.custom import isolation
from tunesmith.recipes.hyperparameters import about


class CustomParams(BaseModel):
    """Settings of the `custom` recipe."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    script: str = Field(min_length=1, max_length=1_000_000, json_schema_extra=about("script"))
    """The Python source. Called as `script.py CONFIG.json`; prints JSON lines with `step`, `loss`, …; saves under the config's `output_dir`."""
    config: dict[str, Any] = Field(default_factory=dict, json_schema_extra=about("script"))
    """Goes into the config file as it is, under `config`."""
    cpu_seconds: int = Field(3600, ge=1, le=30 * 24 * 3600, title="CPU time", json_schema_extra=about("script", "s"))
    """CPU time limit, seconds."""
    memory_mb: int = Field(4096, ge=64, le=16 * 1024 * 1024, title="Memory", json_schema_extra=about("script", "MiB"))
    """Address-space limit, MiB."""
    timeout_s: int = Field(3600, ge=1, le=30 * 24 * 3600, title="Time limit", json_schema_extra=about("script", "s"))
    """Wall-clock limit, seconds."""


RECIPE = Recipe(
    name="custom",
    title="Custom script",
    sentence="Runs your own Python file with limits on time and memory. Administrators only.",
    params=CustomParams,
    train="tunesmith.recipes.custom.train:train",
    permission=Scope.ADMIN,
    tasks=("custom",),
    data=DataContract(is_needed=False),
    metrics=(MetricSpec(name="loss", title="Loss", is_primary=True),),
    outputs=(Output(type="files", folder="custom_model"),),
    needs_model=False,
    unavailable_reason=isolation.why_not,
    switch="custom_scripts",
    credentials=lambda spec: set(),
    confines_itself=True,
)
