"""One request to `python -m tunesmith.dataprep`, or to a module like it: a child process with little memory, no secrets and the lowest priority."""

from __future__ import annotations

import json
import logging
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tunesmith.core import confinement
from tunesmith.core.clock import monotonic_s
from tunesmith.core.errors import TooLarge, TunesmithError, Unavailable
from tunesmith.core.job_dir import write_atomic
from tunesmith.executors.limits import kernel_ended
from tunesmith.executors.shim import end_with_parent, out_of_memory_kills
from tunesmith.settings import Settings

log = logging.getLogger(__name__)


class Child:
    """Runs from the start; who starts it reads `progress` to its end, then asks `end`, and calls `kill` in any case."""

    def __init__(
        self, settings: Settings, request: dict[str, Any], work: Path, module: str = "tunesmith.dataprep"
    ) -> None:
        self._action, self._log_path = request["action"], work / "log.txt"
        self._memory_bytes = settings.dataset_memory_bytes
        self._error: dict[str, Any] | None = None
        self.was_killed = False
        """Whether somebody else ended it, which says nothing of the data."""
        self._kills_before = out_of_memory_kills()
        self._silence_s, self._is_silent = settings.stall_s, False
        self._said_s = monotonic_s()
        write_atomic(work / "request.json", request)
        environment = confinement.environment() | {
            "TMPDIR": str(work),
            "POLARS_MAX_THREADS": str(max(1, os.cpu_count() or 1)),
        }
        with self._log_path.open("wb") as log_file:
            self._process = subprocess.Popen(
                confinement.command(module, str(work / "request.json")),
                stdout=subprocess.PIPE, stderr=log_file, stdin=subprocess.DEVNULL, text=True, env=environment,
                preexec_fn=self._limit, start_new_session=True,
            )  # fmt: skip

    def _limit(self) -> None:
        """In the child: the lowest priority, no more memory than is allowed, and an end with the thread that started it, so that
        no child writes where the next server sweeps."""
        end_with_parent()
        os.nice(5)
        if sys.platform == "linux":
            resource.setrlimit(resource.RLIMIT_DATA, (self._memory_bytes, self._memory_bytes))

    def progress(self) -> Iterator[float]:
        """How much is done, 0 to 1, as it comes; ends when the child has no more to say."""
        assert self._process.stdout
        if self._silence_s:
            threading.Thread(target=self._watch, daemon=True).start()
        for line in self._process.stdout:
            self._said_s = monotonic_s()
            try:
                told = json.loads(line)
            except ValueError:
                continue  # not ours: some library's
            if "error" in told:
                self._error = dict(told["error"])
            else:
                yield float(told["progress"])

    def _watch(self) -> None:
        """End it when it has been silent for too long: it is stuck, and holds up every dataset behind it."""
        while self._process.poll() is None:
            if monotonic_s() - self._said_s > self._silence_s:
                self._is_silent = True
                self._process.kill()
                return
            time.sleep(min(1.0, self._silence_s / 4))

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
        if "MemoryError" in said or "memory allocation" in said:
            return TooLarge(
                "The data needs more memory than is allowed.",
                hint="Split it, save it as Parquet or JSON Lines, or raise TUNESMITH_DATASET_MEMORY_BYTES.",
            ).body()
        if code < 0:
            self.was_killed = True
            return self._killed(-code).body()
        return TunesmithError("The data could not be processed.", hint="The server's log has the details.").body()

    def _killed(self, number: int) -> TunesmithError:
        """By whom, as far as that is known: the kernel's log tells of this process, its counters only of somebody's."""
        if self._is_silent:
            return Unavailable(
                f"The process that read the data made no progress for {self._silence_s / 60:.0f} minutes and was ended.",
                hint="Process the data again, or split it; raise TUNESMITH_STALL_S where a single step takes that long.",
            )
        if number == signal.SIGKILL and (kernel_ended(self._process.pid) or out_of_memory_kills() > self._kills_before):
            return Unavailable(
                "The kernel ended the process that read the data, because the machine's memory ran out.",
                hint="Stop other jobs or models on this machine, or split the data; then process it again.",
            )
        return Unavailable(
            f"The process that read the data was ended from outside, by signal {number} ({signal.Signals(number).name}).",
            hint="Look in the system's log for who ended it; then process the data again.",
        )
