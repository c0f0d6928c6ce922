"""R9: a worker that the kernel ended for want of memory is told from one that somebody killed."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tunesmith.core.job_dir import JobDir, write_atomic
from tunesmith.core.job_spec import ShimRecord
from tunesmith.executors.base import Order
from tunesmith.executors.local import LocalExecutor

TIMES = int(os.environ.get("TUNESMITH_SOAK", "1"))
LIMIT_BYTES = 150 * 1024**2
GREEDY = "import time; time.sleep(0.3); held = [bytearray(8 * 1024**2) for _ in range(100)]; time.sleep(60)"
KILLED = "import os; os.kill(os.getpid(), 9)"
V1, V2 = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")


@pytest.fixture
def small_cgroup() -> Iterator[Path]:
    """A memory cgroup of 150 MB, of whichever version this machine lets us make."""
    base, limit = (V1, "memory.limit_in_bytes") if V1.is_dir() else (V2, "memory.max")
    group = base / f"tunesmith-test-{os.getpid()}"
    try:
        group.mkdir()
        (group / limit).write_text(str(LIMIT_BYTES))
    except OSError as error:
        if group.is_dir():
            group.rmdir()
        pytest.skip(f"this machine lets us make no memory cgroup: {error}")
    yield group
    for _ in range(100):
        if not (group / "cgroup.procs").read_text().split():
            break
        time.sleep(0.05)
    group.rmdir()


def run_in(group: Path, tmp_path: Path, code: str) -> ShimRecord:
    executor, job_dir = LocalExecutor([sys.executable, "-c", code]), JobDir(tmp_path)
    job_dir.shim.unlink(missing_ok=True)
    prepared = executor.prepare(job_dir, Order(attempt=1))
    (group / "cgroup.procs").write_text(str(prepared.launch.pid))
    write_atomic(job_dir.launch, prepared.launch)
    prepared.go()
    try:
        deadline_s = time.monotonic() + 30
        while (observed := executor.observe(job_dir, prepared.launch)).state == "alive":
            assert time.monotonic() < deadline_s, "it goes on"
            time.sleep(0.02)
        assert observed.shim, "the shim itself must outlive the worker"
        return observed.shim
    finally:
        executor.kill(job_dir, prepared.launch)


def test_want_of_memory_and_a_plain_kill_are_told_apart(small_cgroup: Path, tmp_path: Path) -> None:
    for _ in range(5 * TIMES):
        starved = run_in(small_cgroup, tmp_path, GREEDY)
        assert starved.out_of_memory and starved.signal == 9 and not starved.timed_out
        killed = run_in(small_cgroup, tmp_path, KILLED)
        assert killed.signal == 9 and not killed.out_of_memory
