"""Models on the wire: base models at hand, models that jobs have made, models of the hub, and what people think of them."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, Field

from tunesmith.schemas.common import Wire
from tunesmith.schemas.jobs import ChatMessage

Category = Literal[
    "text-generation",
    "image-text-to-text",
    "text-classification",
    "token-classification",
    "sentence-similarity",
    "feature-extraction",
    "summarization",
    "translation",
    "automatic-speech-recognition",
    "text-to-speech",
    "text-to-image",
]
"""What a model is for, as the hub calls it."""
Purpose = Literal["text-generation", "code", "instruction-following", "conversational", "multimodal", "compact"]
"""What a language model is good for, told from its name, its tags and its size; a model can be of several."""
UseCase = Literal[
    "chat", "code", "classification", "extraction", "summarising", "reasoning", "embedding", "multimodal", "writing"
]
"""What somebody wants a model for."""
Way = Literal["weights", "inference", "lora", "qlora", "full"]
"""What may be done with a model, as far as memory is concerned."""
DownloadStatus = Literal["queued", "running", "completed", "failed", "cancelled"]
Size = Literal["under-500m", "500m-2b", "2b-5b", "5b-10b", "over-10b"]
"""How many weights."""
HubSort = Literal["trending", "downloads", "likes", "updated"]
ModelSort = Literal["newest", "name", "size", "score"]
Verdict = Literal["up", "down"]


class MemoryNeed(BaseModel):
    """What training one model by one method takes of this machine: one row at a time, at least."""

    method: str
    memory_bytes: int
    available_bytes: int
    """Of one GPU, or of the machine."""
    device: str
    """`cpu` or `cuda`."""
    fit: Literal["fits", "tight", "too_large", "unavailable"]
    """`tight` is over four fifths of the memory; `unavailable` is a method that cannot run here."""
    why_not: str = ""
    """Why the method cannot run here."""
    estimated: bool = False
    """From the number of weights alone, because the configuration is not here."""


class MemoryPart(BaseModel):
    """One term of the sum."""

    name: str
    """`weights`, `gradients`, `optimizer`, `activations`, `logits`, `kv_cache` or `process`."""
    title: str
    bytes: int
    sum: str
    """How it is reckoned: `134,515,008 weights × 2 bytes`."""


class MemoryUse(BaseModel):
    """What one way of using a model takes of this machine, with the arithmetic."""

    way: Way
    title: str
    memory_bytes: int
    available_bytes: int
    device: str
    """`cpu` or `cuda`."""
    fit: Literal["fits", "tight", "too_large", "unavailable"]
    why_not: str = ""
    parts: list[MemoryPart]
    """Their bytes add up to `memory_bytes`."""
    sentence: str
    """The same in words."""


class LicenceRead(BaseModel):
    """What a licence allows, in short. The licence's own text decides."""

    key: str
    """As the hub writes it, such as `apache-2.0`; empty when the model names none."""
    title: str
    commercial: Literal["yes", "no", "conditions", "unknown"]
    sentence: str
    url: str = ""


class ModelCheck(BaseModel):
    """Whether a model can be used here, before anything is fetched."""

    name: str
    revision: str | None
    """The commit on the hub; null when the hub was not asked or did not say."""
    is_at_hand: bool
    source: str | None
    """Where it lies: `starter`, `hub_cache`, `local`, `model_dir` or `job`; null when it is not here."""
    is_reachable: bool | None
    """Whether the hub has it and gives it to us; null when the hub was not asked."""
    gated: bool | None
    """Whether its terms have to be accepted on the hub; null when that is not known."""
    has_token: bool
    """Whether HF_TOKEN, or a login of the hub's own tool, is set."""
    hub_sentence: str
    format: Literal["safetensors", "gguf", "unsafe", "unknown"]
    """`unsafe` is a format that can run code when it is read."""
    num_parameters: int | None
    architecture: str | None
    context_length: int | None
    download_bytes: int | None
    """What would be fetched; null when it is not known, 0 when all is here."""
    disk_free_bytes: int
    has_disk: bool | None
    licence: LicenceRead
    is_estimated: bool
    """Whether the sums rest on the number of weights alone."""
    uses: list[MemoryUse]
    """Empty when the number of weights is not known."""
    verdict: str
    """All of it in one sentence."""


