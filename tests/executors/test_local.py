"""Real processes: recorded before they begin, found again, told apart, and ended with all they started."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tunesmith.core.job_dir import JobDir, write_atomic
from tunesmith.core.job_spec import Launch
from tunesmith.executors.base import Observation, Order
from tunesmith.executors.identity import start_time
from tunesmith.executors.local import MARK, LocalExecutor


def until(check: Callable[[], bool], timeout_s: float = 15) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not check():
        assert time.monotonic() < deadline_s, "it did not come to that"
        time.sleep(0.02)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[..., tuple[LocalExecutor, JobDir, Launch]]]:
    """Start a Python script as a worker."""
    started: list[tuple[LocalExecutor, JobDir, Launch]] = []

    def start(code: str, **order: float) -> tuple[LocalExecutor, JobDir, Launch]:
        executor = LocalExecutor([sys.executable, "-c", code])
        job_dir = JobDir(tmp_path / "job")
        job_dir.path.mkdir(exist_ok=True)
        prepared = executor.prepare(job_dir, Order(attempt=1, **order))  # type: ignore[arg-type]
        write_atomic(job_dir.launch, prepared.launch)
        prepared.go()
        started.append((executor, job_dir, prepared.launch))
        return started[-1]

    yield start
    for executor, job_dir, launch in started:
        executor.kill(job_dir, launch)


def end_of(executor: LocalExecutor, job_dir: JobDir, launch: Launch) -> Observation:
    until(lambda: executor.observe(job_dir, launch).state != "alive")
    return executor.observe(job_dir, launch)


@pytest.mark.parametrize(("code", "exit_code", "signal_number"), [
    ("pass", 0, None), ("raise SystemExit(7)", 7, None), ("import os; os.kill(os.getpid(), 9)", None, 9), ("import os; os.abort()", None, 6),
])  # fmt: skip
def test_how_it_ended(
    run: Callable[..., tuple[LocalExecutor, JobDir, Launch]],
    code: str,
    exit_code: int | None,
    signal_number: int | None,
) -> None:
    observed = end_of(*run(code))
    assert observed.state == "ended" and observed.shim
    assert (observed.shim.exit_code, observed.shim.signal) == (exit_code, signal_number)
    assert not observed.shim.out_of_memory


def test_nothing_begins_before_it_is_written_down(tmp_path: Path) -> None:
    """A server that dies between starting the shim and recording it leaves nothing behind."""
    executor = LocalExecutor([sys.executable, "-c", "open('ran', 'w')"])
    job_dir = JobDir(tmp_path)
    prepared = executor.prepare(job_dir, Order(attempt=1))
    time.sleep(0.3)
    assert executor.observe(job_dir, prepared.launch).state == "alive" and not (tmp_path / "ran").exists()
    prepared.abandon()
    assert not (tmp_path / "ran").exists() and executor.observe(job_dir, prepared.launch).state == "gone"


def test_another_executor_finds_it_again_and_learns_its_end(
    run: Callable[..., tuple[LocalExecutor, JobDir, Launch]],
) -> None:
    _, job_dir, launch = run("import time; time.sleep(1); raise SystemExit(3)")
    later = LocalExecutor()
    assert later.observe(job_dir, launch).state == "alive"
    found = end_of(later, job_dir, launch)
    assert found.shim and found.shim.exit_code == 3


def test_a_later_process_of_the_same_number_is_not_it(run: Callable[..., tuple[LocalExecutor, JobDir, Launch]]) -> None:
    executor, job_dir, launch = run("import time; time.sleep(30)")
    other = launch.model_copy(update={"pid": os.getpid(), "pid_started": (start_time(os.getpid()) or 0) + 1})
    assert executor.observe(job_dir, other).state == "gone"
    rebooted = launch.model_copy(update={"boot_id": "another"})
    os.utime(job_dir.launch, (1, 1))
    with contextlib.suppress(FileNotFoundError):
        os.utime(job_dir.heartbeat, (1, 1))
    assert executor.observe(job_dir, rebooted).state in ("gone", "alive")


def test_killing_ends_what_forks_twice_and_ignores_sigterm(
    run: Callable[..., tuple[LocalExecutor, JobDir, Launch]],
) -> None:
    code = (
        "import os, signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "if os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        open('grandchild', 'w').write(str(os.getpid()))\n"
        "        time.sleep(60)\n    os._exit(0)\n"
        "time.sleep(60)\n"
    )
    executor, job_dir, launch = run(code)
    until(lambda: (job_dir.path / "grandchild").exists() and (job_dir.path / "grandchild").read_text() != "")
    grandchild = int((job_dir.path / "grandchild").read_text())
    began_s = time.monotonic()
    assert executor.kill(job_dir, launch)
    assert time.monotonic() - began_s < 15
    assert start_time(grandchild) is None and executor.observe(job_dir, launch).state != "alive"


def test_what_a_finished_worker_left_running_is_ended(run: Callable[..., tuple[LocalExecutor, JobDir, Launch]]) -> None:
    code = "import subprocess, sys; p = subprocess.Popen(['sleep', '60'], start_new_session=True); open('left', 'w').write(str(p.pid))"
    executor, job_dir, launch = run(code)
    assert end_of(executor, job_dir, launch).state == "ended"
    assert start_time(int((job_dir.path / "left").read_text())) is None


def test_the_heartbeat_stops_with_a_stopped_worker(
    run: Callable[..., tuple[LocalExecutor, JobDir, Launch]], monkeypatch: pytest.MonkeyPatch
) -> None:
    executor, job_dir, launch = run("import os, time; open('pid', 'w').write(str(os.getpid())); time.sleep(60)")
    until(lambda: job_dir.heartbeat.exists() and (job_dir.path / "pid").exists())
    os.kill(int((job_dir.path / "pid").read_text()), signal.SIGSTOP)
    until(lambda: executor.observe(job_dir, launch).heartbeat_age_s > 3)
    assert executor.observe(job_dir, launch).state == "alive"
    assert executor.kill(job_dir, launch)


def test_a_worker_gets_no_secret_of_the_server(
    run: Callable[..., tuple[LocalExecutor, JobDir, Launch]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNESMITH_DATABASE_URL", "postgresql://canary")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary")
    executor, job_dir, launch = run("import os; open('env', 'w').write(str(dict(os.environ)))")
    end_of(executor, job_dir, launch)
    environment = (job_dir.path / "env").read_text()
    assert "canary" not in environment and MARK in environment and str(job_dir.path / "tmp") in environment


def test_the_dead_are_not_alive(run: Callable[..., tuple[LocalExecutor, JobDir, Launch]]) -> None:
    executor, job_dir, launch = run("import time; time.sleep(60)")
    psutil.Process(launch.pid).kill()
    until(lambda: executor.observe(job_dir, launch).state == "gone")
    assert executor.kill(job_dir, launch), "nothing of it may be left"
