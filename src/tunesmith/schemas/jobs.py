"""Jobs on the wire."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, Field

from tunesmith.core.acting import Visibility
from tunesmith.core.job_spec import ResourceRequest
from tunesmith.core.job_status import JobStatus, Phase, Priority
from tunesmith.schemas.before_after import Turn
from tunesmith.schemas.common import Wire
from tunesmith.schemas.methods import MethodMetric


def _in_utc(at: datetime) -> datetime:
    try:
        return at.astimezone(UTC)
    except OverflowError:
        raise ValueError("the time is out of range") from None


Instant = Annotated[AwareDatetime, AfterValidator(_in_utc)]
"""A point in time, with its offset from UTC."""
Tag = Annotated[str, Field(min_length=1, max_length=100)]


class FollowUp(Wire):
    """A job to make of the model when the job is completed."""

    method: Literal["evaluate", "compress"]
    dataset_id: int | None = Field(None, ge=1, lt=2**63)
    """For evaluate; the rows that the training held out when absent."""
    hyperparameters: dict[str, Any] = Field(default_factory=dict)
    """The settings of that method."""


class JobCreate(Wire):
    """A training job to make."""

    name: str | None = Field(None, min_length=1, max_length=200, examples=["support-bot"])
    """Made from model, dataset and method when absent."""
    method: str = Field("lora", examples=["lora"])
    """A recipe's name: lora, qlora, unsloth, standard, custom."""
    model: str | None = Field(None, max_length=500, examples=["HuggingFaceTB/SmolLM2-135M-Instruct"])
    """Hub id, name of a local model, or `job:<id>` to go on from a finished job's model."""
    dataset_id: int | None = Field(None, ge=1, lt=2**63)
    dataset_version: str | None = Field(None, pattern=r"^[0-9a-f]{64}$")
    """Digest; the newest version when absent."""
    eval_dataset_id: int | None = Field(None, ge=1, lt=2**63)
    hyperparameters: dict[str, Any] = Field(default_factory=dict, examples=[{"learning_rate": 2e-4, "epochs": 3}])
    """The recipe's parameters; those left out are chosen by `auto`, or take the recipe's defaults when it is off."""
    auto: bool = True
    """Choose what is left out from model size, row count and memory, and say why."""
    priority: Priority = Priority.NORMAL
    resources: ResourceRequest | None = None
    """One GPU where there is one, else CPU, when absent."""
    timeout_s: float | None = Field(None, gt=0, le=365 * 24 * 3600)
    """Seconds that an attempt may take; a job that is resumed or started again has them anew. A checkpoint is kept."""
    start: Literal["now", "manual", "off_peak"] = "now"
    """`manual` leaves it `created`; `off_peak` waits for the hours in TUNESMITH_OFF_PEAK."""
    not_before: Instant | None = None
    """Earliest start."""
    after_job_id: int | None = Field(None, ge=1, lt=2**63)
    """Start only when that job has ended; see `after_failure`."""
    after_failure: bool = True
    """Whether to start even when `after_job_id` failed."""
    tags: list[Tag] = Field(default_factory=list, max_length=50, examples=[["support"]])
    follow_up: list[FollowUp] = Field(default_factory=list, max_length=8)
    """Made of the finished model in your name once the job is completed."""


class JobBatchCreate(Wire):
    """Many jobs in one request: all are made or none."""

    jobs: list[JobCreate] = Field(min_length=1, max_length=200)


class JobClone(Wire):
    """A copy with some fields changed; `hyperparameters` are merged key by key."""

    changes: dict[str, Any] = Field(default_factory=dict, examples=[{"hyperparameters": {"learning_rate": 1e-4}}])


class JobUpdate(Wire):
    """Fields to change; absent ones stay."""

    name: str | None = Field(None, min_length=1, max_length=200)
    tags: list[Tag] | None = Field(None, max_length=50)
    priority: Priority | None = None
    not_before: Instant | None = None
    visibility: Visibility | None = None
    """`team`: everybody with an account sees the job and may use its model; changing it stays its owner's."""


class LearningRateChange(Wire):
    learning_rate: float = Field(gt=0, le=1.0)
    """New peak learning rate; the schedule's shape stays."""


class QueueMove(Wire):
    """Where to put a waiting job."""

    to: Literal["first", "last"] | None = None
    before_job_id: int | None = Field(None, ge=1, lt=2**63)


class RunMetric(BaseModel):
    """The number that stands for a job."""

    name: str
    """Of its curve: `eval_loss`, `eval_accuracy`."""
    title: str
    unit: str
    better: Literal["lower", "higher"] | None
    last: float | None
    best: float | None


