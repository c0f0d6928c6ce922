"""Every event that a job may emit: one JSON object a line in `events.jsonl`, one row in the database, one message on the wire.

A worker writes all of them but `StatusEvent`, which the server writes when it moves a job from one state to another.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, computed_field, model_validator

from tunesmith.core.clock import utc_now
from tunesmith.core.job_status import JobStatus, Phase

BESIDE = frozenset({"loss", "perplexity", "metrics"})
"""Numbers that also stand beside `values`."""


class _Event(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=True, ser_json_inf_nan="strings")

    at: datetime = Field(default_factory=utc_now)
    """When it happened, UTC."""
    attempt: int = 0
    """Which launch of the job wrote it: the fencing number. Lines with an older number than the job's are refused."""


class PhaseEvent(_Event):
    """The job turned to something else."""

    type: Literal["phase"] = "phase"
    phase: Phase
    detail: str = ""


class ProgressEvent(_Event):
    """How far a phase that has no steps is (tokenizing, loading, saving)."""

    type: Literal["progress"] = "progress"
    phase: Phase
    done: int
    total: int
    unit: str = "rows"


class _Measured(_Event):
    """What carries the numbers that a recipe's metrics name."""

    values: dict[str, float]
    """By the names of the recipe's metrics (`core.recipe.MetricSpec`)."""

    @model_validator(mode="before")
    @classmethod
    def _as_before(cls, given: Any) -> Any:
        """Events of before had the numbers beside the rest; there they are still written, for programs that read them."""
        if not isinstance(given, dict):
            return given
        found = {name: value for name, value in given.items() if name not in BESIDE}
        if "values" not in found and (given.keys() & BESIDE):
            found["values"] = {name: given[name] for name in ("loss", "perplexity") if given.get(name) is not None}
            found["values"] |= given.get("metrics") or {}
        return found

    @computed_field  # type: ignore[prop-decorator]
    @property
    def loss(self) -> float | None:
        """`values["loss"]`, for programs that know no other."""
        return self.values.get("loss")


class StepEvent(_Measured):
    """One step, or several averaged over `logging_steps`."""

    type: Literal["step"] = "step"
    step: int
    total_steps: int
    epoch: float = 0.0
    """Passes over the training rows so far, fractional."""
    learning_rate: float | None = None
    grad_norm: float | None = None
    """Global norm before clipping."""
    tokens_per_s: float | None = None
    """Real tokens, padding not counted."""
    samples_per_s: float | None = None
    tokens_seen: int = 0
    mfu: float | None = None
    """Estimated share of the device's peak arithmetic rate that is used, 0 to 1."""
    elapsed_s: float = 0.0
    """Training time over all attempts."""
    remaining_s: float | None = None


class EvaluationEvent(_Measured):
    """Scores on the held-out rows."""

    type: Literal["evaluation"] = "evaluation"
    step: int
    is_best: bool = False

    @computed_field  # type: ignore[prop-decorator]
    @property
    def perplexity(self) -> float | None:
        """`values["perplexity"]`, likewise."""
        return self.values.get("perplexity")

    @computed_field  # type: ignore[prop-decorator]
    @property
    def metrics(self) -> dict[str, float]:
        """What else was measured, likewise."""
        return {name: value for name, value in self.values.items() if name not in ("loss", "perplexity")}


class CheckpointEvent(_Event):
    """A checkpoint is complete on disk."""

    type: Literal["checkpoint"] = "checkpoint"
    step: int
    path: str
    """Relative to the job directory."""
    size_bytes: int
    reason: Literal["schedule", "request", "pause", "best", "final"] = "schedule"


class NoticeEvent(_Event):
    """Something a person should read."""

    type: Literal["notice"] = "notice"
    level: Literal["info", "warning", "error"] = "info"
    code: str = ""
    message: str
    hint: str = ""
    rows: list[int] = Field(default_factory=list)
    """Row numbers from 1, where it is about rows: all of them up to 10,000."""


class GpuUse(BaseModel):
    """One device at one instant."""

    index: int
    name: str
    utilization_percent: float | None = None
    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None
    temperature_c: float | None = None
    power_w: float | None = None


class ResourcesEvent(_Event):
    """What the job uses of the machine."""

    type: Literal["resources"] = "resources"
    cpu_percent: float
    """Of one core: two busy cores are 200."""
    memory_bytes: int
    """Resident memory of the job's processes."""
    machine_memory_percent: float
    disk_read_bytes: int = 0
    """Since the job's processes started."""
    disk_written_bytes: int = 0
    network_received_bytes: int = 0
    """Of the whole machine, since it started."""
    network_sent_bytes: int = 0
    gpus: list[GpuUse] = Field(default_factory=list)


class ArtifactEvent(_Event):
    """The job left something for others."""

    type: Literal["artifact"] = "artifact"
    name: str
    path: str
    """Relative to the job directory."""
    size_bytes: int


class MetricsEvent(_Event):
    """Final numbers of the job, or numbers that a custom script prints."""

    type: Literal["metrics"] = "metrics"
    step: int | None = None
    values: dict[str, float]


class StatusEvent(_Event):
    """The job changed state. Written by the server only."""

    type: Literal["status"] = "status"
    old: JobStatus | None = None
    new: JobStatus
    reason: str = ""
    failure_code: str = ""
    hint: str = ""


Event = Annotated[
    PhaseEvent
    | ProgressEvent
    | StepEvent
    | EvaluationEvent
    | CheckpointEvent
    | NoticeEvent
    | ResourcesEvent
    | ArtifactEvent
    | MetricsEvent
    | StatusEvent,
    Field(discriminator="type"),
]

_adapter: TypeAdapter[Any] = TypeAdapter(Event)


def parse_event(data: bytes | str | dict[str, Any]) -> Any:
    """One event from a JSON line or a dict. Raises `pydantic.ValidationError`."""
    if isinstance(data, dict):
        return _adapter.validate_python(data)
    return _adapter.validate_json(data)
