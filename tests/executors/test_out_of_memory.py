"""R9: a worker that the kernel ended for want of memory, one that was refused memory, and one that somebody killed are told
apart. Five of each; TUNESMITH_SOAK=10 (`make soak`) runs the bar's fifty.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.reliability import real_worker
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


def run(tmp_path: Path, worker: Sequence[str], group: Path | None = None) -> ShimRecord:
    executor, job_dir = LocalExecutor(worker), JobDir(tmp_path)
    for record in (job_dir.shim, job_dir.exit):
        record.unlink(missing_ok=True)
    prepared = executor.prepare(job_dir, Order(attempt=1))
    if group:
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
        starved = run(tmp_path, [sys.executable, "-c", GREEDY], small_cgroup)
        assert starved.out_of_memory and starved.signal == 9 and not starved.timed_out
        killed = run(tmp_path, [sys.executable, "-c", KILLED], small_cgroup)
        assert killed.signal == 9 and not killed.out_of_memory


def test_memory_that_is_refused_is_told_by_the_worker_itself(tmp_path: Path) -> None:
    """As from a GPU's allocator: an error, not a kill."""
    spec = {"job_id": 1, "name": "x", "recipe": "custom", "params": {"greedy": True}, "cache_dir": str(tmp_path)}
    write_atomic(JobDir(tmp_path).spec, spec)
    for _ in range(5 * TIMES):
        ended = run(tmp_path, real_worker.COMMAND)
        told = JobDir(tmp_path).read_exit()
        assert told and told.failure and told.failure.code == "out_of_memory" and told.failure.hint
        assert ended.exit_code == 1 and not ended.out_of_memory
