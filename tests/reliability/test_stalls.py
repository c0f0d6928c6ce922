"""Nothing hangs for ever: a disk that fills while a worker starts, and a worker that is stuck."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

from tests.reliability import real_worker
from tests.reliability.ground import Ground
from tests.reliability.test_disk import RESERVE_BYTES, fill


def test_a_worker_that_is_stuck_is_dumped_ended_and_restarted(make_ground: Callable[..., Ground]) -> None:
    """Though a thread beside it reports what the job uses, and the shim beats."""
    ground = make_ground(worker=real_worker.COMMAND, stall_s=4.0, lease_s=30.0)
    job_id = ground.submit(steps=12, pause_s=0.01, weights_bytes=10, stuck_at=8, stuck_attempts=1)
    ground.until(job_id, lambda job: job.restarts == 1)
    told = next(event["reason"] for event in ground.events(job_id, "status") if event["old"] == "running")
    assert "made no progress for" in told and "in the phase training; its stack is in the log" in told
    log = ground.dir(job_id).log.read_text()
    assert "most recent call first" in log and "in stand_still" in log
    ground.until_ended(job_id)
    ground.check_completed(job_id, 12)


def test_one_that_is_held_for_a_while_is_not_taken_for_stuck(make_ground: Callable[..., Ground]) -> None:
    ground = make_ground(worker=real_worker.COMMAND, stall_s=3.0, lease_s=60.0)
    job_id = ground.submit(steps=20, pause_s=0.1, weights_bytes=10)
    ground.until_step(job_id, 2)
    worker = ground.worker_of(job_id)
    worker.send_signal(signal.SIGSTOP)
    until_s = time.monotonic() + 6
    while time.monotonic() < until_s:
        ground.scheduler.tick()
        time.sleep(0.1)
    worker.send_signal(signal.SIGCONT)
    assert ground.until_ended(job_id).attempt == 1
    ground.check_completed(job_id, 20)


def test_a_disk_that_fills_while_the_worker_starts_holds_no_slot(
    make_ground: Callable[..., Ground], small_disk: Path
) -> None:
    """At two moments of the start, with a worker that prints. With room again, every job gets to its end."""
    more = {"output_dir": small_disk, "min_free_bytes": RESERVE_BYTES, "lease_s": 5.0}
    ground = make_ground(worker=real_worker.COMMAND, **more)
    for wait_s in (0.0, 0.6):
        job_id = ground.submit(steps=5, pause_s=0.0, weights_bytes=10, prints_bytes=200_000)
        ground.until(job_id, lambda job: job.status == "running")
        time.sleep(wait_s)
        filling = fill(small_disk, 0)
        job = ground.until(job_id, lambda job: job.status != "running", 30)
        assert job.status in ("paused", "queued", "completed"), f"{job.status}: {job.status_reason}"
        assert job.status != "paused" or job.failure_code == "disk_full"
        filling.unlink()
        if job.status == "paused":
            ground.ask(job_id, lambda life, job: life.resume(job))
        ground.until_ended(job_id)
        ground.check_completed(job_id, 5)


def test_a_full_disk_alone_ends_no_worker(make_ground: Callable[..., Ground], small_disk: Path) -> None:
    """One that writes nothing just then is still seen to live."""
    ground = make_ground(worker=real_worker.COMMAND, output_dir=small_disk, lease_s=4.0)
    job_id = ground.submit(steps=4, pause_s=0.0, weights_bytes=10, rests_s=7.0)
    ground.until(job_id, lambda _: ground.dir(job_id).heartbeat.exists() and ground.events(job_id, "phase"))
    filling = fill(small_disk, 0)
    until_s = time.monotonic() + 6
    while time.monotonic() < until_s:
        ground.scheduler.tick()
        time.sleep(0.1)
    filling.unlink()
    assert ground.until_ended(job_id).attempt == 1
    ground.check_completed(job_id, 4)
