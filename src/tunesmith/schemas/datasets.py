"""Datasets on the wire."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any, Literal

from pydantic import BaseModel, Field

from tunesmith.schemas.common import Wire


class DatasetStatus(StrEnum):
    PROCESSING = "processing"
    READY = "ready"
    FAILED = "failed"


DatasetType = Literal["text", "image", "audio", "video", "tabular"]


class DatasetRead(BaseModel):
    """A dataset: a name and its immutable versions; what is shown is the newest version."""

    id: int
    name: str
    description: str
    tags: list[str]
    type: DatasetType | None
    """Known once processed."""
    status: DatasetStatus
    progress: float
    """Of processing, 0 to 1."""
    error: dict[str, Any] | None = None
    """When failed: `{error, message, hint, details}`."""
    file_name: str
    format: str | None
    """csv, tsv, json, jsonl, parquet, xlsx, text, zip, conll; as detected."""
    size_bytes: int
    """Of the original file."""
    sha256: str
    """Of the original file."""
    version: str | None
    """Digest of the newest version's content; null until processed."""
    shape: str | None
    """Recognised row shape, e.g. `question_answer`."""
    mapping: dict[str, str]
    """Role → column."""
    num_rows: int | None
    num_columns: int | None
    columns: list[str]
    num_errors: int
    num_warnings: int
    created_at: datetime
    updated_at: datetime


class DatasetUpdate(Wire):
    """Fields to change; absent ones stay. A new mapping makes a new version."""

    name: str | None = Field(None, min_length=1, max_length=200)
    description: str | None = Field(None, max_length=10_000)
    tags: list[str] | None = Field(None, max_length=50)
    shape: str | None = Field(None, max_length=50)
    mapping: dict[str, str] | None = None


class Finding(BaseModel):
    """One thing that validation found."""

    level: Literal["error", "warning", "info"]
    code: str
    """Stable name, e.g. `missing_column`, `empty_rows`, `duplicates`."""
    message: str
    """For a person, e.g. "Found 5 empty rows"."""
    hint: str = ""
    column: str | None = None
    rows: list[int] = Field(default_factory=list)
    """Row numbers, from 1, of the first such rows (at most 100)."""
    count: int = 0


class ValidationReport(BaseModel):
    """What is right and wrong with a version."""

    valid: bool
    """No errors; warnings are allowed."""
    findings: list[Finding]
    lengths: dict[str, Any] = Field(default_factory=dict)
    """Per role: characters and tokens, percentiles, share over the model's context."""
    class_balance: dict[str, int] = Field(default_factory=dict)
    """Rows per class, when there is a label."""


class DatasetStatistics(BaseModel):
    total_rows: int
    total_columns: int
    columns: dict[str, dict[str, Any]]
    """Per column: type, nulls, unique, examples."""


class DatasetPreview(BaseModel):
    columns: list[str]
    rows: list[dict[str, Any]]
    """With `row`, the number of the row from 1, and the columns."""
    total_rows: int


class RepairRequest(Wire):
    """Which repairs to make; they run in the order of the fields."""

    fix_encoding: bool = False
    """Mend text that was decoded wrongly (mojibake)."""
    strip: bool = False
    """Cut blanks from both ends of every text."""
    drop_empty: bool = False
    """Drop rows in which a required column is empty."""
    drop_duplicates: bool = False
    """Keep the first of equal rows."""
    length_bounds: bool = False
    """Drop rows whose input or output is outside the bounds below."""
    min_input_chars: int = Field(10, ge=0)
    max_input_chars: int = Field(2048, ge=1)
    min_output_chars: int = Field(5, ge=0)
    max_output_chars: int = Field(1024, ge=1)


class RepairStep(BaseModel):
    repair: str
    rows_changed: int = 0
    rows_dropped: int = 0
    examples: list[dict[str, Any]] = Field(default_factory=list)
    """A few rows: number, before, after."""


class VersionRead(BaseModel):
    """One immutable version of a dataset."""

    digest: str
    """SHA-256 of the content: its name."""
    number: int
    """1, 2, … within the dataset."""
    created_at: datetime
    num_rows: int
    num_columns: int
    size_bytes: int
    shape: str | None
    mapping: dict[str, str]
    origin: Literal["upload", "repair", "mapping"]
    changes: list[RepairStep]
    """What made it differ from the version before."""
