"""Processes for the playground: one a base model, started when somebody wants to talk, ended when idle."""

from __future__ import annotations

import hashlib
from pathlib import Path

from tunesmith.core.errors import Unavailable
from tunesmith.core.job_spec import ModelRef
from tunesmith.core.serving_spec import ServingSpec
from tunesmith.executors.serving_process import Endpoint, ServingProcess

START_WITHIN_S = 600.0
"""Longest that loading a model may take."""
MAX_BASES = 3
"""Base models in memory at once, as many as the playground shows side by side; the one idle longest makes way."""


class ServingPool:
    """The serving processes under one home. Threads and servers may share it: a lock file guards each base."""

    def __init__(self, folder: Path, idle_s: float, *, offline: bool) -> None:
        self.folder, self.idle_s, self.offline = folder, idle_s, offline

    def running(self, base: ModelRef) -> Endpoint | None:
        """The endpoint of a live process for this base, or None."""
        return self._process(base).endpoint()

    def ensure(self, base: ModelRef) -> Endpoint:
        """Start a process for this base unless one lives; wait until it answers. Raises `Unavailable` with its last words."""
        process = self._process(base)
        with process.locked():
            found = process.endpoint()
            if found is None:
                self._make_room(process.folder)
                spec = ServingSpec(
                    base_path=base.path, revision=base.revision, offline=self.offline, idle_s=self.idle_s
                )
                process.start(spec)
                found = process.wait(START_WITHIN_S)
            if found is None:
                said = process.last_words()
                process.end()
                raise Unavailable("The model could not be loaded.", hint=said or "Its log is empty.")
        (process.folder / "used").touch()
        return found

    def stop_all(self) -> None:
        """End every process; for tests and clean-up."""
        for folder in self.folder.glob("*"):
            ServingProcess(folder).end()

    def _process(self, base: ModelRef) -> ServingProcess:
        key = hashlib.sha256(f"{base.path}\n{base.revision or ''}".encode()).hexdigest()[:24]
        return ServingProcess(self.folder / key)

    def _make_room(self, keep: Path) -> None:
        """End the process that was used longest ago when there are too many."""
        others = [f for f in self.folder.iterdir() if f != keep and ServingProcess(f).endpoint()]
        others.sort(key=lambda f: (f / "used").stat().st_mtime if (f / "used").exists() else 0.0)
        for folder in others[: max(0, len(others) + 1 - MAX_BASES)]:
            ServingProcess(folder).end()
