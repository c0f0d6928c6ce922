"""Workers forked from a zygote: the same as cold ones to whoever looks, and at work in a moment."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.recipes.ground import Ground
from tunesmith.core.job_dir import JobDir, write_atomic
from tunesmith.core.job_spec import Launch
from tunesmith.executors.base import Order
from tunesmith.executors.local import LocalExecutor
from tunesmith.executors.warm import WarmExecutor

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="libraries survive a fork on Linux only")


def until(check: Callable[[], Any], timeout_s: float = 60) -> Any:
    deadline_s = time.monotonic() + timeout_s
    while not (found := check()):
        assert time.monotonic() < deadline_s, "it takes too long"
        time.sleep(0.02)
    return found


@pytest.fixture(scope="module")
def warm() -> Iterator[WarmExecutor]:
    executor = WarmExecutor(offline=True)
    executor.warm_up()
    until(executor._is_ready)
    yield executor
    executor.close()


@pytest.fixture
def ground(tmp_path: Path, tiny_model: Path) -> Ground:
    return Ground(tmp_path, tiny_model)


def begin(executor: LocalExecutor, job_dir: JobDir, **more: Any) -> Launch:
    prepared = executor.prepare(job_dir, Order(attempt=1, cpu_threads=1, **more))
    write_atomic(job_dir.launch, prepared.launch)
    prepared.go()
    return prepared.launch


def test_a_forked_worker_trains_and_its_end_is_told(warm: WarmExecutor, ground: Ground) -> None:
    job_dir = ground.run(max_steps=3, batch_size=4).dir
    began_s = time.monotonic()
    launch = begin(warm, job_dir)
    until(lambda: job_dir.events.exists() and '"training"' in job_dir.events.read_text())
    took_s = time.monotonic() - began_s
    observed = until(lambda: (o := warm.observe(job_dir, launch)).state != "alive" and o)
    assert observed.state == "ended" and observed.shim.exit_code == 0, job_dir.log.read_text()
    ended = job_dir.read_exit()
    assert ended and ended.outcome == "completed"
    cold_dir = ground.run(max_steps=3, batch_size=4).dir
    began_s = time.monotonic()
    cold = LocalExecutor()
    cold_launch = begin(cold, cold_dir)
    until(lambda: cold_dir.events.exists() and '"training"' in cold_dir.events.read_text())
    assert took_s < (time.monotonic() - began_s) / 1.5, "what it is for"
    until(lambda: cold.observe(cold_dir, cold_launch).state == "ended")
    models = [d.artifacts / "lora_model" / "adapter_model.safetensors" for d in (job_dir, cold_dir)]
    assert models[0].read_bytes() == models[1].read_bytes()


def test_it_is_known_by_its_mark_and_killed_whole(warm: WarmExecutor, ground: Ground) -> None:
    job_dir = ground.run(max_steps=100_000).dir
    launch = begin(warm, job_dir)
    until(lambda: '"step"' in job_dir.events.read_text() if job_dir.events.exists() else False)
    worker = psutil.Process(launch.pid).children()[0]
    for process in (worker, psutil.Process(launch.pid)):
        assert process.environ()["TUNESMITH_LAUNCH"] == f"{job_dir.path}#1"
        assert os.getsid(process.pid) == launch.pid
    assert LocalExecutor().kill(job_dir, launch), "another server finds it"
    assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE
    assert warm.observe(job_dir, launch).state != "alive"


def test_nothing_begins_before_the_word_to_go(warm: WarmExecutor, ground: Ground) -> None:
    job_dir = ground.run(max_steps=3).dir
    prepared = warm.prepare(job_dir, Order(attempt=1))
    time.sleep(0.2)
    assert (
        warm.observe(job_dir, prepared.launch).state == "alive" and not psutil.Process(prepared.launch.pid).children()
    )
    prepared.abandon()
    assert warm.observe(job_dir, prepared.launch).state == "gone"


def test_a_worker_outlives_the_zygote_and_the_next_one_starts_cold(ground: Ground) -> None:
    executor = WarmExecutor(offline=True)
    executor.warm_up()
    until(executor._is_ready)
    job_dir = ground.run(max_steps=30).dir
    launch = begin(executor, job_dir)
    assert executor._zygote
    executor._zygote.send_signal(signal.SIGSTOP)  # it does not answer: the scheduler must not wait for it
    began_s = time.monotonic()
    next_dir = ground.run(max_steps=3).dir
    next_launch = begin(executor, next_dir)
    assert time.monotonic() - began_s < 5
    for folder, known in ((job_dir, launch), (next_dir, next_launch)):
        observed = until(lambda f=folder, k=known: (o := executor.observe(f, k)).state != "alive" and o)
        assert observed.shim.exit_code == 0, folder.log.read_text()
    executor.close()


def test_a_zygote_that_cannot_begin_is_left_alone_and_workers_start_cold(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tunesmith.executors.warm.PRELOAD", "tunesmith.no_such_module")
    monkeypatch.setattr("tunesmith.executors.warm.RETRY_AFTER_S", 0.0)
    executor = WarmExecutor(offline=True)
    executor.warm_up()
    zygote = executor._zygote
    assert zygote
    until(lambda: zygote.poll() is not None)
    executor.warm_up()
    assert executor._zygote is zygote, "it is not tried again and again"
    job_dir = ground.run(max_steps=3).dir
    launch = begin(executor, job_dir)
    observed = until(lambda: (o := executor.observe(job_dir, launch)).state != "alive" and o)
    assert observed.shim.exit_code == 0, job_dir.log.read_text()
    executor.close()


def test_it_learns_no_secret_and_keeps_the_settings(
    warm: WarmExecutor, ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNESMITH_DATABASE_URL", "postgresql://sesame")
    job_dir = ground.run(max_steps=100_000).dir
    launch = begin(warm, job_dir)
    with contextlib.suppress(psutil.Error):
        until(lambda: job_dir.events.exists())
        for process in [psutil.Process(launch.pid), *psutil.Process(launch.pid).children()]:
            assert b"sesame" not in Path(f"/proc/{process.pid}/environ").read_bytes()
    warm.kill(job_dir, launch)
