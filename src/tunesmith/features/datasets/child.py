"""One request to `python -m tunesmith.dataprep`, or to a module like it: a child process with little memory, no secrets and the lowest priority."""

from __future__ import annotations

import json
import logging
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tunesmith.core.errors import TooLarge, TunesmithError
from tunesmith.core.job_dir import write_atomic
from tunesmith.settings import Settings

log = logging.getLogger(__name__)

PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "HF_HOME", "HF_HUB_CACHE")


class Child:
    """Runs from the start; who starts it reads `progress` to its end, then asks `end`, and calls `kill` in any case."""

    def __init__(
        self, settings: Settings, request: dict[str, Any], work: Path, module: str = "tunesmith.dataprep"
    ) -> None:
        self._action, self._log_path = request["action"], work / "log.txt"
        self._memory_bytes = settings.dataset_memory_bytes
        self._error: dict[str, Any] | None = None
        write_atomic(work / "request.json", request)
        environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        environment |= {"TMPDIR": str(work), "POLARS_MAX_THREADS": str(max(1, os.cpu_count() or 1))}
        with self._log_path.open("wb") as log_file:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, str(work / "request.json")],
                stdout=subprocess.PIPE, stderr=log_file, stdin=subprocess.DEVNULL, text=True, env=environment,
                preexec_fn=self._limit, start_new_session=True,
            )  # fmt: skip

    def _limit(self) -> None:
        """In the child: the lowest priority, and no more memory than is allowed."""
        os.nice(5)
        if sys.platform == "linux":
            resource.setrlimit(resource.RLIMIT_DATA, (self._memory_bytes, self._memory_bytes))

    def progress(self) -> Iterator[float]:
        """How much is done, 0 to 1, as it comes; ends when the child has no more to say."""
        assert self._process.stdout
        for line in self._process.stdout:
            try:
                told = json.loads(line)
            except ValueError:
                continue  # not ours: some library's
            if "error" in told:
                self._error = dict(told["error"])
            else:
                yield float(told["progress"])

    def kill(self) -> None:
        """End it now; harmless when it has ended."""
        self._process.kill()
        self._process.wait()

    def end(self) -> dict[str, Any] | None:
        """Wait for its end: None when all went well, else the error's body."""
        code = self._process.wait()
        if code == 0 or self._error is not None:
            return self._error
        said = self._log_path.read_text(errors="replace")[-2000:]
        log.error("%s of a dataset ended with %s: %s", self._action, code, said)
        if code == -9 or "MemoryError" in said or "memory allocation" in said:
            return TooLarge(
                "The data needs more memory than is allowed.",
                hint="Split it, save it as Parquet or JSON Lines, or raise TUNESMITH_DATASET_MEMORY_BYTES.",
            ).body()
        return TunesmithError("The data could not be processed.", hint="The server's log has the details.").body()
