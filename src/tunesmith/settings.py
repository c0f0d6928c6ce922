"""Every `TUNESMITH_*` environment variable, its default, its unit, one sentence."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Configuration of the server. Frozen; unknown `TUNESMITH_*` names are reported by `tunesmith doctor`."""

    model_config = SettingsConfigDict(env_prefix="TUNESMITH_", frozen=True, extra="ignore")

    home: Path = Field(default_factory=lambda: Path.home() / ".tunesmith")
    """Folder that holds the database, datasets, jobs, models and caches."""
    database_url: str | None = None
    """`postgresql://…` to use PostgreSQL; absent means SQLite in the home folder."""
    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = 8000
    """Port to listen on."""
    allowed_hosts: list[str] = []
    """Host names besides localhost that requests may name (JSON list)."""
    max_upload_bytes: int = 10 * 1024**3
    """Largest upload, bytes."""
    max_rows: int = 50_000_000
    """Most rows in a dataset."""
    dataset_workers: int = 1
    """Datasets processed at the same time."""
    dataset_memory_bytes: int = 4 * 1024**3
    """Address-space limit of one dataset-processing process, bytes."""
    cpu_slots: int = 1
    """Jobs that may train at the same time on a machine without GPUs."""
    warm_workers: bool = True
    """Keep a process with the training libraries imported, so that jobs begin at once (Linux; some 400 MB of memory)."""
    custom_scripts: bool = False
    """Allow the `custom` recipe, which runs a user's own Python file."""
    job_restarts: int = 3
    """Restarts after a lost worker without a new checkpoint in between, before the job is failed."""
    lease_s: float = 30.0
    """Seconds without a heartbeat after which a worker counts as lost."""
    tick_s: float = 1.0
    """Longest pause between two rounds of the scheduler, seconds."""
    min_free_bytes: int = 1024**3
    """Free disk space under which no job starts and uploads are refused, bytes."""
    serving_idle_s: float = 600.0
    """Seconds without a chat after which a serving process is stopped."""
    off_peak: str = "22:00-06:00"
    """Local hours in which jobs submitted with `start: off_peak` may start."""
    hub_offline: bool = False
    """Never ask a model hub."""
    log_level: str = "INFO"
    """Least severe log messages shown."""

    @cached_property
    def sqlalchemy_url(self) -> str:
        if not self.database_url:
            return f"sqlite:///{self.home / 'tunesmith.db'}"
        return self.database_url.replace("postgres://", "postgresql://").replace(
            "postgresql://", "postgresql+psycopg://"
        )

    @cached_property
    def datasets_dir(self) -> Path:
        return self.home / "datasets"

    @cached_property
    def uploads_dir(self) -> Path:
        return self.home / "uploads"

    @cached_property
    def jobs_dir(self) -> Path:
        return self.home / "jobs"

    @cached_property
    def models_dir(self) -> Path:
        return self.home / "models"

    @cached_property
    def cache_dir(self) -> Path:
        return self.home / "cache"

    def make_dirs(self) -> None:
        """Create the folders, readable by the owner only."""
        for path in (self.home, self.datasets_dir, self.uploads_dir, self.jobs_dir, self.models_dir, self.cache_dir):
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
