"""The server and its machine on the wire."""

from __future__ import annotations

from datetime import date, datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, create_model
from pydantic.fields import FieldInfo

from tunesmith.core.events import GpuUse
from tunesmith.core.preferences import Preferences
from tunesmith.schemas.common import Wire
from tunesmith.schemas.jobs import QueueItem


class Health(BaseModel):
    """The server answers, and so does its database."""

    status: Literal["ok"]
    version: str
    database: Literal["sqlite", "postgresql"]
    sqlite_version: str | None
    journal_mode: str | None
    """`WAL` where the SQLite at hand has it without a race, else `DELETE`."""
    uptime_s: float


class SystemInfo(BaseModel):
    """What the machine is."""

    version: str
    python: str
    platform: str
    cpu_cores: int
    memory_bytes: int
    gpus: list[GpuUse]
    methods: dict[str, str]
    """For each method: why it cannot run here; empty when it can."""
    libraries: dict[str, str]
    """Versions; empty when not installed."""


class MachineUse(BaseModel):
    """What is used of the machine now."""

    cpu_percent: float
    """Of the whole machine, since the last call."""
    load_average: list[float]
    """Over 1, 5 and 15 minutes."""
    memory_used_bytes: int
    memory_total_bytes: int
    disk_used_bytes: int
    disk_free_bytes: int
    disk_total_bytes: int
    network_received_bytes: int
    network_sent_bytes: int
    gpus: list[GpuUse]


class DoctorCheck(BaseModel):
    """One thing that was looked at."""

    name: str
    status: Literal["ok", "info", "warning", "error"]
    message: str
    remedy: str = ""
    """What to do; empty when it is well."""


class GpuHistory(BaseModel):
    """One GPU over time; the lists go with `times`. Null where nothing is known."""

    index: int
    name: str
    memory_total_bytes: int | None
    utilization_percent: list[float | None]
    memory_used_bytes: list[float | None]
    temperature_c: list[float | None]
    power_w: list[float | None]


class ResourceHistory(BaseModel):
    """What the machine did over time: lists of equal length, oldest first."""

    every_s: float
    """Seconds between samples, before thinning."""
    keep_s: float
    """How long samples are kept, seconds."""
    cpu_cores: int
    memory_total_bytes: int
    disk_total_bytes: int
    times: list[float]
    """Seconds since 1970."""
    cpu_percent: list[float]
    """Of all cores together."""
    memory_used_bytes: list[float]
    disk_used_bytes: list[float]
    disk_read_bytes_per_s: list[float]
    disk_written_bytes_per_s: list[float]
    network_received_bytes_per_s: list[float]
    network_sent_bytes_per_s: list[float]
    gpus: list[GpuHistory]


class ProcessKind(StrEnum):
    SERVER = "server"
    WORKER = "worker"
    SERVING = "serving"
    DATASET = "dataset"
    SHIM = "shim"
    WARM = "warm"


class ProcessRead(BaseModel):
    """A process of Tunesmith that is alive now."""

    pid: int
    kind: ProcessKind
    about: str
    """What it is for, in words."""
    job_id: int | None
    """The job it belongs to; null for the others."""
    cpu_percent: float
    """Of one core, since it was last looked at; of its whole life at the first look."""
    memory_bytes: int
    started_at: datetime


class StorageKind(BaseModel):
    """What one kind of files takes."""

    name: str
    title: str
    about: str
    path: str
    """Where they are."""
    size_bytes: int
    num_files: int
    cleanup: str | None
    """Name of the clean-up that makes it smaller; null where there is none."""


class CleanupItem(BaseModel):
    """One thing that a clean-up would delete."""

    what: str
    size_bytes: int


class CleanupRead(BaseModel):
    """What a clean-up would delete now. Nothing is deleted yet."""

    name: str
    title: str
    about: str
    """What is deleted, and what never is."""
    num_items: int
    frees_bytes: int
    items: list[CleanupItem]
    """The largest ones, at most 50."""
    why_not: str
    """Why nothing can be deleted just now; empty when it can."""


class StorageUse(BaseModel):
    """What is on the disk, by kind. Counted beside the requests: the first answer may be empty."""

    kinds: list[StorageKind]
    cleanups: list[CleanupRead]
    """What could be deleted, as of the last count."""
    counted_at: datetime | None
    """Null until the first count is done."""
    counting: bool
    """Whether a new count is under way."""
    disk_free_bytes: int
    disk_total_bytes: int


class CleanupDone(BaseModel):
    """What a clean-up has deleted."""

    name: str
    num_items: int
    freed_bytes: int


class SettingRead(BaseModel):
    """One setting of the server."""

    name: str
    group: Literal["directories", "limits", "defaults", "appearance", "server"]
    meaning: str
    value: Any
    default: Any
    source: Literal["default", "saved", "environment"]
    variable: str
    """The environment variable that sets it, which wins over what is saved."""
    changeable: bool
    """Whether it can be changed while the server runs and no variable holds it."""


def _optional(field: FieldInfo) -> Any:
    """The same type and bounds, or null."""
    return (Annotated[field.annotation, "optional", *field.metadata] | None, None)


SettingsUpdate = create_model(  # one list of names and bounds: that of the preferences
    "SettingsUpdate",
    __base__=Wire,
    __doc__="Settings to change; absent ones stay, null goes back to the default.",
    **{name: _optional(field) for name, field in Preferences.model_fields.items()},
)


class DirectoryTest(Wire):
    """A folder to try."""

    path: str | None = Field(None, min_length=1, max_length=1000, examples=["/data/tunesmith"])
    """Absolute; the folder in use now when absent."""


class DirectoryRead(BaseModel):
    """A folder that files can be written to: one was, flushed, and removed again."""

    path: str
    exists: bool
    """False when the folder is still to be made; then the nearest folder above it was tried."""
    free_bytes: int
    total_bytes: int
    took_ms: float
    """Writing and flushing 64 KiB."""


class KeyRead(BaseModel):
    """A secret that the environment or a file may hold. Its value is never shown."""

    name: str
    about: str
    """What it is for."""
    is_set: bool
    source: str
    """The variable or file that holds it, or how to set it."""


class ActivityDay(BaseModel):
    """Jobs made on one day, by what has become of them."""

    day: date
    """In the server's time zone."""
    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    open: int = 0
    """Running or paused."""
    waiting: int = 0
    """Queued, or not started yet."""


class Attention(BaseModel):
    """Something that somebody should look at."""

    kind: Literal["job_failed", "dataset_failed", "dataset_errors", "job_waiting", "disk", "memory"]
    level: Literal["warning", "error"]
    id: int | None = None
    """Of the job or dataset."""
    title: str
    message: str
    hint: str = ""
    at: datetime | None = None


class RunningJob(BaseModel):
    """A job that trains now."""

    id: int
    name: str
    method: str
    model: str | None
    phase: str | None
    progress: float
    """0 to 1."""
    step: int
    total_steps: int
    loss: float | None
    remaining_s: float | None
    started_at: datetime | None
    sparkline: list[float]
    """The loss so far, in few points."""


class Overview(BaseModel):
    """All at a glance."""

    datasets: dict[str, int]
    """How many, by status."""
    jobs: dict[str, int]
    models: dict[str, int]
    """`base` and `tuned`."""
    activity: list[ActivityDay]
    """The last 30 days, oldest first, days without jobs too."""
    running: list[RunningJob]
    """At most 20."""
    queue: list[QueueItem]
    """In the order in which they start, with why each waits; at most 20."""
    attention: list[Attention]
    """Worst first."""
    use: MachineUse
