"""What a worker may use, kept by the kernel: limits of its process, and a control group of its own where this process may
make one.

Control groups of version 2 must be delegated to the server (a systemd unit with `Delegate=yes` and `DelegateSubgroup=server`),
those of version 1 writable for it. The address space of a worker is not limited: CUDA and mapped files reserve far more than
they use, which is why memory is counted by the group.
"""

from __future__ import annotations

import contextlib
import os
import resource
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

MAX_OPEN_FILES = 65_536
MAX_PROCESSES = 16_384
"""Processes and threads of one attempt; a fork bomb ends here."""
REMOVE_WITHIN_S = 2.0
"""How long a group may stay busy with processes that are already ended."""
CGROUPS = Path("/sys/fs/cgroup")
PREFIX = "tunesmith-worker-"
"""Followed by the pid of the shim that made the group."""
MEMORY_VARIABLE = "TUNESMITH_WORKER_MEMORY_BYTES"
"""Told to the shim, which makes the group."""
DELEGATED = "user.delegate"
"""What systemd writes on a group that it leaves to somebody."""


def limit_process() -> None:
    """In the worker, before it begins: no core dumps (they hold rows and weights), enough open files but not without end."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    files = MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_OPEN_FILES)
    with contextlib.suppress(OSError, ValueError):  # macOS allows fewer than it says
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


@dataclass(frozen=True)
class Places:
    """Folders below which groups can be made; one and the same for version 2, one a controller for version 1."""

    memory: Path
    processes: Path | None
    is_v2: bool

    def folders(self) -> list[Path]:
        return list(dict.fromkeys(folder for folder in (self.memory, self.processes) if folder))


def find_places(root: Path = CGROUPS, own: Path = Path("/proc/self/cgroup")) -> Places | None:
    """Where this process may make groups that limit memory; None where it may not."""
    try:
        entries = [line.split(":", 2) for line in own.read_text().splitlines()]
    except OSError:
        return None
    named = {name: path.lstrip("/") for _, controllers, path in entries for name in controllers.split(",")}
    if (root / "cgroup.controllers").is_file():
        return _of_v2(root, root / named.get("", ""))
    if "memory" not in named:
        return None
    memory, pids = root / "memory" / named["memory"], root / "pids" / named.get("pids", "")
    if not _is_ours(memory, "memory.limit_in_bytes"):
        return None
    return Places(memory, pids if "pids" in named and _is_ours(pids, "cgroup.procs") else None, is_v2=False)


def _of_v2(root: Path, own: Path) -> Places | None:
    """Below the server's own group, or beside it when the group around it is the one that was delegated."""
    for folder in (own, own.parent) if own != root and _is_delegated(own.parent) else (own,):
        if not _is_ours(folder, "cgroup.subtree_control"):
            continue
        switch = folder / "cgroup.subtree_control"
        with contextlib.suppress(OSError):  # a group that holds processes itself passes no controllers on
            if missing := {"memory", "pids"} - set(switch.read_text().split()):
                switch.write_text(" ".join(f"+{name}" for name in sorted(missing)))
            if "memory" in switch.read_text().replace("+", " ").split():
                return Places(folder, folder, is_v2=True)
    return None


def _is_delegated(folder: Path) -> bool:
    with contextlib.suppress(OSError, AttributeError):
        return os.getxattr(folder, DELEGATED) == b"1"
    return False


def _is_ours(folder: Path, file: str) -> bool:
    return (folder / file).exists() and os.access(folder, os.W_OK) and os.access(folder / "cgroup.procs", os.W_OK)


class WorkerGroup:
    """The control group of one attempt, made by its shim and removed by it once the worker and all it left are ended."""

    def __init__(self, places: Places, name: str) -> None:
        self._places = places
        self._folders = [folder / name for folder in places.folders()]

    @classmethod
    def make(cls, memory_bytes: int | None, places: Places | None = None) -> WorkerGroup | None:
        """A new group for the calling shim's worker; None where none can be made."""
        if sys.platform != "linux" or (places := places or find_places()) is None:
            return None
        sweep(places)
        group = cls(places, f"{PREFIX}{os.getpid()}")
        try:
            for folder in group._folders:
                folder.mkdir(exist_ok=True)
            group._limit(memory_bytes)
        except OSError as error:
            sys.stderr.write(f"This attempt runs without limits on its memory: {error}\n")
            group.remove()
            return None
        return group

    def _limit(self, memory_bytes: int | None) -> None:
        memory, processes = self._folders[0], self._folders[-1]
        if memory_bytes:
            (memory / ("memory.max" if self._places.is_v2 else "memory.limit_in_bytes")).write_text(str(memory_bytes))
            with contextlib.suppress(OSError):  # a kernel without swap has no such file
                if self._places.is_v2:
                    (memory / "memory.swap.max").write_text("0")
        if (processes / "pids.max").exists():
            (processes / "pids.max").write_text(str(MAX_PROCESSES))

    def enter(self) -> None:
        """In the worker, before it begins. What it starts is in the group too."""
        try:
            for folder in self._folders:
                (folder / "cgroup.procs").write_text("0")
        except OSError as error:
            sys.stderr.write(f"This attempt runs without limits on its memory: {error}\n")

    def counter(self) -> Path:
        """The file that counts what the kernel has killed in this group for memory."""
        return self._folders[0] / ("memory.events" if self._places.is_v2 else "memory.oom_control")

    def remove(self) -> None:
        """End what is still in it (version 2) and remove it; the next shim sweeps what cannot be removed now."""
        with contextlib.suppress(OSError):
            if self._places.is_v2:
                (self._folders[0] / "cgroup.kill").write_text("1")
        deadline_s = time.monotonic() + REMOVE_WITHIN_S
        while not _removed(self._folders) and time.monotonic() < deadline_s:
            time.sleep(0.01)


def kernel_ended(pid: int) -> bool:
    """Whether the kernel's log says that it ended that process for want of memory; False where one may not read the log."""
    told = b""
    with contextlib.suppress(OSError):
        log = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
        try:
            while True:  # a record a read; at the end it would wait
                with contextlib.suppress(BrokenPipeError):  # some records were overwritten
                    told = os.read(log, 8192)
                    if f"Killed process {pid} ".encode() in told:
                        return True
        finally:
            os.close(log)
    return False


def sweep(places: Places) -> None:
    """Remove the groups of shims that were killed before they could."""
    for folder in places.folders():
        with contextlib.suppress(OSError):
            _removed(group for group in folder.glob(f"{PREFIX}*") if not _is_process(group.name.removeprefix(PREFIX)))


def _is_process(pid: str) -> bool:
    return Path(f"/proc/{pid}").exists()


def _removed(folders: Iterable[Path]) -> bool:
    """Remove those that hold no process; whether that were all."""
    left = False
    for folder in folders:
        try:
            folder.rmdir()
        except FileNotFoundError:
            continue
        except OSError:
            left = True
    return not left


@dataclass(frozen=True)
class Isolation:
    """What keeps workers and custom scripts apart from the rest on this machine, in words."""

    limits_memory: bool
    memory: str
    shields_scripts: bool
    scripts: str


def isolation_available() -> Isolation:
    """What this machine allows. Starts a short process to try."""
    from tunesmith.recipes.custom.isolation import WORDS, way

    places = find_places()
    version = "2" if places and places.is_v2 else "1"
    memory = f"by control groups (version {version})" if places else "not available"
    return Isolation(places is not None, memory, way() != "none", WORDS[way()])