class CategoryCount(BaseModel):
    """One category or provider, and how many models of it there are."""

    key: str
    title: str
    description: str = ""
    num_at_hand: int
    num_on_hub: int | None = None
    """Null when the hub was not asked or did not answer."""
    is_at_least: bool = False
    """Whether the hub has more than were counted."""


class CategoryList(BaseModel):
    items: list[CategoryCount]
    hub_problem: str = ""


class Recommendation(BaseModel):
    """A model for a purpose."""

    name: str
    title: str
    reason: str
    """One sentence."""
    use_cases: list[UseCase]
    num_parameters: int
    licence: LicenceRead
    is_at_hand: bool
    is_trainable: bool
    """Whether a method of this server tunes models of its kind."""
    gated: bool
    uses: list[MemoryUse]
    best_way: Literal["full", "lora", "qlora", "inference"] | None
    """The most that this machine can do with it."""
    context_length: int
    collected: bool = False


class RecommendationList(BaseModel):
    items: list[Recommendation]
    left_out: int
    """How many of the curated models are too large for this machine."""
    hub_problem: str = ""
    """Why those that are not at hand cannot be fetched now."""


class DownloadCreate(Wire):
    """A model to fetch from the hub."""

    name: str = Field(max_length=200, examples=["HuggingFaceTB/SmolLM2-135M-Instruct"])
    revision: str | None = Field(None, max_length=200, pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]*$")
    """A branch, tag or commit; absent means the newest."""
    file: str | None = Field(None, max_length=200, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*\.gguf$")
    """One GGUF file, where the model has many."""


class DownloadRead(BaseModel):
    """A download, waiting, under way or over."""

    id: int
    name: str
    revision: str | None
    file: str | None
    status: DownloadStatus
    bytes_done: int
    bytes_total: int
    share: float
    """0 to 1."""
    bytes_per_s: float | None = None
    remaining_s: float | None = None
    files_done: int
    files_total: int
    current_file: str | None = None
    note: str = ""
    """What it waits for, such as the connection."""
    left_out: list[str] = []
    """Files of the model that are never fetched: code, and formats that can run it."""
    error: dict[str, Any] | None = None
    """`{error, message, hint, details}` of one that failed."""
    requested_by: str | None = None
    created_at: datetime
    ended_at: datetime | None = None


class ModelRead(BaseModel):
    """A model that can be trained on or talked to."""

    name: str
    """Use it as `model` of a new job or of a chat: a hub id, a local name, or `job:<id>`."""
    title: str = ""
    """For people: the job's name, or the name without its organisation."""
    kind: Literal["base", "tuned"]
    source: Literal["starter", "hub_cache", "local", "model_dir", "job"]
    """`model_dir` is a folder that the setting `model_dirs` names."""
    format: Literal["safetensors", "gguf"] = "safetensors"
    quantisation: str | None = None
    """Of a GGUF file, such as `Q4_K_M`."""
    categories: list[Purpose] = []
    job_id: int | None = None
    output_name: str | None = None
    """Folder-safe; the name that its download has."""
    base_model: str | None = None
    method: str | None = None
    dataset_name: str | None = None
    dataset_id: int | None = None
    num_parameters: int | None = None
    size_bytes: int | None = None
    architecture: str | None = None
    context_length: int | None = None
    licence: str | None = None
    metrics: dict[str, Any] = {}
    created_at: datetime | None = None
    memory: list[MemoryNeed] = []
    """To train it further, by method; empty where it is not known."""
    collected: bool = False
    """Whether it is in the collection."""
    task: str | None = None
    """What it does where it does not chat, such as `text-classification`."""


class FoundModel(BaseModel):
    """A model that a search found, here or on the hub."""

    name: str
    provider: str
    """The organisation; empty for a local name."""
    at_hand: bool
    """Whether it is on this machine already."""
    category: str | None
    """As the hub calls it."""
    categories: list[Purpose] = []
    description: str = ""
    """The beginning of its card."""
    licence: str | None
    num_parameters: int | None
    downloads: int | None = None
    """In the last thirty days."""
    likes: int | None = None
    updated_at: datetime | None = None
    gated: bool = False
    """Whether the hub gives it only to who has accepted its terms."""
    memory: list[MemoryNeed] = []
    why_not: str = ""
    """Why it cannot be trained here; empty when it can, as far as one can tell before it is fetched."""
    collected: bool = False


class ModelSearch(BaseModel):
    """Models at hand first, then the hub's."""

    items: list[FoundModel]
    next_cursor: int | None = None
    hub_problem: str = ""
    """Why the hub was not asked or did not answer; empty when it did."""


class ModelFile(BaseModel):
    path: str
    """Relative to the model's folder."""
    size_bytes: int
    sha256: str | None = None
    """Null until it has been computed; see `checksums`."""


class LineageStep(BaseModel):
    """One training on the way from the first base model."""

    job_id: int
    job_name: str
    method: str
    dataset_name: str | None
    dataset_id: int | None
    dataset_version: str | None
    """Digest of the rows."""
    num_rows: int | None
    model: str
    """What came out: `job:<id>`."""


class Lineage(BaseModel):
    """Where a model comes from and what was made of it."""

    root: str
    """The first base model."""
    steps: list[LineageStep]
    """From the root to this model."""
    used_by: list[str]
    """Models that were trained from this one."""


class Snippet(BaseModel):
    """How to use a model with one tool, ready to copy."""

    key: str
    title: str
    language: str
    text: str
    note: str = ""


class ModelDetail(BaseModel):
    """All that is known of a model at hand."""

    model: ModelRead
    lineage: Lineage
    files: list[ModelFile]
    versions: list[ModelRead]
    """Other models tuned from the same base, newest first."""
    validation: dict[str, Any] | None
    """The automatic check of a tuned model: files, format, loads, generates, sample."""
    card: str
    """README.md as it is; empty when there is none."""
    use: list[Snippet]


class CollectedCreate(Wire):
    """A model to find again."""

    name: str = Field(max_length=500, examples=["HuggingFaceTB/SmolLM2-135M-Instruct"])
    note: str = Field("", max_length=2000)


class CollectedUpdate(Wire):
    note: str = Field(max_length=2000)


class CollectedRead(BaseModel):
    """A model of the collection."""

    id: int
    name: str
    note: str
    at_hand: bool
    created_at: datetime


class RatingCreate(Wire):
    """What somebody thinks of one answer."""

    model: str = Field(min_length=1, max_length=500, examples=["job:7"])
    messages: list[ChatMessage] = Field(min_length=1, max_length=500)
    """The conversation before the answer."""
    answer: str = Field(max_length=200_000)
    verdict: Verdict
    note: str = Field("", max_length=5000)
    sampling: dict[str, Any] = Field(default_factory=dict, max_length=20)
    """How the answer was made: temperature and the like."""


class RatingUpdate(Wire):
    verdict: Verdict | None = None
    note: str | None = Field(None, max_length=5000)


class RatingRead(BaseModel):
    id: int
    model: str
    messages: list[ChatMessage]
    answer: str
    verdict: Verdict
    note: str
    sampling: dict[str, Any]
    created_at: datetime


class RatingCount(BaseModel):
    """What people think of one model."""

    model: str
    up: int
    down: int
    share_up: float
    """0 to 1."""
