"""Processes for the playground: one a base model, started when somebody wants to talk, ended when idle."""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from pathlib import Path

from tunesmith.core.errors import Unavailable
from tunesmith.core.job_dir import write_atomic
from tunesmith.core.job_spec import ModelRef
from tunesmith.core.model_kind import PREDICT
from tunesmith.core.serving_spec import ServingSpec
from tunesmith.executors.serving_process import Endpoint, ServingProcess
from tunesmith.recipes.model_about import about

START_WITHIN_S = 600.0
"""Longest that loading a model may take."""
MAX_BASES = 3
"""Base models in memory at once, as many as the playground shows side by side; the one idle longest makes way."""
FAILED = "failed.json"
"""File in a process's folder: when and why it could not be started the last time."""


class ServingPool:
    """The serving processes under one home. Threads and servers may share it: a lock file guards each base."""

    def __init__(self, folder: Path, idle_s: float, *, offline: bool) -> None:
        self.folder, self.idle_s, self.offline = folder, idle_s, offline

    def running(self, base: ModelRef) -> Endpoint | None:
        """The endpoint of a live process for this base, or None."""
        return self._process(base).endpoint()

    def ensure(self, base: ModelRef) -> Endpoint:
        """Start a process for this base unless one lives; wait until it answers. Raises `Unavailable` with why it ended, for
        those too who waited while somebody else started it."""
        process, came_s = self._process(base), time.time()
        with process.locked():
            found = process.endpoint()
            if found is None:
                self._check_failed_meanwhile(process, came_s)
                self._make_room(process.folder)
                told = about(base)
                engine = {"engine": PREDICT, "kind": told.kind, "task": told.task} if told else {}
                spec = ServingSpec(
                    base_path=base.path, revision=base.revision, offline=self.offline, idle_s=self.idle_s, **engine
                )
                process.start(spec)
                found = process.wait(START_WITHIN_S)
            if found is None:
                too_long = f"It did not answer within {START_WITHIN_S:.0f} s."
                why = too_long if process.pid() is not None else process.why_ended()
                process.end()
                write_atomic(process.folder / FAILED, {"at_s": time.time(), "why": why})
                raise _not_loaded(why)
        (process.folder / "used").touch()
        return found

    def _check_failed_meanwhile(self, process: ServingProcess, came_s: float) -> None:
        with contextlib.suppress(FileNotFoundError, ValueError):
            told = json.loads((process.folder / FAILED).read_bytes())
            if told["at_s"] >= came_s:
                raise _not_loaded(told["why"])

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


def _not_loaded(why: str) -> Unavailable:
    return Unavailable(
        f"The model could not be loaded. {why}", hint="Choose another model, or repair this one, and try again."
    )
