"""A job directory as the server writes it, and the worker started on it as a real process."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tunesmith.core.job_dir import JobDir, read_new_events, write_atomic
from tunesmith.core.job_spec import Launch


class Job:
    """One job of the `custom` recipe unless told otherwise."""

    def __init__(self, folder: Path, script: str = "", *, recipe: str = "custom", **spec: Any) -> None:
        folder.mkdir(parents=True)
        self.dir = JobDir(folder)
        params = spec.pop("params", {})
        if recipe == "custom":
            params = {"script": script, "timeout_s": 60, **params}
        told = {"job_id": 1, "name": "test", "recipe": recipe, "params": params, "cache_dir": str(folder / "cache"), "offline": True}  # fmt: skip
        write_atomic(self.dir.spec, {**told, **spec})
        self.launch(1)

    def launch(self, attempt: int) -> None:
        """What the server does before every start."""
        write_atomic(self.dir.launch, Launch(attempt=attempt))

    def start(self, attempt: int = 1, command: list[str] | None = None, **env: str) -> subprocess.Popen[bytes]:
        command = command or [sys.executable, "-m", "tunesmith.worker"]
        with self.dir.log.open("ab") as log:
            return subprocess.Popen(
                [*command, str(self.dir.path), "--attempt", str(attempt)],
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, "OMP_NUM_THREADS": "1", **env},
            )

    def run(self, attempt: int = 1, **env: str) -> int:
        return self.start(attempt, **env).wait(120)

    def events(self, kind: str = "") -> list[Any]:
        read = read_new_events(self.dir.events, 0)
        assert read.bad_lines == 0, self.dir.events.read_text()
        return [event for event in read.events if kind in ("", event.type)]

    def log(self) -> str:
        return self.dir.log.read_text(errors="replace")

    def exit(self) -> Any:
        record = self.dir.read_exit()
        assert record, self.log()
        return record


def wait_until(check: Callable[[], Any], timeout_s: float = 120.0) -> Any:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        found = check()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError(f"not in {timeout_s} s")
