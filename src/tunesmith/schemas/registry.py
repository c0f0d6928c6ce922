"""The wire format of the registry: versions of models, their aliases and stages."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, Field

from tunesmith.schemas.common import Wire

Stage = Literal["none", "staging", "production", "archived"]
Kind = str
"""The name of a `ModelKind`: `adapter`, `model`, `gguf`, `text-classifier` …"""
Bump = Literal["major", "minor", "patch"]


class VersionRead(BaseModel):
    """One version of a registered model."""

    id: int
    name: str
    version: str
    """Semantic: `1.2.0`."""
    ref: str
    """`support-bot@1.2.0`: use it as `model` of a job, a chat or a deployment."""
    kind: Kind
    """An adapter over a base model, a whole model, or a GGUF file."""
    framework: str
    job_id: int | None
    base_model: str | None
    lineage: dict[str, Any]
    """Job, method, dataset with its digest, base model, code, and the version before."""
    architecture: dict[str, Any]
    """family, num_layers, hidden_size, num_heads, num_kv_heads, vocab_size, context_length."""
    hyperparameters: dict[str, Any]
    num_parameters: int | None
    size_bytes: int
    num_files: int
    digest: str
    """SHA-256 over the list of files."""
    metrics: dict[str, Any]
    """Of the training."""
    scores: dict[str, Any]
    """Of evaluations, by the evaluation's name."""
    numbers: dict[str, float]
    """Metrics and scores in one flat list: what searches, deltas and clean-ups go by."""
    left_out: list[str] = []
    """Files that came with it and are not kept: code, and formats that can run it."""
    stage: Stage
    tags: list[str]
    aliases: list[str]
    notes: str
    owner: str | None
    visibility: str
    created_at: datetime


class VersionFile(BaseModel):
    path: str
    size_bytes: int
    sha256: str


class VersionDetail(VersionRead):
    """With its files, and what uses it now."""

    files: list[VersionFile]
    used_by: list[str]
    signed: bool
    """Whether a signed manifest lies beside the files."""


class RegisteredRead(BaseModel):
    """A name with its versions in short."""

    id: int
    name: str
    description: str
    owner: str | None
    visibility: str
    created_at: datetime
    num_versions: int
    latest: VersionRead | None
    aliases: dict[str, str]
    """Alias → version."""
    trend_metric: str | None
    """The metric that most versions have, by which `trend` is."""
    trend: list[float | None]
    """That metric from the lowest version to the highest."""
    size_bytes: int


class RegisteredUpdate(Wire):
    description: str | None = Field(None, max_length=5000)
    visibility: Literal["private", "team"] | None = None
    """Of the name with all its versions."""


class VersionUpdate(Wire):
    """What may change of a version."""

    notes: str | None = Field(None, max_length=20_000)
    tags: list[str] | None = Field(None, max_length=50)


class StageSet(Wire):
    stage: Stage
    force: bool = False
    """Past the regression gate: administrators only, and it stands in the audit log."""


class AliasSet(Wire):
    version: str = Field(max_length=60, examples=["1.2.0"])
    """A version, or another alias."""
    force: bool = False
    """Past the regression gate: administrators only, and it stands in the audit log."""


class AliasRead(BaseModel):
    name: str
    alias: str
    version: str
    version_id: int
    moved_at: datetime
    can_roll_back: bool


class ImportCreate(Wire):
    """A model from outside: a folder or a GGUF file on the server, or what a completed job has made."""

    path: str | None = Field(None, max_length=4096, examples=["my-model"])
    """Below the home folder's `models`, or in a folder that the administrator allows (TUNESMITH_MODEL_DIRS)."""
    job_id: int | None = Field(None, ge=1, lt=2**63)
    name: str | None = Field(None, max_length=120, examples=["support-bot"])
    """The folder's or the job's when left out."""
    version: str | None = Field(None, max_length=40, examples=["2.0.0"])
    bump: Bump = "minor"
    base_model: str | None = Field(None, max_length=500)
    """Of an adapter; taken from its configuration when left out."""
    notes: str = Field("", max_length=20_000)
    tags: list[str] = Field(default_factory=list, max_length=50)