class JobRead(BaseModel):
    """A job."""

    id: int
    name: str
    method: str
    model: str | None
    dataset_id: int | None
    dataset_name: str | None
    """As it was when the job was made."""
    dataset_version: str | None
    eval_dataset_id: int | None
    hyperparameters: dict[str, Any]
    """Complete, after `auto`."""
    reasons: dict[str, str]
    """For each value that `auto` chose: why."""
    priority: Priority
    resources: ResourceRequest
    timeout_s: float | None
    not_before: datetime | None
    after_job_id: int | None
    tags: list[str]
    owner: str | None = None
    """Whose it is; null where there are no accounts."""
    visibility: Visibility = Visibility.PRIVATE
    status: JobStatus
    status_reason: str
    phase: Phase | None
    failure_code: str | None
    hint: str
    """What to do about a failure."""
    details: list[dict[str, Any]]
    """Where the failure is, e.g. row numbers."""
    metrics: dict[str, Any]
    """Final numbers."""
    batch_id: str | None
    """Jobs submitted together share it."""
    output_name: str
    """Folder-safe, unique: the name of the model it makes."""
    attempt: int
    """Launches so far."""
    progress: float
    """0 to 1."""
    step: int
    total_steps: int
    loss: float | None
    """Of the last step."""
    eval_loss: float | None
    """The last held-out loss."""
    best_eval_loss: float | None
    metric: RunMetric | None = None
    """What stands for the job, as its method says; null before it was measured."""
    elapsed_s: float
    """Training time over all attempts."""
    remaining_s: float | None
    sparkline: list[float]
    """The loss, or the method's main metric, over the whole run in few points."""
    values: dict[str, Any] | None = None
    """Of a list: the values that `columns` asks for."""
    created_at: datetime
    queued_at: datetime | None
    started_at: datetime | None
    ended_at: datetime | None


class JobProgress(BaseModel):
    """`GET /jobs/{id}/status`: where a job is, at a glance."""

    id: int
    name: str
    status: JobStatus
    status_reason: str
    phase: Phase | None
    progress: float
    """0 to 1."""
    step: int
    total_steps: int
    epoch: float
    loss: float | None
    eval_loss: float | None
    best_eval_loss: float | None
    metric: RunMetric | None = None
    """What stands for the job, as its method says."""
    learning_rate: float | None
    grad_norm: float | None
    tokens_per_s: float | None
    samples_per_s: float | None
    mfu: float | None
    elapsed_s: float
    remaining_s: float | None
    resources: dict[str, Any] | None
    """The last `resources` event."""
    queue_position: int | None
    """From 1, while queued."""
    waiting_for: str
    """Why it waits, in words; empty unless queued."""
    failure_code: str | None
    message: str
    hint: str
    last_seq: int
    """Sequence number of the last event; follow from here."""
    diagnosis: list[Diagnosis]


class Diagnosis(BaseModel):
    """What the curve says, in words."""

    code: Literal[
        "healthy", "rising", "plateau", "oscillating", "nan", "overfitting", "high_gradients", "vanishing_gradients"
    ]
    severity: Literal["info", "warning", "error"]
    message: str
    advice: str
    changes: dict[str, Any] = Field(default_factory=dict)
    """Hyperparameters of a new job that deals with it; empty where there is no one answer."""


class JobEvent(BaseModel):
    """One event with its number in the job's stream."""

    seq: int
    """Rises by one, from 1, within the job."""
    event: dict[str, Any]
    """One of the events of `tunesmith.core.events`, by `type`."""


class LogChunk(BaseModel):
    text: str
    offset: int = 0
    """Bytes; where the text begins. Pass as `before` to read what comes before it."""
    next_offset: int
    """Bytes; pass as `offset` to read on."""
    size_bytes: int


class LogMatch(BaseModel):
    """A line of the log that holds what was looked for."""

    offset: int
    """Bytes; where the line begins."""
    line: str
    """Long lines are cut around the match."""


class LogSearch(BaseModel):
    matches: list[LogMatch]
    next_offset: int | None
    """Bytes; pass as `offset` to look further. Null when the whole log has been looked through."""


class QueueItem(BaseModel):
    job_id: int
    name: str
    position: int
    priority: Priority
    waiting_for: str


class CheckpointRead(BaseModel):
    step: int
    path: str
    """Relative to the job directory."""
    size_bytes: int
    created_at: datetime
    is_best: bool


class ArtifactRead(BaseModel):
    path: str
    """Relative to the job's artifacts."""
    size_bytes: int
    sha256: str | None = None
    """Hex; only when it was asked for."""


class JobBatchRead(BaseModel):
    batch_id: str
    jobs: list[JobRead]


