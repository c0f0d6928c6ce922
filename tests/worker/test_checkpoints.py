"""Checkpoints under kills, damage and full disks: whole or not there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.worker.checkpointing import content
from tests.worker.job import Job
from tunesmith.core.job_dir import JobDir
from tunesmith.worker.checkpoints import damage
from tunesmith.worker.reporter import Fenced
from tunesmith.worker.run import Run
from tunesmith.worker.stopping import StopSignals


def open_run(job: Job, attempt: int = 1) -> Run:
    run = Run(job.dir, job.dir.read_spec(), attempt, StopSignals())
    run.start()
    return run


def keep(run: Run, step: int) -> Path:
    with run.checkpoint(step) as folder:
        (folder / "weights.safetensors").write_bytes(content(step))
    return run.dir.checkpoints / f"step-{step:06d}"


def write_until_killed(job: Job, *fault: str) -> int:
    command = [sys.executable, "-m", "tests.worker.checkpointing", str(job.dir.path), *fault]
    return subprocess.run(command, check=False).returncode


def reported_steps(job_dir: JobDir) -> list[int]:
    from tunesmith.core.job_dir import read_new_events

    return [e.step for e in read_new_events(job_dir.events, 0).events if e.type == "checkpoint"]


FAULTS = [("rename", n) for n in (1, 2, 3, 5, 6, 7, 9)] + [("fsync", n) for n in (1, 2, 5, 9, 14, 15, 22, 30)] + [("replace", 3), ("unlink", 1)]  # fmt: skip


@pytest.mark.parametrize(("function", "number"), FAULTS)
def test_a_kill_at_any_stage_leaves_whole_checkpoints_only(tmp_path: Path, function: str, number: int) -> None:
    job = Job(tmp_path / "job")
    assert write_until_killed(job, function, str(number)) in (-signal.SIGKILL, 0)
    reported = reported_steps(job.dir)
    job.launch(2)
    run = open_run(job, 2)  # what a successor does first
    found = job.dir.complete_checkpoints()
    assert [damage(folder) for folder in found] == [None] * len(found)
    for folder in found:
        step = int(folder.name.removeprefix("step-"))
        assert (folder / "weights.safetensors").read_bytes() == content(step)
    if reported:  # a checkpoint that was announced is never lost
        latest = run.latest_checkpoint()
        assert latest and int(latest.name.removeprefix("step-")) >= reported[-1]
    leftovers = {p.name for p in job.dir.checkpoints.iterdir()} - {p.name for p in found}
    assert leftovers == set()
    assert write_until_killed(job) == 0
    assert job.dir.latest_checkpoint() == job.dir.checkpoints / "step-000003"


@pytest.mark.soak
@pytest.mark.parametrize("function", ["rename", "fsync", "replace", "unlink", "fstat", "chmod", "rmdir", "mkdir"])
def test_a_kill_at_every_call(tmp_path: Path, function: str) -> None:
    for number in range(1, 200):
        job = Job(tmp_path / f"job{number}")
        ended = write_until_killed(job, function, str(number))
        job.launch(2)
        run = open_run(job, 2)
        reported = reported_steps(job.dir)
        assert all(damage(folder) is None for folder in job.dir.complete_checkpoints())
        latest = run.latest_checkpoint()
        assert not reported or (latest and int(latest.name.removeprefix("step-")) >= reported[-1])
        if ended == 0:
            break


@pytest.mark.parametrize("harm", ["flip", "cut", "delete", "manifest"])
def test_a_damaged_checkpoint_is_passed_over_and_told(tmp_path: Path, harm: str) -> None:
    job = Job(tmp_path / "job")
    run = open_run(job)
    good, bad = keep(run, 1), keep(run, 2)
    assert run.latest_checkpoint() == bad
    weights = bad / "weights.safetensors"
    if harm == "flip":
        data = bytearray(weights.read_bytes())
        data[12345] ^= 1
        weights.write_bytes(data)
    elif harm == "cut":
        os.truncate(weights, 100)
    elif harm == "delete":
        weights.unlink()
    else:
        (bad / "complete.json").write_text("[]")
    assert run.latest_checkpoint() == good
    (notice,) = job.events("notice")
    assert notice.code == "damaged_checkpoint" and "step-000002" in notice.message
    assert job.dir.latest_checkpoint() == good  # for the server too
    keep(run, 2)
    run.prune_checkpoints(1)
    assert [p.name for p in job.dir.checkpoints.iterdir()] == ["step-000002"]


def test_a_failed_write_keeps_the_checkpoint_of_the_same_step(tmp_path: Path) -> None:
    job = Job(tmp_path / "job")
    run = open_run(job)
    kept = keep(run, 7)
    with pytest.raises(OSError), run.checkpoint(7) as folder:
        (folder / "weights.safetensors").write_bytes(b"half")
        raise OSError(28, "No space left on device")
    assert damage(kept) is None
    assert len(list(job.dir.checkpoints.iterdir())) == 1


def test_a_fenced_worker_commits_nothing(tmp_path: Path) -> None:
    job = Job(tmp_path / "job")
    run = open_run(job)
    with pytest.raises(Fenced), run.checkpoint(1) as folder:
        (folder / "weights").write_bytes(b"late")
        job.launch(2)
    for act in (lambda: run.phase("saving"), run.control, lambda: run.prune_checkpoints(1), run.finish):
        with pytest.raises(Fenced) as fenced:
            act()  # type: ignore[operator]
        assert fenced.value.code == 78
    with pytest.raises(Fenced), run.artifact("report") as folder:
        (folder / "x").write_text("late")
    assert not list(job.dir.checkpoints.iterdir()) and not list(job.dir.artifacts.iterdir())
    assert job.events() == []


def test_a_full_disk_leaves_whole_lines_and_the_last_checkpoint(tmp_path: Path) -> None:
    """A real full disk where a small one can be mounted, else the file-size limit, which fails writes the same way."""
    job = Job(tmp_path / "job")
    code = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "from tests.worker.test_checkpoints import *\n"
        "from tunesmith.worker.failures import classify\n"
        "job = object.__new__(Job); job.dir = JobDir(sys.argv[1])\n"
        "run = open_run(job); keep(run, 1)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))\n"
        "try: keep(run, 2)\n"
        "except OSError as error: assert classify(error).code == 'disk_full', classify(error)\n"
        "else: sys.exit('nothing failed')\n"
        "try:\n"
        "    while True: run.notice('x' * 1000)\n"
        "except OSError as error: assert classify(error).code == 'disk_full'\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))\n"
        "run.notice('space again'); keep(run, 3)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(job.dir.path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [e.message for e in job.events("notice")][-1] == "space again"  # and `events` refuses half lines
    assert [p.name for p in job.dir.complete_checkpoints()] == ["step-000001", "step-000003"]
    assert {p.name for p in job.dir.checkpoints.iterdir()} == {"step-000001", "step-000003"}


def test_control_is_read_when_it_changes(tmp_path: Path) -> None:
    from tunesmith.core.job_dir import write_atomic
    from tunesmith.core.job_spec import Control

    job = Job(tmp_path / "job")
    run = open_run(job)
    assert run.control() == Control()
    for number in range(1, 4):
        asked: Any = Control(checkpoint_seq=number, learning_rate=0.1 * number, learning_rate_seq=number)
        write_atomic(job.dir.control, asked)
        assert run.control() == asked
