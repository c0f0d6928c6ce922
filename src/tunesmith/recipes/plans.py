"""What a recipe's plan rests on and what it says. Imports no torch; the recipes' own plans are in their folders."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tunesmith.core.job_spec import DatasetRef
from tunesmith.core.model_kind import ModelKind
from tunesmith.core.recipe import Recipe
from tunesmith.recipes.checking import check_params
from tunesmith.recipes.model_info import ModelInfo

GIB = 1024**3
USABLE = 0.8
"""Share of the memory that a job is planned to use."""
CORE_FLOPS = 30e9
"""What a core of a current CPU does in fp32 while training, operations a second; a guess until a job has finished here."""
GPU_FLOPS = 60e12
"""The same of a current GPU in bf16."""


class Machine(NamedTuple):
    """Where a job would run."""

    device: str
    """`cpu` or `cuda`."""
    memory_bytes: int
    """Of one device; of the machine for `cpu`."""
    fast_bf16: bool = False


class Lengths(NamedTuple):
    """Tokens in a row, over the data set."""

    median: int
    p99: int
    longest: int
    mean: float = 0.0
    """0 where it is not known."""
    is_counted: bool = False
    """Counted with the model's own tokenizer and template; else estimated from characters."""
    whose: str = "rows"
    """Which rows were counted, in words."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """All that the choice rests on; what is unknown is None."""

    machine: Machine
    model: ModelInfo | None = None
    num_rows: int = 0
    lengths: Lengths | None = None
    has_eval_dataset: bool = False
    num_held_out: int = 0
    """Rows that the data itself holds out."""
    num_file_rows: int = 0
    """Rows of the dataset with those that the job skips; 0 when it skips none."""
    num_eval_rows: int = 0
    """Rows of the dataset that is for evaluation alone."""
    kind: ModelKind | None = None
    """Of the model that the job starts from, where it is on this machine."""
    dataset: DatasetRef | None = None
    """The rows themselves. A plan may read what is at hand at once, such as a file's schema or one column."""


class Plan(NamedTuple):
    """Complete settings, why each was chosen, and what the run will take."""

    params: dict[str, Any]
    reasons: dict[str, str]
    estimate: dict[str, Any]
    """As far as it is known: `total_steps`, `memory_bytes` with its `memory_parts_bytes` and `memory_available_bytes`, `fits`,
    `device`, `disk_bytes`, and `duration_s` with `duration_range_s` and `duration_from`."""


def plan(recipe: Recipe, given: Mapping[str, Any], facts: Facts, *, auto: bool = True) -> Plan:
    """What a job of `recipe` would be. Raises `InvalidInput` naming every bad value of `given` at once."""
    checked = check_params(recipe, dict(given))
    if recipe.plan is None:
        return Plan(checked.model_dump(mode="json"), {}, {})
    made: Plan = recipe.plan(recipe, given, facts, auto)
    return made


def guessed_flops(device: str) -> float:
    """Operations a second in training, before any job has finished here."""
    return GPU_FLOPS if device == "cuda" else CORE_FLOPS * (os.cpu_count() or 1)


def read_machine() -> Machine:
    """The first GPU's memory, else the memory that this process may use (a container's limit counts)."""
    import psutil

    from tunesmith.core.devices import read_gpus
    from tunesmith.core.processor import read_processor

    gpus = [gpu for gpu in read_gpus() if gpu.memory_total_bytes]
    if gpus:
        return Machine("cuda", min(gpu.memory_total_bytes or 0 for gpu in gpus), fast_bf16=True)
    limits = [psutil.virtual_memory().total]
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        text = Path(path).read_text().strip() if Path(path).is_file() else ""
        limits += [int(text)] if text.isdigit() else []
    return Machine("cpu", min(limits), fast_bf16=read_processor().multiplies_bf16)
