"""A worker that obeys the job directory's contract and trains nothing: it adds numbers, one a step, and keeps checkpoints.

The sum after the last step depends on every step before it, in order, so a step lost, repeated or done by two workers at
once shows in the result. `params` of the spec: `steps`, `pause_s`, `save_steps`, `marks` (a file that tells who ran when),
`stubborn` (ignore every request, and leave behind a child that has forked twice).
"""

from __future__ import annotations

import argparse
import hashlib
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from tunesmith.core.events import CheckpointEvent, PhaseEvent, StepEvent
from tunesmith.core.job_dir import JobDir, checkpoint_name, end_half_line, new_folder, write_atomic
from tunesmith.core.job_spec import ExitRecord


def next_sum(value: str, step: int) -> str:
    return hashlib.sha256(f"{value}{step}".encode()).hexdigest()


def expected(steps: int) -> str:
    value = ""
    for step in range(1, steps + 1):
        value = next_sum(value, step)
    return value


def run_stubbornly() -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:  # its environment says nothing of the job
            os.execve("/bin/sleep", ["sleep", "120"], {})
        os._exit(0)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("job_dir", type=Path)
    parser.add_argument("--attempt", type=int, required=True)
    arguments = parser.parse_args()
    job_dir, attempt = JobDir(arguments.job_dir), arguments.attempt
    params = job_dir.read_spec().params
    fence(job_dir, attempt)
    mark(params, f"begin {job_dir.path.name} {attempt} {os.getpid()}")
    if params.get("stubborn"):
        run_stubbornly()
    end_half_line(job_dir.events)
    tell(job_dir, attempt, PhaseEvent(phase="training", attempt=attempt))
    latest = job_dir.latest_checkpoint()
    step, value = (int(latest.name[5:]), (latest / "sum").read_text()) if latest else (0, "")
    while step < params["steps"]:
        control = job_dir.read_control()
        if not params.get("stubborn") and (control.stop or control.pause):
            if control.pause:
                save(job_dir, attempt, step, value)
            end(job_dir, attempt, params, "cancelled" if control.stop else "paused")
        step, value = step + 1, next_sum(value, step + 1)
        event = StepEvent(
            step=step, total_steps=params["steps"], epoch=0.0, loss=1.0, learning_rate=0.1, attempt=attempt
        )
        tell(job_dir, attempt, event)
        if step % params.get("save_steps", 10) == 0:
            save(job_dir, attempt, step, value)
        time.sleep(params.get("pause_s", 0.0))
    fence(job_dir, attempt)
    with new_folder(job_dir.artifacts / "model", lambda _: fence(job_dir, attempt)) as folder:
        (folder / "sum").write_text(value)
    end(job_dir, attempt, params, "completed")


def fence(job_dir: JobDir, attempt: int) -> None:
    launch = job_dir.read_launch()
    if launch is None or launch.attempt != attempt:
        sys.exit(78)


def tell(job_dir: JobDir, attempt: int, event: Any) -> None:
    fence(job_dir, attempt)
    with job_dir.events.open("a") as file:
        file.write(event.model_dump_json() + "\n")


def save(job_dir: JobDir, attempt: int, step: int, value: str) -> None:
    path = job_dir.checkpoints / checkpoint_name(step)
    with new_folder(path, lambda _: fence(job_dir, attempt)) as folder:
        (folder / "sum").write_text(value)
        (folder / "complete.json").write_text("{}")
    tell(job_dir, attempt, CheckpointEvent(step=step, path=f"checkpoints/{path.name}", size_bytes=64, attempt=attempt))


def mark(params: dict[str, Any], line: str) -> None:
    if params.get("marks"):
        fd = os.open(params["marks"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(fd, f"{line}\n".encode())
        os.close(fd)


def end(job_dir: JobDir, attempt: int, params: dict[str, Any], outcome: str) -> None:
    mark(params, f"end {job_dir.path.name} {attempt} {os.getpid()}")
    write_atomic(job_dir.exit, ExitRecord(attempt=attempt, outcome=outcome))
    os._exit(0)


if __name__ == "__main__":
    main()
