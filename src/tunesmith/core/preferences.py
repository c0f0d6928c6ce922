"""What can be changed while the server runs, with its bounds. Kept in `settings.json` in the home folder."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, Field

from tunesmith.core.job_status import Priority

MIB = 1024**2
MAX_BYTES = 2**60
HOURS = re.compile(r"([01]\d|2[0-3]):[0-5]\d-([01]\d|2[0-3]):[0-5]\d")


def _absolute(path: Path | None) -> Path | None:
    if path is not None and not path.is_absolute():
        raise ValueError("the path must be absolute, such as /data/tunesmith")
    return path


def _hours(text: str) -> str:
    if not HOURS.fullmatch(text):
        raise ValueError("two times of the day are wanted, such as 22:00-06:00")
    return text


class Preferences(BaseModel):
    """Environment variables of the same names win over what is saved here."""

    output_dir: Annotated[Path | None, AfterValidator(_absolute)] = None
    """Folder in which new jobs keep checkpoints and models; absent means the home folder. Jobs that have begun stay where they are."""
    cpu_slots: int = Field(1, ge=0, le=1024)
    """Jobs that may train at the same time on a machine without GPUs; 0 starts none."""
    job_restarts: int = Field(3, ge=0, le=100_000)
    """Restarts after a lost worker without a new checkpoint in between, before the job is failed."""
    min_free_bytes: int = Field(1024**3, ge=0, le=MAX_BYTES)
    """Free disk space under which no job starts and uploads are refused, bytes."""
    max_upload_bytes: int = Field(10 * 1024**3, ge=1, le=MAX_BYTES)
    """Largest upload, bytes."""
    max_rows: int = Field(50_000_000, ge=1, le=10**12)
    """Most rows in a dataset."""
    dataset_memory_bytes: int = Field(4 * 1024**3, ge=64 * MIB, le=MAX_BYTES)
    """Address-space limit of one dataset-processing process, bytes."""
    serving_idle_s: float = Field(600.0, gt=0, le=30 * 24 * 3600)
    """Seconds without a chat after which a serving process is stopped."""
    off_peak: Annotated[str, AfterValidator(_hours)] = "22:00-06:00"
    """Local hours in which jobs submitted with `start: off_peak` may start."""
    default_model: str | None = Field(None, max_length=500)
    """Base model that the form for a new job begins with."""
    default_method: str = Field("lora", max_length=50)
    """Method that the form for a new job begins with."""
    default_priority: Priority = Priority.NORMAL
    """Priority that the form for a new job begins with."""
    theme: Literal["system", "light", "dark"] = "system"
    """Colours of the pages in browsers that have not chosen; `system` follows the browser."""
    density: Literal["normal", "compact"] = "normal"
    """Space around things on the pages, in browsers that have not chosen."""
    motion: Literal["system", "less"] = "system"
    """Whether pages move things, in browsers that have not chosen; `system` follows the browser."""
