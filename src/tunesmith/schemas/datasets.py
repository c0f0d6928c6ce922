"""Datasets on the wire."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, computed_field

from tunesmith.core.acting import Visibility
from tunesmith.schemas.common import Wire
from tunesmith.schemas.read_options import FileLayout, ReadOptions


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
    owner: str | None = None
    """Whose it is; null where there are no accounts."""
    visibility: Visibility = Visibility.PRIVATE
    type: DatasetType | None
    """Known once processed."""
    status: DatasetStatus
    progress: float
    """Of processing, 0 to 1."""
    error: dict[str, Any] | None = None
    """When failed: `{error, message, hint, details}`, and the reading `options` that were given."""
    file_name: str
    format: str | None
    """csv, tsv, json, jsonl, parquet, xlsx, text, zip, conll; as detected."""
    encoding: str | None = None
    """What the text of the file was in."""
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
    reading: ReadOptions = Field(default_factory=ReadOptions)
    """How it was said that the file is read; empty where all was detected."""
    layout: FileLayout = Field(default_factory=FileLayout)
    """What was found in the file."""
    num_rows: int | None
    num_columns: int | None
    columns: list[str]
    num_errors: int
    num_warnings: int
    created_at: datetime
    updated_at: datetime


class DatasetUpdate(ReadOptions):
    """Fields to change; absent ones stay. Another shape or mapping makes a new version; any other reading option reads the
    original file again, without the repairs and edits made since, and null there goes back to what is detected."""

    name: str | None = Field(None, min_length=1, max_length=200)
    description: str | None = Field(None, max_length=10_000)
    tags: list[str] | None = Field(None, max_length=50)
    visibility: Visibility | None = None
    """`team`: everybody with an account sees it and may train on it; changing it stays its owner's."""


REPAIRS = {
    "empty_rows": "drop_empty",
    "bad_rows": "drop_bad_rows",
    "bad_conversation": "drop_bad_rows",
    "tags_do_not_fit": "drop_bad_rows",
    "answer_lists": "answer_lists",
    "duplicates": "drop_duplicates",
    "mojibake": "fix_encoding",
}
"""Code of a finding → the repair that fixes it."""


class Finding(BaseModel):
    """One thing that validation found."""

    level: Literal["error", "warning", "info"]
    code: str
    """Stable name, e.g. `missing_column`, `empty_rows`, `duplicates`."""
    message: str
    """For a person, e.g. "5 empty rows"."""
    hint: str = ""
    column: str | None = None
    rows: list[int] = Field(default_factory=list)
    """Row numbers, from 1; of more than 10,000 such rows the first."""
    lines: list[int] = Field(default_factory=list)
    """Where those rows begin in the file: lines, or rows of a sheet. Empty where that is not known, or the same."""
    count: int = 0

    @computed_field  # type: ignore[prop-decorator]
    @property
    def repair(self) -> str | None:
        """Which repair fixes it: a field of the repairs; null where it takes a person."""
        return REPAIRS.get(self.code)


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


class TalkMessage(BaseModel):
    """One message of a row, as training takes it."""

    role: str
    text: str
    """What is said; calls of functions as JSON."""
    note: str = ""
    """`not learned` for answers that are only read; `better`, `worse` for those of a preference pair."""


class DatasetPreview(BaseModel):
    columns: list[str]
    rows: list[dict[str, Any]]
    """With `row`, the number of the row from 1, and the columns; a column of the data that is called `row` hides the number."""
    numbers: list[int]
    """The number of each of these rows, from 1."""
    talks: list[list[TalkMessage] | None] = Field(default_factory=list)
    """Each of these rows as the conversation that is learned from it; null where it is none."""
    total_rows: int
    next_offset: int | None = None
    """Where to go on; null at the end. A search that takes long stops early, perhaps with no rows, and goes on from there."""


class UploadPreview(BaseModel):
    """What an upload would become. Nothing is saved yet."""

    type: DatasetType
    format: str
    encoding: str | None
    """What the text was in; null for binary formats."""
    layout: FileLayout
    shape: str
    mapping: dict[str, str]
    columns: list[str]
    rows: list[dict[str, Any]]
    """The first ones, long cells cut."""
    talks: list[list[TalkMessage] | None] = Field(default_factory=list)
    """Each of these rows as the conversation that is learned from it; null where it is none."""
    num_rows: int
    """How many rows were looked at."""
    whole: bool
    """Whether those are all. If not, only the first rows were looked at; the whole file is checked once it is saved."""
    report: ValidationReport
    statistics: DatasetStatistics


class UploadBegin(Wire):
    name: str = Field(min_length=1, max_length=255, examples=["support.jsonl"])
    """File name; its ending helps to tell the format."""
    size_bytes: int = Field(ge=1, lt=2**62)


class UploadState(BaseModel):
    id: str
    name: str
    size_bytes: int
    offset: int
    """Bytes that have come."""


