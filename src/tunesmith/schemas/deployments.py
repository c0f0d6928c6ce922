"""Deployments on the wire: what is deployed where, with which share of the traffic, and how it does."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tunesmith.schemas.common import Wire
from tunesmith.schemas.jobs import ChatMessage

TargetName = Literal["local", "ollama", "lmstudio", "huggingface", "cloud"]
EngineName = Literal["auto", "llama.cpp", "vllm", "transformers"]
Strategy = Literal["replace", "canary", "ab", "shadow"]
DeploymentStatus = Literal["deploying", "ready", "degraded", "failed", "stopped"]
RevisionRole = Literal["live", "candidate", "shadow", "retired"]
RevisionStatus = Literal["pending", "starting", "ready", "failed", "retired"]
Judged = Literal["error_rate", "latency", "rating"]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Percent = Annotated[float, Field(ge=0.0, le=100.0)]


class Watch(Wire):
    """When a live model counts as ill. Over `window_s`, and only with `min_requests` in it."""

    health_every_s: float = Field(5.0, ge=1.0, le=3600.0)
    """Between two looks at each process, seconds."""
    window_s: float = Field(300.0, ge=10.0, le=86_400.0)
    min_requests: int = Field(20, ge=1, le=100_000)
    max_error_rate: Share = 0.2
    """Share of requests that fail."""
    max_p95_latency_s: float | None = Field(None, gt=0.0)
    """Time of the slowest twentieth, seconds; absent means that slowness alone is no illness."""
    max_drift: float = Field(0.25, gt=0.0)
    """Population stability index of the input's length against the training data from which a warning is given."""


class LocalSettings(Wire):
    """How a model is served on this machine."""

    engine: EngineName = "auto"
    """`auto`: vLLM with an NVIDIA GPU and vLLM installed, else llama.cpp, else transformers."""
    quantization: Literal["auto", "q8_0", "q4_k_m", "q5_k_m", "q6_k", "q4_0", "f16", "bf16"] = "auto"
    """Number format for llama.cpp: `auto` is f16 for models under a billion weights, which suffer most, and q8_0 for others.
    Ignored for a GGUF file and by the other engines."""
    context_tokens: int = Field(4096, ge=128, le=1_048_576)
    """Of one request, prompt and answer together; no more than the model has."""
    max_concurrent: int = Field(4, ge=1, le=256)
    """Requests computed at the same time."""
    queue_limit: int = Field(64, ge=0, le=10_000)
    """Requests that may wait besides; the next one is answered with 429."""
    requests_per_minute: int | None = Field(None, ge=1, le=1_000_000)
    """Of each account or key; absent means no limit."""
    cache_s: float = Field(0.0, ge=0.0, le=86_400.0)
    """How long answers to the same request are kept, where it asks for temperature 0 or a seed, seconds; 0 means not."""
    threads: int | None = Field(None, ge=1, le=1024)
    """CPU threads; all cores but one when absent."""
    record_conversations: bool = False
    """Keep what is asked and answered, to look at and to train on."""
    watch: Watch = Field(default_factory=Watch)


class SamplingDefaults(Wire):
    """Used where a request does not say otherwise: the playground's settings."""

    temperature: float | None = Field(None, ge=0.0, le=5.0)
    top_p: float | None = Field(None, gt=0.0, le=1.0)
    top_k: int | None = Field(None, ge=1, le=10_000)
    repetition_penalty: float | None = Field(None, gt=0.0, le=5.0)
    max_tokens: int | None = Field(None, ge=1, le=32_768)
    seed: int | None = Field(None, ge=0, le=2**32 - 1)
    stop: list[str] = Field(default_factory=list, max_length=16)


class DeploymentCreate(Wire):
    """A model to put in use."""

    name: str = Field(pattern=r"^[a-z0-9]([a-z0-9.-]{0,78}[a-z0-9])?$", examples=["support-bot"])
    """Name used in API calls as `model`: small letters, digits, dots and dashes."""
    model: str = Field(min_length=1, max_length=500, examples=["support-bot@champion", "job:7"])
    target: TargetName = "local"
    settings: dict[str, Any] = Field(default_factory=dict)
    """Of the target; for `local` see LocalSettings."""
    system_prompt: str = Field("", max_length=20_000)
    """Put before a conversation that has none of its own."""
    sampling: SamplingDefaults = Field(default_factory=SamplingDefaults)
    auto_rollback: bool = True
    """Go back to the model before when a new one fails."""
    timeout_s: float = Field(600.0, ge=5.0, le=86_400.0)
    """Longest that getting ready may take, seconds."""


def suggested_name(model: str) -> str:
    """A deployment's name: `support-bot` of `support-bot@1.2.0`, `job-7` of `job:7`, the last part of a hub id."""
    plain = model.partition("@")[0].rpartition("/")[2].lower()
    letters = (letter if letter.isascii() and (letter.isalnum() or letter in ".-") else "-" for letter in plain)
    return "".join(letters).strip("-.")[:80].strip("-.")


class DeploymentUpdate(Wire):
    """What is not named stays. Settings are replaced key by key."""

    settings: dict[str, Any] | None = None
    system_prompt: str | None = Field(None, max_length=20_000)
    sampling: SamplingDefaults | None = None
    auto_rollback: bool | None = None
    timeout_s: float | None = Field(None, ge=5.0, le=86_400.0)
    visibility: Literal["private", "team"] | None = None


