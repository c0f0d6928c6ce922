"""Evaluation: how well a model does on rows that it has not learned, with the uncertainty of every score."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator

from tunesmith.core.acting import Scope
from tunesmith.core.credentials import of_job
from tunesmith.core.errors import InvalidInput
from tunesmith.core.job_spec import JobSpec
from tunesmith.core.recipe import DataContract, Output, Recipe
from tunesmith.recipes.checking import check_params
from tunesmith.recipes.evaluate.result import on_completed
from tunesmith.recipes.hyperparameters import about
from tunesmith.recipes.plans import Facts, Plan
from tunesmith.recipes.shapes import CAUSAL_LM_SHAPES

Metric = Literal[
    "perplexity", "exact_match", "numeric_match", "token_f1", "bleu", "chrf", "rouge", "classification", "entities",
    "latency", "judge",
]  # fmt: skip
"""A name may stand for several scores: `perplexity` brings the token accuracy with it, `rouge` its three kinds."""
Task = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.,-]*$")]
HEADLINES = ("accuracy", "r2", "numeric_match", "entity_f1", "judge", "rougeL", "exact_match", "perplexity")
"""The first of these that an evaluation has stands for it."""
INSTALL_BENCHMARKS = "Benchmarks need lm-eval; install it on the server with: pip install 'tunesmith[benchmarks]'"
DEFAULT_CRITERIA = "Correctness, completeness, and whether it does what the question asks for, and no more."
JUDGE_PROMPT = (
    "You judge the answer of an assistant.\n\nCriteria: {criteria}\n\nQuestion:\n{question}\n\n"
    "Reference answer:\n{reference}\n\nAnswer to judge:\n{answer}\n\n"
    "Give a whole number from 1 (useless) to 5 (perfect). End with one line of this form: Score: <number>"
)


class HeldOut(BaseModel):
    """Which rows a training job held out: found again by its own settings."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    job_id: int = Field(0, ge=0, title="Job whose rows")
    """The training job whose held-out rows are taken; 0 takes all rows of the dataset."""
    share: float = Field(0.0, ge=0.0, lt=1.0, title="Its held-out share")
    """The job's `validation_split`."""
    seed: int = Field(42, ge=0, le=2**32 - 1, title="Its seed")
    """The job's seed."""
    max_length: int = Field(1024, ge=16, le=1_048_576, title="Its longest row")
    """The job's `max_length`, tokens."""
    train_on: Literal["completions", "all"] = Field("completions", title="It learned from")
    """What the job learned from."""
    split_by: Literal["file", "content", "rows", "as_read"] = Field("as_read", title="It held out by")
    """The job's `split_by`; `as_read` for a job of before that setting, which drew from the rows that were left after reading."""
    skip_bad_rows: bool = Field(False, title="It skipped bad rows")
    """The job's `skip_bad_rows`."""


class Judge(BaseModel):
    """Another model that reads every answer and gives it a number from 1 to 5."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    base_url: str = Field(
        "", max_length=2000, title="Judge's address", json_schema_extra={"examples": ["https://api.openai.com/v1"]}
    )
    """An OpenAI-compatible endpoint, up to `/v1`. Empty: no judge. Its key is the server's TUNESMITH_JUDGE_API_KEY."""
    model: str = Field("", max_length=200, title="Judge's model")
    """The judge's name at that endpoint."""
    criteria: str = Field(DEFAULT_CRITERIA, max_length=10_000)
    """What a good answer is."""
    prompt: str = Field(JUDGE_PROMPT, max_length=20_000)
    """What the judge is told; `{criteria}`, `{question}`, `{reference}` and `{answer}` are filled in."""
    public_only: bool = False
    """Refuse addresses inside the network; set by the server for those who are not its administrators."""

    @field_validator("prompt")
    @classmethod
    def _holds_the_answer(cls, text: str) -> str:
        if "{answer}" not in text:
            raise ValueError("the prompt must hold {answer}, or there is nothing to judge")
        return text


