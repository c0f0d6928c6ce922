"""The processes of Tunesmith: the server, what reads datasets, shims and workers of jobs, and what answers chats.

They are found from what was written down when each was started, never by their names: so no process of anybody else is
shown, and one that has outlived a server is.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from tunesmith.executors.identity import boot_id, is_alive
from tunesmith.features.monitoring.repository import Monitored
from tunesmith.schemas.system import ProcessKind, ProcessRead
from tunesmith.settings import Settings
from tunesmith.storage.database import Session

if TYPE_CHECKING:
    import psutil


class Found(NamedTuple):
    """A process and what it is for."""

    process: psutil.Process
    kind: ProcessKind
    about: str
    job_id: int | None = None


class Processes:
    """Remembers the processor time of each at the last look, so that the next can tell its use between the two."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._before: dict[tuple[int, float], tuple[float, float]] = {}

    def list(self, session: Session) -> list[ProcessRead]:
        """Those alive now: the server first, then by kind and number."""
        import psutil

        found: dict[int, Found] = {}
        for item in (*_of_server(), *_of_jobs(session), *_of_serving(self.settings)):
            found.setdefault(item.process.pid, item)
        shown: list[ProcessRead] = []
        seen: dict[tuple[int, float], tuple[float, float]] = {}
        for item in found.values():
            with contextlib.suppress(psutil.Error), item.process.oneshot():
                shown.append(self._read(item, seen))
        self._before = seen
        order = list(ProcessKind)
        return sorted(shown, key=lambda process: (order.index(process.kind), process.pid))

    def _read(self, item: Found, seen: dict[tuple[int, float], tuple[float, float]]) -> ProcessRead:
        process = item.process
        key, now_s, times = (process.pid, process.create_time()), time.time(), process.cpu_times()
        used_s = times.user + times.system
        at_s, before_s = self._before.get(key, (key[1], 0.0))  # at the first look: its mean since it began
        seen[key] = (now_s, used_s)
        return ProcessRead(
            pid=process.pid,
            kind=item.kind,
            about=item.about,
            job_id=item.job_id,
            cpu_percent=round(100 * max(0.0, used_s - before_s) / max(now_s - at_s, 0.05), 1),
            memory_bytes=process.memory_info().rss,
            started_at=datetime.fromtimestamp(key[1], UTC),
        )


def _of_server() -> Iterator[Found]:
    import psutil

    me = psutil.Process(os.getpid())
    yield Found(me, ProcessKind.SERVER, "Pages, API and scheduler")
    for child in _below(me):
        with contextlib.suppress(psutil.Error):
            words = " ".join(child.cmdline())
            if "tunesmith.dataprep" in words:
                yield Found(child, ProcessKind.DATASET, "Reads a dataset")
            elif "tunesmith.executors.zygote" in words:
                yield Found(child, ProcessKind.WARM, "Keeps the training libraries loaded, so that jobs begin at once")


def _of_jobs(session: Session) -> Iterator[Found]:
    import psutil

    for job in Monitored(session).with_process():
        launch: dict[str, Any] = job.launch or {}
        if launch.get("boot_id") != boot_id() or not is_alive(launch.get("pid", 0), launch.get("pid_started", 0.0)):
            continue
        with contextlib.suppress(psutil.Error):
            shim = psutil.Process(launch["pid"])
            yield Found(shim, ProcessKind.SHIM, f"Watches over job {job.id}", job.id)
            for child in _below(shim):
                yield Found(child, ProcessKind.WORKER, job.name, job.id)


def _of_serving(settings: Settings) -> Iterator[Found]:
    import psutil

    chats, engines = settings.home / "serving", settings.home / "deployments" / "engines"
    for path in sorted([*chats.glob("*/process.json"), *engines.glob("*/process.json")]):
        with contextlib.suppress(OSError, ValueError, KeyError, psutil.Error):
            told, base = json.loads(path.read_bytes()), json.loads(path.with_name("serving.json").read_bytes())
            if told["boot_id"] == boot_id() and is_alive(told["pid"], told["started"]):
                yield Found(
                    psutil.Process(told["pid"]),
                    ProcessKind.SERVING,
                    f"{'Answers chats with' if path.is_relative_to(chats) else 'In use:'} {model_name(base['base_path'])}",
                )


def model_name(path: str) -> str:
    """`organisation/name` of a model's folder, in the home folder or in the hub's cache; never the whole path."""
    for part in reversed(path.split("/")):
        if part.startswith("models--"):
            return part.removeprefix("models--").replace("--", "/")
    return path.rstrip("/").rpartition("/")[2].replace("--", "/") if path.startswith("/") else path


def _below(process: psutil.Process) -> list[psutil.Process]:
    import psutil

    with contextlib.suppress(psutil.Error):
        return process.children(recursive=True)
    return []