class PlanCheck(BaseModel):
    """One thing about the rows under this model and these settings."""

    code: str
    """`rows_cut`, `rows_left_out`, `lost_turns`, `lost_text`, `rewritten_turns`, `no_end_mark`, `doubled_marks`, `rows_skipped`, …"""
    level: Literal["info", "warning", "error"]
    message: str
    hint: str = ""
    rows: list[int] = Field(default_factory=list)
    """Numbers from 1 of the first such rows."""


class JobPlan(BaseModel):
    """What a job would be, before anything is done."""

    hyperparameters: dict[str, Any]
    """Complete, after `auto`."""
    reasons: dict[str, str]
    estimate: dict[str, Any]
    """`total_steps`, `memory_bytes` with its parts, what the machine has and whether it `fits`, `disk_bytes`, and
    `duration_s` with its bounds and where it comes from; empty when the method makes no such promise."""
    checks: list[PlanCheck] = Field(default_factory=list)
    """What becomes of the rows: cut, rewritten, without an end mark; what goes too far is refused instead."""


class JobTexts(BaseModel):
    """The same job, written out."""

    yaml: str
    """For `tunesmith train --config`."""
    curl: str
    python: str
    cli: str


class Curve(BaseModel):
    """One series, thinned to what a chart can show: the lowest and highest of every stretch are kept."""

    steps: list[int]
    values: list[float | None]
    """Null where the value was not a number."""


class JobMetrics(BaseModel):
    curves: dict[str, Curve]
    metrics: list[MethodMetric] = Field(default_factory=list)
    """What the method says of its curves: titles, units, and which way is better."""
    num_steps: int
    """Steps recorded, before thinning."""
    last_seq: int
    """Sequence number up to which events are in it; pass as `after` for what came since."""


class TimeCurve(BaseModel):
    """One series over time, thinned like `Curve`."""

    times: list[float]
    """Seconds since 1970-01-01 UTC."""
    values: list[float | None]


class JobResources(BaseModel):
    """What a job used of the machine."""

    curves: dict[str, TimeCurve]
    """By name: percent, bytes and bytes per second, as the name ends; those of GPU 0 begin with `gpu0_`."""
    last_seq: int


class TimelineSpan(BaseModel):
    """A stretch of a job's life."""

    name: str
    """A phase, or a status while no worker has the job."""
    attempt: int
    started_at: datetime
    ended_at: datetime | None
    """Null for the present."""
    duration_s: float


class JobTimeline(BaseModel):
    spans: list[TimelineSpan]
    """In order; of very long lives the newest part."""
    totals_s: dict[str, float]
    """Seconds by name."""


class ComparedValue(BaseModel):
    """One setting or score of each compared job, in the order of the jobs."""

    name: str
    values: list[Any]
    differs: bool
    best: list[int] = Field(default_factory=list)
    """Places of the best values; empty for settings, and where all are alike."""


class JobSample(BaseModel):
    """What a finished model answered when it was checked."""

    prompt: str
    """The last message before the answer."""
    turns: list[Turn] = Field(default_factory=list)
    """All of what comes before the answer; empty for jobs of earlier versions."""
    expected: str = ""
    """What the held-out row says; empty when there was none."""
    answer: str


class ComparedJob(BaseModel):
    job: JobRead
    curves: dict[str, Curve]
    samples: list[JobSample]


class JobComparison(BaseModel):
    jobs: list[ComparedJob]
    settings: list[ComparedValue]
    scores: list[ComparedValue]


class ChatMessage(Wire):
    role: Literal["system", "user", "assistant"]
    content: str = Field(max_length=200_000)


class ChatRequest(Wire):
    """What to say to a model."""

    messages: list[ChatMessage] = Field(min_length=1, max_length=500)
    max_tokens: int = Field(256, ge=1, le=32_768)
    temperature: float = Field(0.7, ge=0.0, le=5.0)
    """0 takes the likeliest token each time."""
    top_p: float = Field(0.95, gt=0.0, le=1.0)
    top_k: int | None = Field(None, ge=1, le=10_000)
    repetition_penalty: float = Field(1.0, gt=0.0, le=5.0)
    seed: int | None = Field(None, ge=0, le=2**32 - 1)
    stop: list[str] = Field(default_factory=list, max_length=16)
    stream: bool = True
    """As server-sent events in the style of OpenAI; otherwise one JSON answer."""


class ChatAnswer(BaseModel):
    model: str
    content: str
    finish_reason: Literal["stop", "length"]
    prompt_tokens: int
    completion_tokens: int
    time_to_first_token_s: float | None = None
    """From the question to the first token, waiting included; loading the model is not."""
    tokens_per_s: float | None = None
    """After the first token."""


JobProgress.model_rebuild()