class EvaluateParams(BaseModel):
    """Settings of the `evaluate` recipe."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    metrics: list[Metric] = Field([], json_schema_extra=about("basic"))
    """What to measure; empty chooses by what the answers are: labels, numbers, tags, or free text."""
    max_samples: int = Field(
        500, ge=1, le=1_000_000, title="Most rows", json_schema_extra=about("data", "rows", usual=(100, 2000))
    )
    """Rows whose likelihood is measured (perplexity, token accuracy); chosen by `seed`, the same for every model."""
    max_prompts: int = Field(
        100, ge=0, le=100_000, title="Number of questions", json_schema_extra=about("data", "rows", usual=(50, 500))
    )
    """Rows that the model answers, of those above; 0 generates nothing."""
    max_new_tokens: int = Field(
        256, ge=1, le=32_768, title="Maximum answer length", json_schema_extra=about("data", "tokens", usual=(32, 512))
    )
    """An answer is cut there."""
    max_length: int = Field(
        2048,
        ge=16,
        le=1_048_576,
        title="Maximum sequence length",
        json_schema_extra=about("data", "tokens", usual=(256, 8192)),
    )
    """Longer rows are cut at the end; never more than the model reads."""
    batch_size: int = Field(8, ge=1, le=1024, json_schema_extra=about("batching", "rows", usual=(4, 64)))
    """Rows at a time."""
    latency_prompts: int = Field(
        5, ge=0, le=1000, title="Answers timed alone", json_schema_extra=about("batching", "rows", usual=(5, 50))
    )
    """Prompts answered one at a time, for the time to the first token; 0 times nothing."""
    seed: int = Field(42, ge=0, le=2**32 - 1, json_schema_extra=about("data"))
    """Chooses the rows, and the resamples of the intervals."""
    system_prompt: str | None = Field(None, max_length=20_000, json_schema_extra=about("data"))
    """Put before every conversation that has no system message."""
    bf16: bool | None = Field(None, title="bfloat16", json_schema_extra=about("precision"))
    """bfloat16 compute; absent means on GPUs only, so that scores are the same on every processor."""
    benchmarks: list[Task] = Field([], max_length=100, json_schema_extra=about("basic"))
    """Tasks of lm-eval by name, such as `hellaswag`; those whose data is not here are skipped, and named."""
    benchmark_limit: int | None = Field(
        100, ge=1, le=1_000_000, title="Most rows of a benchmark", json_schema_extra=about("data", "rows")
    )
    """Rows of each benchmark; null takes all."""
    judge: Judge = Field(Judge(), json_schema_extra=about("basic"))
    """Another model that judges the answers."""
    skip_bad_rows: bool = Field(False, title="Skip bad rows", json_schema_extra=about("data"))
    """Measure without the rows that cannot be used, and name them in the job; otherwise data with errors is refused."""
    target: str | None = Field(None, max_length=500, title="Column of the answers", json_schema_extra=about("data"))
    """Of models that do not chat: the column with the right answers; absent takes the one that the data or the model names."""
    held_out: HeldOut = Field(HeldOut(), json_schema_extra=about("data"))
    """The rows that a training job held out; filled in by the server."""

    @field_validator("benchmarks")
    @classmethod
    def _harness_is_here(cls, names: list[str]) -> list[str]:
        if names and find_spec("lm_eval") is None:
            raise ValueError(INSTALL_BENCHMARKS)
        return list(dict.fromkeys(names))


KEY_VARIABLE = "TUNESMITH_JUDGE_API_KEY"
OPENAI = "https://api.openai.com/v1"


def credentials(spec: JobSpec) -> set[str]:
    """What every job needs, and the judge's key for a judge at the address that the administrator has shown it."""
    base_url = (spec.params.get("judge") or {}).get("base_url", "")
    known = os.environ.get("TUNESMITH_JUDGE_URL", OPENAI)
    is_for_it = base_url and urlsplit(base_url)[:2] == urlsplit(known)[:2]
    return of_job(spec) | ({KEY_VARIABLE} if is_for_it else set())


LABELLED_SHAPES = ("text_label", "tabular")
"""Rows that models are measured on that do not chat."""


def plan(recipe: Recipe, given: Mapping[str, Any], facts: Facts, _auto: bool) -> Plan:
    """Checks that the rows are such as the model can be measured on. Raises `InvalidInput`."""
    settings = Plan(check_params(recipe, dict(given)).model_dump(mode="json"), {}, {})
    predicts = facts.kind is not None and "predict" in facts.kind.engines
    data = facts.dataset
    if data is None:
        if predicts:
            raise wrong_rows("A model that does not chat is measured on rows with the right answers: give a dataset.")
        return settings
    title = facts.kind.title if facts.kind else "model"
    asks_rows = predicts and facts.kind is not None and facts.kind.tasks[0].startswith("tabular")
    if predicts and not asks_rows and data.shape != "text_label":
        raise wrong_rows(f"A {title.lower()} is measured on rows of shape text_label; these are {data.shape}.")
    if not predicts and data.shape in LABELLED_SHAPES:
        shapes = ", ".join(CAUSAL_LM_SHAPES)
        raise wrong_rows(f"A language model is measured on rows of shape {shapes}; these are {data.shape}.")
    return settings


def wrong_rows(message: str) -> InvalidInput:
    details = [{"loc": "dataset_id", "message": message}]
    return InvalidInput(message, hint="Choose another dataset, or map its columns.", details=details)


RECIPE = Recipe(
    name="evaluate",
    title="Evaluation",
    sentence="Measures a model on rows that it has not learned, with the uncertainty of every score.",
    params=EvaluateParams,
    train="tunesmith.recipes.evaluate.train:train",
    permission=Scope.TRAIN,
    kind="evaluation",
    credentials=credentials,
    tasks=("text-generation",),
    data=DataContract(shapes=(*CAUSAL_LM_SHAPES, *LABELLED_SHAPES), is_needed=False, falls_back_to_held_out=True),
    outputs=(Output(type="scores", folder="evaluation"),),
    base_tasks=(),
    plan=plan,
    on_completed=on_completed,
)
