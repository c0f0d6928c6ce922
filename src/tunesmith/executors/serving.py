"""Serving processes: one a base model, started when somebody wants to talk, found again after a restart, ended when idle."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from tunesmith.core.errors import Unavailable
from tunesmith.core.job_dir import write_atomic
from tunesmith.core.job_spec import ModelRef
from tunesmith.executors.identity import boot_id, is_alive, start_time
from tunesmith.executors.local import HUB_TOKEN, PASSED_ON, is_hub_id

START_WITHIN_S = 600.0
"""Longest that loading a model may take."""
MAX_BASES = 3
"""Base models in memory at once, as many as the playground shows side by side; the one idle longest makes way."""


@dataclass(frozen=True)
class Endpoint:
    """Where a serving process answers, and with which word it lets one in."""

    url: str
    token: str


class ServingPool:
    """The serving processes under one home. Threads and servers may share it: a lock file guards each base."""

    def __init__(self, folder: Path, idle_s: float, *, offline: bool) -> None:
        self.folder, self.idle_s, self.offline = folder, idle_s, offline
        self._children: list[subprocess.Popen[bytes]] = []

    def running(self, base: ModelRef) -> Endpoint | None:
        """The endpoint of a live process for this base, or None."""
        return self._live(self._folder(base))

    def ensure(self, base: ModelRef) -> Endpoint:
        """Start a process for this base unless one lives; wait until it answers. Raises `Unavailable` with its last words."""
        folder = self._folder(base)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self._locked(folder):
            found = self._live(folder)
            if found is None:
                self._make_room(folder)
                self._start(folder, base)
                found = self._wait(folder)
        (folder / "used").touch()
        return found

    def stop_all(self) -> None:
        """End every process; for tests and clean-up."""
        for folder in self.folder.glob("*"):
            self._end(folder)

    def _folder(self, base: ModelRef) -> Path:
        key = hashlib.sha256(f"{base.path}\n{base.revision or ''}".encode()).hexdigest()[:24]
        return self.folder / key

    @contextlib.contextmanager
    def _locked(self, folder: Path) -> Iterator[None]:
        with (folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _live(self, folder: Path) -> Endpoint | None:
        for child in self._children:
            child.poll()
        try:
            process = json.loads((folder / "process.json").read_bytes())
            endpoint = json.loads((folder / "endpoint.json").read_bytes())
        except (FileNotFoundError, ValueError):
            return None
        same = process["boot_id"] == boot_id() and process["pid"] == endpoint["pid"]
        if not same or not is_alive(process["pid"], process["started"]):
            return None
        return Endpoint(f"http://127.0.0.1:{endpoint['port']}", endpoint["token"])

    def _start(self, folder: Path, base: ModelRef) -> None:
        (folder / "endpoint.json").unlink(missing_ok=True)
        spec = {"base_path": base.path, "revision": base.revision, "offline": self.offline, "idle_s": self.idle_s}
        write_atomic(folder / "serving.json", spec)
        wanted = [*PASSED_ON, *(HUB_TOKEN if is_hub_id(base.path) else ())]
        environment = {name: os.environ[name] for name in wanted if name in os.environ}
        if self.offline:
            environment["HF_HUB_OFFLINE"] = "1"
        with (folder / "log.txt").open("wb") as log:
            child = subprocess.Popen(
                [sys.executable, "-P", "-m", "tunesmith.serving", str(folder)], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True, env=environment,
            )  # fmt: skip
        self._children = [c for c in self._children if c.poll() is None] + [child]
        started = start_time(child.pid) or -1.0  # -1: it has ended already
        write_atomic(folder / "process.json", {"pid": child.pid, "started": started, "boot_id": boot_id()})

    def _wait(self, folder: Path) -> Endpoint:
        process = json.loads((folder / "process.json").read_bytes())
        deadline_s = time.monotonic() + START_WITHIN_S
        while time.monotonic() < deadline_s:
            if found := self._live(folder):
                return found
            for child in self._children:
                child.poll()
            if not is_alive(process["pid"], process["started"]):
                break
            time.sleep(0.05)
        said = (folder / "log.txt").read_text(errors="replace").strip().splitlines()
        self._end(folder)
        raise Unavailable("The model could not be loaded.", hint=said[-1][:500] if said else "Its log is empty.")

    def _make_room(self, keep: Path) -> None:
        """End the process that was used longest ago when there are too many."""
        others = [f for f in self.folder.iterdir() if f != keep and self._live(f)]
        others.sort(key=lambda f: (f / "used").stat().st_mtime if (f / "used").exists() else 0.0)
        for folder in others[: max(0, len(others) + 1 - MAX_BASES)]:
            self._end(folder)

    def _end(self, folder: Path) -> None:
        with contextlib.suppress(FileNotFoundError, ValueError, psutil.Error):
            process = json.loads((folder / "process.json").read_bytes())
            if process["boot_id"] == boot_id() and is_alive(process["pid"], process["started"] or 0.0):
                found = psutil.Process(process["pid"])
                found.kill()
                found.wait(5)
        for name in ("endpoint.json", "process.json"):
            (folder / name).unlink(missing_ok=True)
