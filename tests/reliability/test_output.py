"""Printing neither stops a worker nor ends it, whatever becomes of the log."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.executors.test_local import until
from tunesmith.core.job_dir import JobDir, write_atomic
from tunesmith.core.job_spec import Launch
from tunesmith.executors.base import Order
from tunesmith.executors.identity import is_alive
from tunesmith.executors.local import LocalExecutor
from tunesmith.executors.output import MAX_BYTES, TAIL_BYTES

PRINT_IN_EVERY_WAY = """
import ctypes, os, subprocess, sys
sys.stdout.write("from python\\n" * 200_000)
sys.stderr.write("and its errors\\n" * 1000)
libc = ctypes.CDLL(None)
for _ in range(1000):
    libc.puts(b"from a library in C")
libc.fflush(None)
os.write(1, b"straight to the descriptor\\n")
assert subprocess.run([sys.executable, "-c", "print('from a grandchild' * 1000)"]).returncode == 0
sys.stdout.flush()
open(sys.argv[1], "w").close()
"""
Start = Callable[..., tuple[LocalExecutor, JobDir, Launch]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a Python script with one argument as the worker of the job in `folder`."""
    started: list[tuple[LocalExecutor, JobDir, Launch]] = []

    def begin(folder: Path, code: str, argument: Path | str = "") -> tuple[LocalExecutor, JobDir, Launch]:
        executor, job_dir = LocalExecutor([sys.executable, "-c", code, str(argument)]), JobDir(folder)
        folder.mkdir(exist_ok=True)
        prepared = executor.prepare(job_dir, Order(attempt=1))
        write_atomic(job_dir.launch, prepared.launch)
        started.append((executor, job_dir, prepared.launch))
        prepared.go()
        return started[-1]

    yield begin
    for executor, job_dir, launch in started:
        executor.kill(job_dir, launch)


def has_ended(executor: LocalExecutor, job_dir: JobDir, launch: Launch) -> bool:
    return executor.observe(job_dir, launch).state == "ended"


def test_a_full_disk_takes_the_output_and_nothing_else(start: Start, small_disk: Path, tmp_path: Path) -> None:
    """Whoever prints, in whatever language, goes on; once there is room, the log says what is missing."""
    begun, done, room = tmp_path / "begun", tmp_path / "done", tmp_path / "room"
    wait = f"import os, time\nopen({str(begun)!r}, 'w').close()\nwhile not os.path.exists({str(tmp_path / 'go')!r}): time.sleep(0.01)\n"
    until_room = f"\nimport os, time\nopen({str(done)!r}, 'w').close()\nwhile not os.path.exists({str(room)!r}): time.sleep(0.01)\n"
    started = start(small_disk / "job", wait + PRINT_IN_EVERY_WAY + until_room, tmp_path / "printed")
    until(begun.exists)
    filling = small_disk / "filling"
    with filling.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, psutil.disk_usage(str(small_disk)).free)
    (tmp_path / "go").touch()
    until(done.exists)
    filling.unlink()
    room.touch()
    until(lambda: has_ended(*started))
    shim, log = started[1].read_shim(), started[1].log.read_text()
    assert shim and shim.exit_code == 0, log
    assert "bytes, are missing here: No space left on device." in log and "Traceback" not in log


def test_all_that_was_printed_is_in_the_log_when_the_end_is_told(start: Start, tmp_path: Path) -> None:
    """Also a line of megabytes, and what a grandchild printed."""
    started = start(tmp_path / "job", f"print('x' * 5_000_000)\n{PRINT_IN_EVERY_WAY}", tmp_path / "done")
    until(lambda: has_ended(*started))
    lines = started[1].log.read_text().splitlines()
    assert lines[0] == "x" * 5_000_000 and lines.count("from python") == 200_000
    assert lines.count("from a library in C") == 1000 and "from a grandchild" * 1000 in lines


def test_a_worker_that_prints_without_end_keeps_its_beginning_and_its_end(start: Start, tmp_path: Path) -> None:
    code = "import os\nprint('the beginning', flush=True)\nfor _ in range(80): os.write(1, b'y' * 1023 + b'\\n' + bytes(2**20 - 1024))\nprint('the end')"
    started = start(tmp_path / "job", code)
    until(lambda: has_ended(*started), 30)
    log = started[1].log.read_bytes()
    assert log.startswith(b"the beginning\n") and log.endswith(b"the end\n")
    assert len(log) < MAX_BYTES + TAIL_BYTES + 1000
    assert b"This attempt printed 64 MiB" in log and b"are missing here: the attempt printed too much." in log


def test_a_worker_ends_with_its_shim_so_that_none_writes_to_nobody(start: Start, tmp_path: Path) -> None:
    """By the kernel's hand, not by its own output: it prints nothing."""
    pid_file = tmp_path / "pid"
    code = "import os, sys, time; open(sys.argv[1], 'w').write(str(os.getpid())); time.sleep(60)"
    _, _, launch = start(tmp_path / "job", code, pid_file)
    until(lambda: pid_file.exists() and pid_file.read_text() != "")
    worker = psutil.Process(int(pid_file.read_text()))
    os.kill(launch.pid, 9)
    until(lambda: not is_alive(launch.pid, launch.pid_started))
    until(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE)


def test_a_shim_that_is_held_holds_up_no_worker_that_prints_little(start: Start, tmp_path: Path) -> None:
    done = tmp_path / "done"
    code = "import os, sys, time\nopen(sys.argv[1] + '-begun', 'w').close()\ntime.sleep(0.5)\nprint('z' * 500_000, flush=True)\nopen(sys.argv[1], 'w').close()"
    _, _, launch = start(tmp_path / "job", code, done)
    until(tmp_path.joinpath("done-begun").exists)
    os.kill(launch.pid, 19)
    until(done.exists)
    os.kill(launch.pid, 18)


def test_workers_draw_no_progress_bars(start: Start, tmp_path: Path) -> None:
    code = "from tqdm import tqdm; from transformers.utils import logging as l; list(tqdm(range(3))); print('bars', l.is_progress_bar_enabled())"
    started = start(tmp_path / "job", code)
    until(lambda: has_ended(*started), 60)
    assert started[1].log.read_text() == "bars False\n"
    assert subprocess.run(
        [sys.executable, "-c", "from tqdm import tqdm; list(tqdm(range(3)))"], capture_output=True
    ).stderr
