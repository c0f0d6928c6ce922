"""The plan of DPO: that of supervised fine-tuning with two texts a row, and rates and passes of its own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from tunesmith.core.recipe import Recipe
from tunesmith.recipes import sft_plan
from tunesmith.recipes.model_info import ModelInfo
from tunesmith.recipes.plans import Facts, Plan

RATES = ((1e8, 2e-5), (7e9, 5e-6))
"""Number of weights, and an adapter's rate there. All weights take a tenth of it."""
FEW_ROWS = 1000
"""Below that a data set is read more than once."""


def choose(recipe: Recipe, given: Mapping[str, Any], facts: Facts, auto: bool = True) -> Plan:
    """Fill in what `given` leaves out. Raises `InvalidInput` naming every bad value of `given` at once."""
    return sft_plan.choose(recipe, given, facts, auto, DpoPicker)


class DpoPicker(sft_plan.Picker):
    """Two texts a row."""

    texts_a_row = 2

    def passes(self) -> tuple[float, str]:
        rows = self.facts.num_rows
        if rows < FEW_ROWS:
            return 3.0, f"{rows:,} pairs; under {FEW_ROWS:,} are usually read three times."
        return 1.0, f"{rows:,} pairs; one pass is usual, more learn them by heart."

    def rate(self) -> tuple[float, str]:
        return learning_rate_for(self.facts.model, adapter=bool(self.params["adapter"]))


def learning_rate_for(model: ModelInfo | None, *, adapter: bool) -> tuple[float, str]:
    """From 2e-5 at 100M weights down to 5e-6 at 7B; a tenth for all weights."""
    scale = 1.0 if adapter else 0.1
    what = "for adapters" if adapter else "when all weights move"
    if model is None or not model.num_parameters:
        return 1e-5 * scale, f"The model's size is not known before it is fetched; this is a usual rate of DPO {what}."
    (small, high), (large, low) = RATES
    place = min(1.0, max(0.0, math.log(model.num_parameters / small) / math.log(large / small)))
    rate = float(f"{high * (low / high) ** place * scale:.1e}")
    return (
        rate,
        f"DPO takes {low * scale:g} to {high * scale:g} {what}, far less than learning answers; smaller models bear more.",
    )