class RepairRequest(Wire):
    """Which repairs to make; they run in the order of the fields."""

    fix_encoding: bool = False
    """Mend text that was decoded wrongly (mojibake)."""
    answer_lists: Literal["first", "each"] | None = None
    """Where an answer is a list of texts: keep the `first`, or make a row of `each`."""
    strip: bool = False
    """Cut blanks from both ends of every text."""
    drop_empty: bool = False
    """Drop rows in which a required column is empty."""
    drop_bad_rows: bool = False
    """Drop rows that cannot be used for training, empty ones too: those that a job with `skip_bad_rows` leaves out."""
    drop_duplicates: bool = False
    """Keep the first of equal rows."""
    length_bounds: bool = False
    """Drop rows whose input or output is outside the bounds below."""
    min_input_chars: int = Field(10, ge=0)
    max_input_chars: int = Field(2048, ge=1)
    min_output_chars: int = Field(5, ge=0)
    max_output_chars: int = Field(1024, ge=1)


class FromUrl(ReadOptions):
    """A file that the server fetches itself."""

    url: str = Field(min_length=1, max_length=2048, examples=["https://example.org/support.jsonl"])
    """A public address, or one inside that the administrator has allowed. Names and passwords in it are refused."""
    name: str | None = Field(None, max_length=200)
    """The file's when left out."""
    description: str = Field("", max_length=10_000)


class UploadCommit(ReadOptions):
    """The dataset that an upload becomes."""

    sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$")
    """Of the whole file; checked when given."""
    name: str | None = Field(None, max_length=200)
    """The file's when left out."""
    description: str = Field("", max_length=10_000)
    tags: list[str] = Field(default_factory=list, max_length=50)


class CellEdit(Wire):
    """One cell with a new value."""

    row: int = Field(ge=1, lt=2**62)
    """Its number, from 1, in the version that is edited."""
    column: str = Field(min_length=1, max_length=1000)
    value: str | None = Field(max_length=1_000_000)
    """As text, whatever the column holds; null empties the cell."""


class EditRequest(Wire):
    """Cells to change and rows to delete; both are numbered as in the version that is edited."""

    cells: list[CellEdit] = Field(default_factory=list, max_length=10_000)
    drop_rows: list[Annotated[int, Field(ge=1, lt=2**62)]] = Field(default_factory=list, max_length=100_000)


class BulkRequest(Wire):
    """One action on many datasets."""

    action: Literal["delete", "tag", "untag"]
    ids: list[Annotated[int, Field(ge=1, lt=2**63)]] = Field(min_length=1, max_length=500)
    tags: list[str] = Field(default_factory=list, max_length=50)
    """To add or take away; each up to 50 characters."""


class BulkResult(BaseModel):
    """What became of one dataset."""

    id: int
    error: dict[str, Any] | None = None
    """`{error, message, hint, details}`; null when it was done."""


class BulkAnswer(BaseModel):
    items: list[BulkResult]


class TagCount(BaseModel):
    tag: str
    num_datasets: int


class RepairStep(BaseModel):
    repair: str
    """A field of the repairs, or `edit_cells`, `delete_rows`."""
    rows_changed: int = 0
    rows_dropped: int = 0
    examples: list[dict[str, Any]] = Field(default_factory=list)
    """A few rows: number, before, after."""


class RepairPreview(BaseModel):
    """What repairs would do. Nothing is changed."""

    num_rows: int
    """Rows that would be left."""
    num_rows_before: int
    steps: list[RepairStep]


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
    origin: Literal["upload", "reading", "repair", "mapping", "edit"]
    base: str | None = None
    """Digest of the version that it was made from; null for an upload."""
    changes: list[RepairStep]
    """What made it differ from the version before."""


class TokensRequest(Wire):
    """Which rows to show as one model reads them, and under which settings of a job."""

    model: str = Field(min_length=1, max_length=500, examples=["HuggingFaceTB/SmolLM2-135M-Instruct"])
    """As for a job."""
    rows: list[Annotated[int, Field(ge=1, lt=2**62)]] = Field(default_factory=list, max_length=20)
    """Numbers from 1; the first three when left out."""
    version: str | None = Field(None, pattern=r"^[0-9a-f]{64}$")
    """Digest; the newest version when left out."""
    max_length: int = Field(1024, ge=16, le=1_048_576)
    """Tokens after which a row is cut."""
    train_on: Literal["completions", "all"] = "completions"
    system_prompt: str | None = Field(None, max_length=20_000)
    tool_calls: Literal["template", "ready", "text"] = "template"
    rewritten_turns: Literal["split", "skip"] = "split"


class ShownToken(BaseModel):
    """One token."""

    id: int
    text: str
    """Its characters; empty when it is one more byte of the character before."""
    kind: Literal["masked", "learned", "cut"]
    """Read only, learned, or beyond `max_length`."""
    special: bool


class ShownText(BaseModel):
    """One text that the model reads. A row may become several."""

    tokens: list[ShownToken]
    """The first 4,096."""
    num_tokens: int
    num_learned: int
    num_cut: int
    loses_end: bool
    """Whether a learned token is cut off, such as the end of the turn."""
    notes: list[str]
    """`no_end_mark`, `rewritten_turns`, `lost_turns`, `lost_text`, `doubled_marks`, `joined_turns`."""


class ShownRow(BaseModel):
    """One row."""

    row: int
    problem: str | None
    """Why it cannot be learned from."""
    hint: str
    remarks: list[str]
    texts: list[ShownText]


class DatasetTokens(BaseModel):
    """What the model will see."""

    model: str
    version: str
    rows: list[ShownRow]
    num_rows: int
    max_length: int
    end_marks: list[str]
    """Tokens that the model learns to end an answer with."""
    used_columns: dict[str, str]
    """Role → column."""
    unused_columns: list[str]
