"""Registered models, their versions and aliases, what happened to them, and how much each is used."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Index, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from tunesmith.storage.tables import Base, BigId, JsonValue, Owned, UtcDateTime


class RegisteredRow(Owned, Base):
    """A name under which versions are kept. Its versions are seen by whom it is seen by."""

    __tablename__ = "registered_models"
    noun = "registered model"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    name: Mapped[str] = mapped_column(String(120), unique=True)
    description: Mapped[str] = mapped_column(Text, default="")
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)

    __table_args__ = ({"sqlite_autoincrement": True},)


class VersionRow(Owned, Base):
    """One version. What it is never changes; only stage, tags, notes and scores do."""

    __tablename__ = "model_versions"
    noun = "model version"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    name: Mapped[str] = mapped_column(String(120))
    version: Mapped[str] = mapped_column(String(40))
    """Semantic: `1.2.0`."""
    number: Mapped[int] = mapped_column(BigInteger)
    """The version as one number, for its place among the others."""
    kind: Mapped[str] = mapped_column(String(40))
    """The name of its `ModelKind`: `adapter`, `model`, `gguf`, `text-classifier` …"""
    framework: Mapped[str] = mapped_column(String(60))
    """`peft`, `transformers`, `llama.cpp` …"""
    job_id: Mapped[int | None] = mapped_column(BigId, index=True)
    base_model: Mapped[str | None] = mapped_column(String(500))
    """As the user knows it."""
    lineage: Mapped[dict[str, Any]] = mapped_column(JsonValue)
    """Job, method, dataset with its digest, base model with path and revision, code, and the version before."""
    architecture: Mapped[dict[str, Any]] = mapped_column(JsonValue)
    """family, num_layers, hidden_size, num_heads, num_kv_heads, vocab_size, context_length; task, and labels and inputs where it has
    any."""
    hyperparameters: Mapped[dict[str, Any]] = mapped_column(JsonValue)
    num_parameters: Mapped[int | None] = mapped_column(BigInteger)
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    files: Mapped[dict[str, Any]] = mapped_column(JsonValue)
    """Relative path → `{sha256, size_bytes}`."""
    digest: Mapped[str] = mapped_column(String(64))
    """SHA-256 over the sorted list of files."""
    metrics: Mapped[dict[str, Any]] = mapped_column(JsonValue)
    """Of the training."""
    scores: Mapped[dict[str, Any]] = mapped_column(JsonValue)
    """Of evaluations: name of the evaluation → its scores."""
    stage: Mapped[str] = mapped_column(String(12), default="none")
    tags: Mapped[list[str]] = mapped_column(JsonValue)
    notes: Mapped[str] = mapped_column(Text, default="")
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)

    __table_args__ = (
        UniqueConstraint("name", "version"),
        Index("ix_model_versions_order", "name", "number", "id"),
        {"sqlite_autoincrement": True},  # an id names a folder: it is never given twice
    )


class AliasRow(Base):
    """A name that can be moved from version to version."""

    __tablename__ = "model_aliases"

    name: Mapped[str] = mapped_column(String(120), primary_key=True)
    alias: Mapped[str] = mapped_column(String(60), primary_key=True)
    version_id: Mapped[int] = mapped_column(ForeignKey("model_versions.id"), index=True)
    before: Mapped[list[int]] = mapped_column(JsonValue)
    """Versions (ids) that it stood for before, the last one last."""
    moved_at: Mapped[datetime] = mapped_column(UtcDateTime)


class RegistryEventRow(Base):
    """What somebody did."""

    __tablename__ = "registry_events"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    name: Mapped[str] = mapped_column(String(120))
    version: Mapped[str | None] = mapped_column(String(40))
    event: Mapped[str] = mapped_column(String(20))
    """`registered`, `alias`, `stage`, `notes`, `tags`, `scores`, `deleted`, …"""
    details: Mapped[dict[str, Any]] = mapped_column(JsonValue)
    by: Mapped[str] = mapped_column(String(64))
    at: Mapped[datetime] = mapped_column(UtcDateTime)

    __table_args__ = (Index("ix_registry_events_name", "name", "id"), {"sqlite_autoincrement": True})


class UsageRow(Base):
    """Requests that one version answered within one hour."""

    __tablename__ = "model_usage"

    version_id: Mapped[int] = mapped_column(ForeignKey("model_versions.id", ondelete="CASCADE"), primary_key=True)
    hour: Mapped[datetime] = mapped_column(UtcDateTime, primary_key=True)
    requests: Mapped[int] = mapped_column(BigInteger)
    errors: Mapped[int] = mapped_column(BigInteger)
    tokens: Mapped[int] = mapped_column(BigInteger)
    latency_sum_s: Mapped[float]
