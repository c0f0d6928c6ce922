"""Methods on the wire: what each takes, what may be set, and what its jobs report."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from tunesmith.core.acting import Scope


class MethodField(BaseModel):
    """One parameter of a method."""

    name: str
    """Dotted when it is part of another: `early_stopping.patience`."""
    title: str
    doc: str
    group: str
    """basic, batching, optimizer, adapter, data, precision, saving, tracking or script."""
    kind: Literal["number", "integer", "boolean", "choice", "choices", "names", "text", "long_text", "object"]
    """`choices` is any of several; `names` one of `choices`, or a list of names of your own."""
    unit: str
    default: Any
    required: bool
    nullable: bool
    """Whether it may be null, which means that it is chosen, or not used."""
    minimum: float | None
    maximum: float | None
    above: float | None
    """It must be more than this."""
    below: float | None
    """It must be less than this."""
    usual: tuple[float, float] | None
    """What is commonly tried: lowest, highest."""
    choices: list[str]


class MethodMetric(BaseModel):
    """A number that jobs of a method report. Its curve on held-out rows is called `eval_` and its name."""

    name: str
    title: str
    unit: str
    better: Literal["lower", "higher"] | None
    is_primary: bool
    """Whether it stands for the run."""


class MethodRead(BaseModel):
    """One way to train."""

    name: str
    title: str
    sentence: str
    fields: list[MethodField]
    json_schema: dict[str, Any]
    """JSON Schema of the hyperparameters."""
    shapes: list[str]
    """Row shapes it can learn from."""
    kind: Literal["training", "evaluation", "compression"] = "training"
    """Only training makes a new model out of data."""
    tasks: list[str] = Field(default_factory=list)
    """What its models do, such as `text-generation`."""
    modality: str = "text"
    """Of its rows: `text`, `table`, `image`, `audio` or `video`."""
    metrics: list[MethodMetric] = Field(default_factory=list)
    """What its jobs report."""
    guide: str = ""
    """What it is for, the rows it takes and what to expect, in Markdown."""
    needs_model: bool
    needs_dataset: bool
    permission: Scope
    """What whoever runs it must be allowed."""
    why_not: str
    """Why this machine or who asks cannot run it, with the alternative named; empty when they can."""
