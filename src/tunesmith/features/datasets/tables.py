"""Datasets, their immutable versions, and uploads that are under way."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Index, String, Text, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from tunesmith.storage.tables import Base, BigId, JsonValue, Owned, UtcDateTime


class DatasetRow(Owned, Base):
    """A name and what its newest version is."""

    __tablename__ = "datasets"
    noun = "dataset"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    name: Mapped[str] = mapped_column(String(220), unique=True)
    description: Mapped[str] = mapped_column(Text, default="")
    tags: Mapped[list[str]] = mapped_column(JsonValue, default=list)
    type: Mapped[str | None] = mapped_column(String(20))
    status: Mapped[str] = mapped_column(String(20))
    progress: Mapped[float] = mapped_column(default=0.0)
    error: Mapped[dict[str, Any] | None] = mapped_column(JsonValue)
    file_name: Mapped[str] = mapped_column(String(255))
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    num_rows: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")
    """Of the version that is shown; 0 until there is one."""
    sha256: Mapped[str] = mapped_column(String(64))
    task: Mapped[dict[str, Any] | None] = mapped_column(JsonValue)
    """What the processing has still to do: `{action, options, repairs, edits, base}`; null when nothing."""
    worker_id: Mapped[str | None] = mapped_column(String(80))
    worker_seen_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    version: Mapped[str | None] = mapped_column(String(64))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime)

    __table_args__ = (
        Index("ix_datasets_status", "status"),
        Index("ix_datasets_type", "type"),
        Index("ix_datasets_by_name", text("lower(name)"), "id"),
        Index("ix_datasets_by_rows", "num_rows", "id"),
        Index("ix_datasets_by_size", "size_bytes", "id"),
        {"sqlite_autoincrement": True},
    )


class DatasetVersionRow(Base):
    """One immutable version; its files are in `datasets/<id>/versions/<digest>/`."""

    __tablename__ = "dataset_versions"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    dataset_id: Mapped[int] = mapped_column(ForeignKey("datasets.id", ondelete="CASCADE"))
    digest: Mapped[str] = mapped_column(String(64))
    number: Mapped[int]
    origin: Mapped[str] = mapped_column(String(20))
    about: Mapped[dict[str, Any]] = mapped_column(JsonValue)
    """`version.json`."""
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)

    __table_args__ = (UniqueConstraint("dataset_id", "digest"), UniqueConstraint("dataset_id", "number"))


class UploadRow(Owned, Base):
    """A resumable upload. How much has come is the size of its file."""

    __tablename__ = "uploads"

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    name: Mapped[str] = mapped_column(String(255))
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
