"""`exit.json`: written in any case, also when the disk is full."""

from __future__ import annotations

import math
from pathlib import Path

from tunesmith.core.job_dir import JobDir, write_atomic
from tunesmith.core.job_spec import ExitRecord
from tunesmith.worker.reporter import Fence
from tunesmith.worker.run import Run

RESERVE_BYTES = 64 * 1024
"""Disk space held back for the exit record; its largest part is a traceback of at most 20,000 characters."""


def rank_record(job_dir: JobDir, rank: int) -> Path:
    """Where a rank says how it ended: rank 0 for the job, the others for the launcher."""
    return job_dir.exit if rank == 0 else job_dir.path / f"exit.rank-{rank}.json"


class LastWord:
    """Keeps room on the disk for the exit record from the start, and writes it at the end."""

    def __init__(self, job_dir: JobDir, attempt: int, rank: int) -> None:
        self._path = rank_record(job_dir, rank)
        self._reserve = job_dir.path / f".reserve-{rank}"
        self._fence = Fence(job_dir, attempt)

    def reserve(self) -> None:
        """Raises `OSError` when not even this little is free."""
        self._reserve.write_bytes(b"\0" * RESERVE_BYTES)

    def write(self, run: Run | None, record: ExitRecord) -> None:
        """Flush the events, then write the record. Raises `Fenced`: a worker that lost its job has no last word."""
        self._reserve.unlink(missing_ok=True)
        self._fence.check()
        if run is not None:
            run.finish()
        finite = {name: value for name, value in record.metrics.items() if math.isfinite(value)}
        write_atomic(self._path, record.model_copy(update={"metrics": finite}))
