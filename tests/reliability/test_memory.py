"""`worker_memory_bytes`: who takes more is ended, alone, and told why."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.reliability import real_worker
from tests.reliability.ground import Ground
from tunesmith.executors.limits import find_places

MIB = 1024**2


def test_a_worker_that_takes_more_than_it_may_is_ended_alone(make_ground: Callable[..., Ground]) -> None:
    if find_places() is None:
        pytest.skip("this machine lets us make no control group")
    ground = make_ground(worker=real_worker.COMMAND, lease_s=30.0)
    server = ground.scheduler
    sibling = ground.submit(steps=60, pause_s=0.1, weights_bytes=10)
    ground.until_step(sibling, 1)
    greedy = ground.submit(start=False, steps=3, pause_s=0.0, weights_bytes=10, holds_bytes=600 * MIB)

    def begin(life: Any, job: Any) -> None:
        job.spec = {**job.spec, "worker_memory_bytes": 300 * MIB}
        life.enqueue(job)

    ground.ask(greedy, begin)
    ground.until(greedy, lambda job: job.out_of_memory_kills == 1)
    told = [event["reason"] for event in ground.events(greedy, "status") if event["old"] == "running"]
    assert told == ["The kernel ended the worker for want of memory (it may use 300 MiB); trying half the batch."]
    ground.ask(greedy, lambda life, job: setattr(job, "out_of_memory_kills", 4))
    job = ground.until_ended(greedy)
    assert (job.status, job.failure_code) == ("failed", "out_of_memory") and "300 MiB" in job.status_reason and job.hint
    assert ground.until_ended(sibling).attempt == 1 and ground.scheduler is server
    ground.check_completed(sibling, 60)
