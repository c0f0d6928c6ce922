"""The plan of a table: settings that were left out, by the number of rows. Light; reads the file's schema at most."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tunesmith.core.recipe import Recipe
from tunesmith.core.words import plural
from tunesmith.recipes.checking import check_params
from tunesmith.recipes.plans import GIB, USABLE, Facts, Plan

FOLDS = ((1_000_000, 3), (0, 5))
"""From so many rows on: folds."""
PROCESS_BYTES = 500 * 1024**2
"""Python and the libraries before any row is read; a guess."""
BYTES_A_VALUE = 60
"""Matrix, copies for a fold, the libraries' binned form and the texts themselves, for each value of the table; a guess."""
VALUE_S = {"linear": 4e-7, "lightgbm": 5e-6, "catboost": 2e-5}
"""Time for each value and fold on one core; a guess."""
MAX_HELD_OUT = 100_000


def choose(recipe: Recipe, given: Mapping[str, Any], facts: Facts, auto: bool = True) -> Plan:
    """Fill in what `given` leaves out. Raises `InvalidInput` naming every bad value of `given` at once."""
    params = check_params(recipe, dict(given)).model_dump(mode="json")
    reasons: dict[str, str] = {}
    if auto and facts.num_rows:
        for name, (value, reason) in _picked(facts, params).items():
            if name not in given:
                params[name], reasons[name] = value, reason
    params = check_params(recipe, params).model_dump(mode="json")
    return Plan(params, reasons, _estimate(params, facts) if facts.num_rows else {})


def _picked(facts: Facts, params: dict[str, Any]) -> dict[str, tuple[Any, str]]:
    rows = facts.num_rows
    folds = next(folds for least, folds in FOLDS if rows >= least)
    found: dict[str, tuple[Any, str]] = {
        "folds": (folds, f"{folds} folds are usual for {plural(rows, 'row')}."),
        "early_stopping_rounds": (50, "A model stops after 50 iterations without gain."),
        "max_iterations": (2000 if rows < 100_000 else 4000, "An upper bound; early stopping ends sooner as a rule."),
    }
    if facts.has_eval_dataset:
        found["validation_split"] = (0.0, "A separate held-out dataset is given, so all rows are used for training.")
    elif facts.num_held_out:
        share = float(f"{min(0.89, facts.num_held_out / max(1, facts.num_file_rows or rows)):.6g}")
        found["validation_split"] = (share, f"The data itself holds out {facts.num_held_out:,} rows.")
    elif rows * 0.15 > MAX_HELD_OUT:
        share = float(f"{MAX_HELD_OUT / rows:.6g}")
        found["validation_split"] = (share, f"{MAX_HELD_OUT:,} held-out rows measure well enough.")
    elif rows < 100:
        found["validation_split"] = (0.2, f"A fifth of {plural(rows, 'row')}: fewer would measure too little.")
    names = _columns(facts)
    if (
        not params["target"]
        and facts.dataset is not None
        and names
        and (label := facts.dataset.mapping.get("label")) in names
    ):
        found["target"] = (label, "The dataset's mapping calls this column the label.")
    return found


def _columns(facts: Facts) -> list[str]:
    """Names of the dataset's columns, from its schema; empty where the file is not at hand."""
    if facts.dataset is None or not Path(facts.dataset.path).is_file():
        return []
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return list(pq.read_schema(facts.dataset.path).names)
    except (OSError, pa.ArrowInvalid):
        return []


def _estimate(params: dict[str, Any], facts: Facts) -> dict[str, Any]:
    """What it will take. All but the fits is a guess."""
    import os

    values = facts.num_rows * max(2, len(_columns(facts)) or 20)
    memory = PROCESS_BYTES + values * BYTES_A_VALUE
    available = int(facts.machine.memory_bytes * USABLE)
    fits = len(params["models"]) * (params["folds"] + (params["split"] == "time"))
    cores = max(1, os.cpu_count() or 1)
    work = (
        sum(VALUE_S[model] for model in params["models"])
        * values
        * params["folds"]
        * (params["max_iterations"] / 2000) ** 0.5
    )
    seconds = 5 + work / cores
    if params["time_limit_s"] is not None:
        seconds = min(seconds, params["time_limit_s"])
    return {
        "total_steps": len(params["models"]) * params["folds"] * params["max_iterations"],
        "num_fits": fits,
        "memory_bytes": memory,
        "memory_parts_bytes": {"process": PROCESS_BYTES, "table": values * BYTES_A_VALUE},
        "memory_available_bytes": available,
        "fits": memory <= available,
        "device": "cpu",
        "disk_bytes": min(GIB, 20 * 1024**2 + fits * 4 * 1024**2),
        "duration_s": seconds,
        "duration_range_s": [seconds / 4, min(seconds * 4, params["time_limit_s"] or seconds * 4)],
        "duration_from": "a guess from the number of rows and columns",
    }
