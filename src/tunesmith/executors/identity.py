"""Telling one process from a later one that got the same number: boot id, pid and start time together."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import psutil


@cache
def boot_id() -> str:
    """Names this start of this machine."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return f"boot-{psutil.boot_time():.0f}"


def start_time(pid: int) -> float | None:
    """When the process started, on a clock that nobody sets; None when there is none, or only its corpse."""
    try:
        # Field 22, counted behind the name, which may itself hold blanks and brackets.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if fields[0] in "ZX" else int(fields[19]) / os.sysconf("SC_CLK_TCK")
    except FileNotFoundError:
        if Path("/proc/self/stat").exists():
            return None
    except (ProcessLookupError, OSError):
        return None
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.Error:
        return None


def is_alive(pid: int, pid_started: float) -> bool:
    """Whether that very process lives."""
    return pid > 0 and start_time(pid) == pid_started
