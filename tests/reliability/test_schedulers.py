"""R3: the queue under schedulers that are killed, or put to sleep, at random."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import free_port
from tests.reliability.ground import ENDED, Ground, check_marks

TIMES = int(os.environ.get("TUNESMITH_SOAK", "1"))


@pytest.mark.parametrize("num_servers", [1, 3])
def test_the_queue_survives_schedulers_killed_at_random(
    make_ground: Callable[..., Ground], request: pytest.FixtureRequest, tmp_path: Path, num_servers: int
) -> None:
    """SQLite with one server, PostgreSQL with several: every job ends as if nobody had been killed, none runs twice."""
    url = request.getfixturevalue("postgres_url") if num_servers > 1 else None
    ground, rng, marks = make_ground(url, lease_s=5.0, job_restarts=20), random.Random(3), tmp_path / "marks"
    jobs = [ground.submit(steps=40, marks=str(marks)) for _ in range(12 * TIMES)]
    ports = [free_port() for _ in range(num_servers)]
    servers = [ground.start_process(port) for port in ports]
    kills, deadline_s = 0, time.monotonic() + 120 * TIMES
    while any(ground.job(job_id).status not in ENDED for job_id in jobs):
        assert time.monotonic() < deadline_s, (ground.settings.home / "scheduler.log").read_text()[-3000:]
        time.sleep(rng.uniform(0.2, 2.5))
        victim = rng.randrange(num_servers)
        servers[victim].kill()
        servers[victim].wait()
        kills += 1
        servers[victim] = ground.start_process(ports[victim])
    for job_id in jobs:
        ground.check_completed(job_id, 40)
    assert check_marks(marks) <= len(jobs) + kills, "at most the start that a kill cut short is repeated"
    assert kills >= 3


def test_a_sleeping_server_is_replaced_and_wakes_up_harmless(
    make_ground: Callable[..., Ground], postgres_url: str, tmp_path: Path
) -> None:
    """R4 for servers: another one adopts the job after the lease; the sleeper, awake again, changes nothing."""
    ground, marks = make_ground(postgres_url, lease_s=3.0), tmp_path / "marks"
    sleeper = ground.start_process(free_port())
    job_id = ground.submit(steps=500, marks=str(marks))
    ground.until(job_id, lambda job: job.last_seq > 5, tick=False)
    owner = ground.job(job_id).server_id
    sleeper.send_signal(signal.SIGSTOP)
    ground.until(job_id, lambda job: job.server_id != owner)
    sleeper.send_signal(signal.SIGCONT)
    second = ground.submit(steps=5)
    ground.until_ended(job_id, 60)
    ground.check_completed(job_id, 500)
    ground.until_ended(second)
    assert ground.job(job_id).attempt == 1 and check_marks(marks) == 1, "it was adopted, not started again"


def test_a_server_asleep_in_a_transaction_holds_up_the_others_for_a_while_only(
    make_ground: Callable[..., Ground], postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has the queue's lock and a job's row in hand; PostgreSQL takes both from it."""
    from tunesmith.features.jobs import repository
    from tunesmith.features.jobs.lifecycle import Lifecycle

    monkeypatch.setattr(repository, "MAX_IDLE_S", 2)
    ground = make_ground(postgres_url)
    other, free = ground.submit(start=False), ground.submit(start=False, steps=5)
    with pytest.raises(Exception, match=r"idle|terminat|closed"), ground.database.unit_of_work() as asleep:
        life = Lifecycle(asleep, ground.scheduler.bus)
        assert life.jobs.lock_for_scheduling() and life.jobs.take(other)
        ground.ask(free, lambda life, job: life.enqueue(job))
        ground.scheduler.tick()
        assert ground.job(free).status == "queued", "one server decides at a time"
        ground.until_ended(free, 15)
        life.jobs.running()
    ground.check_completed(free, 5)
