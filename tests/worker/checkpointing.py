"""A process that keeps writing checkpoints through the worker's `Run`: `python -m tests.worker.checkpointing JOB_DIR FUNCTION N`.

At the N-th call of `os.FUNCTION` after it began, it ends itself with SIGKILL.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from tunesmith.core.job_dir import JobDir
from tunesmith.worker.run import Run
from tunesmith.worker.stopping import StopSignals

STEPS = (1, 2, 2, 3)


def content(step: int) -> bytes:
    return bytes([step]) * 300_000


def main() -> None:
    job_dir = JobDir(Path(sys.argv[1]))
    launch = job_dir.read_launch()
    assert launch
    run = Run(job_dir, job_dir.read_spec(), launch.attempt, StopSignals())
    run.start()
    if len(sys.argv) > 2:
        kill_at(sys.argv[2], int(sys.argv[3]))
    for step in STEPS:
        with run.checkpoint(step, reason="schedule") as folder:
            (folder / "weights.safetensors").write_bytes(content(step))
            (folder / "deep").mkdir()
            (folder / "deep" / "state.json").write_text(str(step))
        run.prune_checkpoints(2)


def kill_at(name: str, number: int) -> None:
    real = getattr(os, name)
    calls = 0

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **kwargs)

    setattr(os, name, counted)


if __name__ == "__main__":
    main()
