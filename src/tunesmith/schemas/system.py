"""The server and its machine on the wire."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

from tunesmith.core.events import GpuUse


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
