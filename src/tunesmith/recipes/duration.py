"""How long a run will take. Pure: the caller says how fast this machine is, from jobs that it has finished.

A token costs two operations a weight in the forward pass and two in the backward pass, and two more for each weight that is
trained (arXiv:2001.08361, section 2.1).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from tunesmith.core.recipe import Recipe
from tunesmith.recipes.plans import Facts, guessed_flops
from tunesmith.recipes.sft_plan import flop_per_token

SAME, SIMILAR, GUESSED = 1.25, 2.0, 4.0
"""How far off an estimate may be, as a factor: from the same model and method, from another model, from no job at all."""


class Pace(NamedTuple):
    """How fast this machine has trained."""

    flops: float
    """Operations a second, with evaluations and checkpoints in between."""
    off_by: float
    """The truth is probably within this factor."""
    source: str
    """Where it comes from, as a sentence."""


def guessed_pace(device: str) -> Pace:
    """Before any job has finished here."""
    return Pace(
        guessed_flops(device), GUESSED, "No job has finished on this machine yet, so the time is a rough guess."
    )


def num_tokens(params: Mapping[str, Any], facts: Facts, total_steps: int) -> float | None:
    """Tokens of the whole run; None while the rows' lengths are not known."""
    lengths = facts.lengths
    if lengths is None:
        return None
    in_a_row = min(lengths.mean or lengths.median, params["max_length"])
    rows = max(1, facts.num_rows - round(facts.num_rows * params["validation_split"]))
    per_step = min(rows, params["batch_size"] * params["gradient_accumulation_steps"])
    return float(total_steps * per_step * in_a_row)


def duration(recipe: Recipe, params: Mapping[str, Any], facts: Facts, total_steps: int, pace: Pace) -> dict[str, Any]:
    """`duration_s` with its bounds and where it comes from, and `num_tokens`; None where model or rows are not known."""
    tokens = num_tokens(params, facts, total_steps)
    if facts.model is None or tokens is None:
        what = "model" if facts.model is None else "rows' lengths"
        why = f"The {what} must be here before the time can be told."
        return {"num_tokens": tokens, "duration_s": None, "duration_range_s": None, "duration_from": why}
    recomputed = 4 / 3 if params["gradient_checkpointing"] else 1.0
    seconds = tokens * flop_per_token(recipe, params, facts.model) * recomputed / pace.flops
    return {
        "num_tokens": tokens,
        "duration_s": round(seconds, 1),
        "duration_range_s": [round(seconds / pace.off_by, 1), round(seconds * pace.off_by, 1)],
        "duration_from": pace.source,
    }