class Rollout(Wire):
    """Another model for a deployment, and how it takes over."""

    model: str = Field(min_length=1, max_length=500, examples=["support-bot@1.1.0"])
    strategy: Strategy = "replace"
    """`replace`: at once when it is ready. `canary`: step by step. `ab`: at a fixed share until one is better. `shadow`:
    gets copies, and nobody sees its answers."""
    steps: list[Percent] = Field(default_factory=lambda: [5.0, 25.0, 50.0], min_length=1, max_length=20)
    """Shares of a canary before it gets everything, in per cent; of `ab` and `shadow` the first."""
    step_s: float = Field(300.0, ge=0.0, le=7 * 86_400.0)
    """Least time at each step, seconds."""
    min_requests: int = Field(50, ge=1, le=1_000_000)
    """Least requests of each variant before anything is decided."""
    metric: Judged = "error_rate"
    """What an A/B test is decided by; a canary is rolled back for any of them."""
    max_error_rate: Share = 0.2
    """A canary with more failures than this goes back, whatever the live model does."""
    max_slower: float = Field(0.5, ge=0.0)
    """How much slower the slowest twentieth may be: 0.5 is half as long again."""
    significance: float = Field(0.05, gt=0.0, lt=0.5)
    """Differences with a p-value under this count."""
    auto: bool = True
    """Decide without being asked."""

    @model_validator(mode="after")
    def _rising(self) -> Rollout:
        if self.strategy == "canary" and self.steps != sorted(set(self.steps)):
            raise ValueError("steps must rise")
        return self


class VariantStats(BaseModel):
    """How one model of a deployment does, over its latest requests."""

    requests: int = 0
    errors: int = 0
    error_rate: float | None = None
    p50_latency_s: float | None = None
    p95_latency_s: float | None = None
    p50_first_token_s: float | None = None
    tokens_per_s: float | None = None
    """Mean over requests, after nothing but the request's whole time."""
    up: int = 0
    down: int = 0
    cached: int = 0


class Comparison(BaseModel):
    """A candidate against the live model."""

    metric: Judged
    live: float | None
    candidate: float | None
    p_value: float | None
    significant: bool
    words: str


class RevisionRead(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: int
    number: int
    model: str
    version_id: int | None
    role: RevisionRole
    percent: float
    status: RevisionStatus
    reason: str
    plan: dict[str, Any]
    step: int
    result: dict[str, Any]
    created_at: datetime
    ready_at: datetime | None
    ended_at: datetime | None
    stats: VariantStats | None = None


class DeploymentRead(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: int
    name: str
    target: TargetName
    wanted: Literal["running", "stopped"]
    status: DeploymentStatus
    reason: str
    settings: dict[str, Any]
    sampling: dict[str, Any]
    system_prompt: str
    auto_rollback: bool
    timeout_s: float
    created_at: datetime
    updated_at: datetime
    owner: str | None
    visibility: str
    model: str | None = None
    """What is live."""
    address: str = ""
    """Where it is used: for `local`, what an OpenAI client takes as its base URL, or for a model that does not chat, what Hugging
    Face's client takes as the model."""
    task: str | None = None
    """What the model does where it does not chat, such as `text-classification`."""
    revisions: list[RevisionRead] = []
    """All but the retired ones, and the one before the live."""


class HistoryRead(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: int
    at: datetime
    kind: str
    message: str
    by: str | None
    revision: int | None


class Drift(BaseModel):
    """How what people send differs from the training data."""

    requests: int
    length_psi: float | None
    """Population stability index of the input's length in tenths of the training data: under 0.1 alike, over 0.25 different."""
    unknown_words: float | None
    """Share of words that the training data has not, 0 to 1."""
    expected_unknown_words: float | None
    """The same share between two halves of the training data."""
    drifted: bool
    words: str


class Minute(BaseModel):
    """One piece of time for the charts."""

    at: datetime
    requests: int
    errors: int
    p50_latency_s: float | None
    p95_latency_s: float | None
    tokens: int


class DeploymentMetrics(BaseModel):
    window_s: float
    total: VariantStats
    variants: dict[int, VariantStats]
    """By the revision's number."""
    comparisons: dict[int, list[Comparison]]
    """Of each candidate with the live model."""
    drift: Drift | None
    series: list[Minute]


class RequestRead(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: int
    uid: str
    at: datetime
    revision_id: int
    path: str
    status: int
    latency_s: float
    first_token_s: float | None
    prompt_tokens: int | None
    completion_tokens: int | None
    cached: bool
    shadow: bool
    caller: str
    rating: str | None
    messages: list[Any] | None
    answer: str | None


class RequestRating(Wire):
    verdict: Literal["up", "down"] | None
    """Null takes it back."""


class ToDataset(Wire):
    """Conversations to train on."""

    name: str = Field(min_length=1, max_length=200)
    rating: Literal["up", "any"] = "up"
    """Only those that somebody liked, or all but those that somebody disliked."""
    limit: int = Field(10_000, ge=1, le=1_000_000)


class TargetRead(BaseModel):
    name: str
    title: str
    sentence: str
    why_not: str
    """Why it cannot be used here; empty when it can."""
    settings: dict[str, Any]
    """JSON schema of its settings."""


class GatewayProblem(BaseModel):
    """What is wrong, as OpenAI's clients read it."""

    message: str
    type: str
    code: str
    param: str | None
    details: list[dict[str, Any]]


class GatewayError(BaseModel):
    error: GatewayProblem


class GenerateRequest(Wire):
    """The short way to ask: `/generate`."""

    model: str = Field(max_length=80)
    """A deployment's name."""
    prompt: str = Field("", max_length=2_000_000)
    messages: list[ChatMessage] = Field(default_factory=list, max_length=500)
    """A conversation in place of a prompt."""
    max_tokens: int | None = Field(None, ge=1, le=32_768)
    temperature: float | None = Field(None, ge=0.0, le=5.0)
    seed: int | None = Field(None, ge=0, le=2**32 - 1)
    stop: list[str] = Field(default_factory=list, max_length=16)


class GenerateAnswer(BaseModel):
    model: str
    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
