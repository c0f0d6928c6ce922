"""What becomes of what a completed job has left, as values that the server carries out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tunesmith.core.job_dir import JobDir
from tunesmith.core.job_spec import JobSpec


@dataclass(frozen=True)
class Finished:
    """A completed job."""

    dir: JobDir
    spec: JobSpec
    metrics: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class RegisterModel:
    """Put a model into the registry as the next version of a name."""

    kind: str
    """The name of its `ModelKind`."""
    path: Path
    """Its folder, or its file."""
    extra: Mapping[str, Path] = field(default_factory=dict)
    """Folders that are kept with it, by the name they get there."""
    suffix: str = ""
    """Goes behind the name: the format of a compressed model, say."""
    metrics: Mapping[str, float] | None = None
    """Those of the job when absent."""
    scores: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """What was measured on → the scores, each with `value` and what is known of it: `low`, `high`, `num_samples`,
    `higher_is_better`, `title`, `unit`."""
    tags: Sequence[str] | None = None
    """Those of the job when absent."""
    lineage: Mapping[str, Any] = field(default_factory=dict)
    """What is known of where it comes from, besides the job, its data and its base."""
    hyperparameters: Mapping[str, Any] | None = None
    """Those of the job when absent."""
    is_made_from_model: bool = False
    """Whether it is the job's model in another form, and so named after it and of its lineage."""


@dataclass(frozen=True, kw_only=True)
class AddScores:
    """Hand scores to the version that the job's model is, where it is one."""

    name: str
    """What was measured on: a dataset, benchmarks."""
    scores: Mapping[str, Any]
    about: Mapping[str, Any] = field(default_factory=dict)


Result = RegisterModel | AddScores
