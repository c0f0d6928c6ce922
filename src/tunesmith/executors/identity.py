"""Telling one process from a later one that got the same number: boot id, pid and start time together."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import psutil


@cache
def boot_id() -> str:
    """Names this start of this machine, and on Linux the space in which its process ids count: containers on one kernel
    share the boot but not the processes."""
    if sys.platform == "darwin":  # the time of the boot moves when somebody sets the clock; this does not
        command = ["/usr/sbin/sysctl", "-n", "kern.bootsessionuuid"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    try:
        booted = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{booted}/{Path('/proc/self/ns/pid').readlink()}"
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


def age_s(pid_started: float) -> float:
    """Seconds since a process of this machine started, given what `start_time` said of it."""
    now_s = time.clock_gettime(time.CLOCK_BOOTTIME) if sys.platform == "linux" else time.time()
    return max(0.0, now_s - pid_started)


def is_alive(pid: int, pid_started: float) -> bool:
    """Whether that very process lives."""
    return pid > 0 and start_time(pid) == pid_started
