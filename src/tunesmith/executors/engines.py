"""Processes for deployments: one for each base model and way of running it, with all its adapters; supervised, never idle.

A new adapter makes a new process beside the old one, which ends when the new one answers: nobody waits.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from tunesmith.core.serving_spec import HEARTBEAT, ServingSpec
from tunesmith.executors.serving_process import Endpoint, ServingProcess


@dataclass(frozen=True)
class Engine:
    """A live process of a group."""

    key: str
    endpoint: Endpoint
    adapters: tuple[str, ...]

    def serves(self, adapter: str | None) -> bool:
        return adapter is None or adapter in self.adapters


class EnginePool:
    """The engines under one folder. Holds no state of its own but when each was started: the folders say the rest."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def process(self, key: str) -> ServingProcess:
        return ServingProcess(self.folder / key)

    def ensure(self, spec: ServingSpec) -> bool:
        """Start the process unless it lives; whether it was started now. Does not wait."""
        process = self.process(spec.key)
        with process.locked():
            if process.pid() is not None:
                return False
            process.start(spec)
            return True

    def live(self, group: str) -> list[Engine]:
        """Those of a group that answer, the youngest first."""
        found = []
        for folder in sorted(self.folder.glob(f"{group}-*"), key=_started, reverse=True):
            process = ServingProcess(folder)
            if endpoint := process.endpoint():
                with contextlib.suppress(OSError, ValueError):
                    found.append(Engine(folder.name, endpoint, process.spec().adapters))
        return found

    def beat(self) -> None:
        """Tell the processes that somebody looks after them."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        (self.folder / HEARTBEAT).touch()

    def keys(self) -> list[str]:
        """Every folder that is there, living or not."""
        return [folder.name for folder in self.folder.iterdir() if folder.is_dir()] if self.folder.is_dir() else []

    def end(self, key: str) -> None:
        """Kill the process and remove its folder."""
        process = self.process(key)
        with process.locked():
            process.end()
        shutil.rmtree(process.folder, ignore_errors=True)


def _started(folder: Path) -> float:
    with contextlib.suppress(FileNotFoundError):
        return (folder / "process.json").stat().st_mtime
    return time.time()
