"""The wire format of evaluations and of the arena."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, Field

from tunesmith.core.acting import Visibility
from tunesmith.core.job_status import JobStatus
from tunesmith.schemas.common import Wire

Vote = Literal["a", "b", "tie", "both_bad"]
Side = Literal["a", "b"]


class EvaluationCreate(Wire):
    """A model to measure."""

    model: str = Field(max_length=500, examples=["job:7"])
    """Hub id, local model, `job:<id>`, or a version of the registry."""
    dataset_id: int | None = Field(None, ge=1, lt=2**63)
    """The rows that the model's training held out when absent."""
    dataset_version: str | None = Field(None, pattern=r"^[0-9a-f]{64}$")
    """Digest; the newest version when absent."""
    held_out_of: int | None = Field(None, ge=1, lt=2**63)
    """Take the rows that this training job held out: to measure its base model on the same ones."""
    name: str | None = Field(None, min_length=1, max_length=200)
    metrics: list[str] = Field(default_factory=list, max_length=20)
    """Chosen by what the answers are when empty."""
    benchmarks: list[str] = Field(default_factory=list, max_length=100)
    """Tasks of lm-eval."""
    settings: dict[str, Any] = Field(default_factory=dict, examples=[{"max_prompts": 50}])
    """Further settings of the method `evaluate`."""


class ScoreRead(BaseModel):
    """One number and how sure it is."""

    name: str
    title: str
    unit: str
    """`share` of 1, `of 100`, `of 5`, `s`, `tokens/s`, or empty."""
    value: float | None
    """Null where it is not finite."""
    num_samples: int
    low: float | None
    """Lower end of the 95 % interval, by bootstrap over the samples."""
    high: float | None
    higher_is_better: bool


class EvaluationRead(BaseModel):
    """An evaluation: the job that makes it, and its scores once it is completed."""

    id: int
    """The job's number."""
    name: str
    model: str
    status: JobStatus
    status_reason: str
    dataset_id: int | None
    dataset_name: str | None
    dataset_version: str | None
    held_out_by: int | None
    """The training job whose held-out rows these are."""
    num_rows: int | None
    """Rows that were measured."""
    headline: ScoreRead | None
    """The score that stands for it."""
    scores: list[ScoreRead]
    owner: str | None = None
    visibility: Visibility = Visibility.PRIVATE
    created_at: datetime
    ended_at: datetime | None


class ClassScore(BaseModel):
    """How one label was recognised."""

    label: str
    precision: float
    recall: float
    f1: float
    num_samples: int


class EvaluationDetail(EvaluationRead):
    """All of an evaluation but its samples."""

    metrics: list[str]
    reason: str
    """Why these were measured."""
    settings: dict[str, Any]
    per_class: list[ClassScore]
    labels: list[str]
    confusion: list[list[int]]
    """A row for each right label, a column for each answer; the last for answers that are no label."""
    skipped: list[dict[str, str]]
    """Benchmarks that did not run: `{task, why}`."""
    latency: dict[str, Any] | None
    judge: dict[str, Any] | None
    plots: list[str]
    """Pictures among the job's artifacts, as `evaluation/<name>.svg` and `.png`."""


class SampleRead(BaseModel):
    """One row: what was asked, expected and answered."""

    row: int
    """Of the dataset, from 0."""
    prompt: str | None = None
    """Null for rows whose likelihood alone was measured."""
    expected: str | None = None
    answer: str | None = None
    right: bool | None = None
    label: str | None = None
    said: str | None = None
    """The label that the answer means; null where it is none."""
    judge: dict[str, Any] | None = None
    """The judge's `score` and `words`."""
    stats: dict[str, list[float]] = Field(default_factory=dict)
    """What is counted of it, by metric."""


class EvaluationsToCompare(Wire):
    evaluations: list[int] = Field(min_length=2, max_length=8)
    """Their numbers; the others are compared with the first."""


class DifferenceRead(BaseModel):
    """An evaluation's score less the first one's, on the samples that both have."""

    value: float | None
    low: float | None
    high: float | None
    p_value: float | None
    """How likely a difference this large is between models that are equally good."""
    test: str
    """`paired bootstrap`, `McNemar`, or empty where the samples are not the same."""
    num_samples: int
    significant: bool
    words: str
    """`significantly better`, `significantly worse`, or `not significant`, with the samples."""


class ComparedScore(BaseModel):
    """One score of each compared evaluation, in their order."""

    name: str
    title: str
    unit: str
    higher_is_better: bool
    scores: list[ScoreRead | None]
    differences: list[DifferenceRead | None]
    """Null for the first, and where there is nothing to compare."""


class EvaluationComparison(BaseModel):
    evaluations: list[EvaluationRead]
    scores: list[ComparedScore]


class BattleCreate(Wire):
    """A question to two models, whose names stay hidden until the vote."""

    models: list[str] = Field(min_length=2, max_length=8, examples=[["job:7", "HuggingFaceTB/SmolLM2-135M-Instruct"]])
    """Two of them are drawn."""
    prompt: str | None = Field(None, min_length=1, max_length=50_000)
    dataset_id: int | None = Field(None, ge=1, lt=2**63)
    """Take the next question of this dataset instead of `prompt`."""
    system: str | None = Field(None, max_length=20_000)
    max_tokens: int = Field(256, ge=1, le=8192)
    temperature: float = Field(0.7, ge=0.0, le=5.0)


class BattleVote(Wire):
    vote: Vote


class BattleRead(BaseModel):
    """A battle. Before the vote nobody learns who is who."""

    id: int
    prompt: str
    dataset_id: int | None
    row_number: int | None
    """Of the dataset, from 1."""
    answer_a: str | None
    answer_b: str | None
    vote: Vote | None
    model_a: str | None
    """Null before the vote."""
    model_b: str | None
    owner: str | None = None
    created_at: datetime
    voted_at: datetime | None


class ArenaRating(BaseModel):
    """How strong a model is, by the votes (Bradley-Terry, on the scale of Elo; the mean is 1000)."""

    model: str
    rating: float
    low: float | None
    """Lower end of the 95 % interval, by bootstrap over the battles; null while there are too few for one."""
    high: float | None
    battles: int
    wins: int
    losses: int
    ties: int
    """With those in which both were bad."""
