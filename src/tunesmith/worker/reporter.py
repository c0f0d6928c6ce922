"""The only writer of `events.jsonl`."""

from __future__ import annotations

import errno
import os
import threading
from typing import Any

from tunesmith.core.job_dir import JobDir

FENCED_EXIT_CODE = 78
"""Exit code of a worker that found a newer attempt in its place."""


class Fenced(SystemExit):
    """A newer attempt has taken over this job: leave at once and write nothing."""

    def __init__(self) -> None:
        super().__init__(FENCED_EXIT_CODE)


class Fence:
    """Tells whether this attempt is still the one that `launch.json` names. A stat a call; a read only after a change."""

    def __init__(self, job_dir: JobDir, attempt: int) -> None:
        self._job_dir, self._attempt = job_dir, attempt
        self._seen: tuple[int, int] | None = None

    def check(self) -> None:
        """Raise `Fenced` when another attempt has the job, or when the job was deleted."""
        try:
            stat = os.stat(self._job_dir.launch)
        except FileNotFoundError:
            raise Fenced from None
        identity = (stat.st_mtime_ns, stat.st_ino)
        if identity == self._seen:
            return
        launch = self._job_dir.read_launch()
        if launch is None or launch.attempt != self._attempt:
            raise Fenced
        self._seen = identity


class Reporter:
    """Appends events: one `write` a line, so that a kill leaves at most one half line, at the end."""

    def __init__(self, job_dir: JobDir, attempt: int, fence: Fence) -> None:
        self._attempt, self._fence = attempt, fence
        self._lock = threading.Lock()
        self._fd = os.open(job_dir.events, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def append(self, event: Any) -> None:
        """Write one event, stamped with this attempt. Raises `Fenced`, or `OSError` when the disk is full; then no part
        of the line stays."""
        line = event.model_copy(update={"attempt": self._attempt}).model_dump_json().encode() + b"\n"
        with self._lock:
            self._fence.check()
            size_bytes = os.fstat(self._fd).st_size
            written = os.write(self._fd, line)
            if written != len(line):
                os.ftruncate(self._fd, size_bytes)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "events.jsonl")

    def flush(self) -> None:
        """Make what was appended durable. Called at checkpoints and at the end, not at every step."""
        os.fsync(self._fd)

    def close(self) -> None:
        with self._lock:
            os.close(self._fd)