class Difference(BaseModel):
    """One thing in which versions differ."""

    field: str
    values: list[Any]
    """In the order of the versions; null where one has none."""
    differs: bool
    delta: float | None = None
    """Of numbers of two versions: the last less the first."""
    better: bool | None = None
    """Whether that is for the better; null where it is not known or there is no change."""
    best: int | None = None
    """Of numbers: which version (from 0) has the best."""


class VersionComparison(BaseModel):
    """Versions side by side."""

    versions: list[VersionRead]
    metrics: list[Difference]
    hyperparameters: list[Difference]
    lineage: list[Difference]
    architecture: list[Difference]
    files: list[Difference]
    """SHA-256 of each file."""


class ChangelogEntry(BaseModel):
    """What one version changed against the one before."""

    version: str
    ref: str
    before: str | None
    """None for the first."""
    created_at: datetime
    owner: str | None
    stage: Stage
    aliases: list[str]
    notes: str
    metrics: list[Difference]
    changes: list[Difference]
    """Dataset, base model, method and hyperparameters that are others."""


class RegistryEvent(BaseModel):
    """What somebody did."""

    id: int
    name: str
    version: str | None
    event: str
    details: dict[str, Any]
    by: str
    at: datetime


class UsagePoint(BaseModel):
    hour: datetime
    requests: int
    errors: int
    tokens: int
    mean_latency_s: float | None


class VersionUsage(BaseModel):
    """How much a version is used."""

    version: str
    requests: int
    errors: int
    tokens: int
    mean_latency_s: float | None
    last_used_at: datetime | None
    hours: list[UsagePoint]


class Damage(BaseModel):
    """A version with files that are not as they were registered."""

    ref: str
    files: list[str]
    repaired: list[str] = []
    """Those that were put right from where the same content was still to be found."""


class VerifyRequest(Wire):
    refs: list[str] = Field(default_factory=list, max_length=1000, examples=[["support-bot@1.2.0"]])
    """All that may be seen when empty."""
    repair: bool = False
    """Put damaged files right from where the same content is still to be found."""


class Verified(BaseModel):
    """What reading every byte has shown."""

    versions: int
    files: int
    size_bytes: int
    damaged: list[Damage]
    """What could not be repaired too; empty when all is well."""


class RegistryHealth(BaseModel):
    """The registry at a glance. Damage is what the last check of each file has shown: `verify` reads every byte."""

    names: int
    versions: int
    size_bytes: int
    """Of all versions, as if each had its own files."""
    stored_bytes: int
    """On the disk: each content once."""
    orphan_files: int
    """Contents that no version has; removed when they are a day old."""
    orphan_bytes: int
    damaged: list[Damage]
    without_scores: list[str]
    """Versions that were never evaluated."""
    stale_aliases: list[str]
    """Aliases that stand for an archived version."""
    unused: int
    """Versions that have answered no request yet."""


class CleanPolicy(Wire):
    """Which versions may go. A version goes when all that is given applies to it; nothing given: none goes."""

    name: str | None = Field(None, max_length=120)
    """Only of this model."""
    keep_last: int | None = Field(None, ge=1, le=10_000)
    """Those after so many of the highest of each name."""
    older_than_days: float | None = Field(None, ge=0, le=36_500)
    metric: str | None = Field(None, max_length=200, examples=["eval_loss>1.5"])
    """A condition on a metric."""
    stage: Stage | None = None
    dry_run: bool = True
    """Say what would go, and delete nothing."""


class CleanItem(BaseModel):
    ref: str
    size_bytes: int
    created_at: datetime


class KeptItem(BaseModel):
    ref: str
    why: str


class Cleaned(BaseModel):
    """What went, or would go, and what stays although the policy applies to it."""

    dry_run: bool
    removed: list[CleanItem]
    kept: list[KeptItem]
    freed_bytes: int
    """Of files that no other version has; they go from the disk within a day."""


class Signature(Wire):
    """A signed manifest in the layout of OpenSSF model signing."""

    bundle: dict[str, Any]
    """A Sigstore bundle: a DSSE envelope around an in-toto statement."""


class SignatureCheck(BaseModel):
    ok: bool
    message: str
    key_id: str | None = None
