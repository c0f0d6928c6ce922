"""R2, R3: the queue under schedulers, shims and workers that are killed, or put to sleep, at random.

Counts are a tenth of the bars'; TUNESMITH_SOAK=10 (`make soak`) runs them in full.
"""

from __future__ import annotations

import contextlib
import random
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.conftest import free_port
from tests.forked import Forked
from tests.reliability.ground import ENDED, TIMES, Ground, check_marks


@pytest.mark.parametrize("num_servers", [1, 3])
def test_the_queue_survives_kills_at_random(
    make_ground: Callable[..., Ground], request: pytest.FixtureRequest, tmp_path: Path, num_servers: int
) -> None:
    """R3: 150 kills of workers, shims and schedulers, 2,500 acknowledged steps and checkpoints, on SQLite with one server
    and as much again on PostgreSQL with three: none is lost or doubled, every job ends as if nobody had been killed."""
    url = request.getfixturevalue("postgres_url") if num_servers > 1 else None
    ground = make_ground(url, lease_s=30.0, job_restarts=10_000, cpu_slots=8)
    rng, marks, acknowledged = random.Random(3), tmp_path / "marks", dict[tuple[int, int], dict[str, Any]]()
    jobs, living, steps = list[int](), list[int](), 200
    ports = [free_port() for _ in range(num_servers)]
    servers = [ground.start_process(port) for port in ports]
    kills, deadline_s = 0, time.monotonic() + 250 * TIMES
    while living or kills < 150 * TIMES:
        assert time.monotonic() < deadline_s, (ground.settings.home / "scheduler.log").read_text()[-3000:]
        if kills < 150 * TIMES:  # eight at work and two that wait, until the last kill
            new = [ground.submit(steps=steps, pause_s=0.03, marks=str(marks)) for _ in range(10 - len(living))]
            jobs, living = jobs + new, living + new
            kills += kill_something(ground, living, servers, ports, rng)
        time.sleep(rng.uniform(0, 0.2))
        acknowledged |= last_words(ground, living)
        living = [job_id for job_id in living if ground.job(job_id).status not in ENDED]
    for job_id in jobs:
        ground.check_completed(job_id, steps)
    for (job_id, seq), body in acknowledged.items():
        assert ground.event(job_id, seq) == body, "what was once told has changed"
    committed = sum(len(ground.events(job_id, kind)) for job_id in jobs for kind in ("step", "checkpoint"))
    assert committed >= 2500 * TIMES and acknowledged
    assert check_marks(marks) <= len(jobs) + kills, "at most the start that a kill cut short is repeated"


def kill_something(ground: Ground, jobs: list[int], servers: list[Forked], ports: list[int], rng: random.Random) -> int:
    """Kill a server (and start it again) or any process of a job; how many were killed."""
    if rng.random() < 0.25:
        victim = rng.randrange(len(servers))
        servers[victim].kill()
        servers[victim].wait()
        servers[victim] = ground.start_process(ports[victim])
        return 1
    found = ground.members(rng.choice(jobs)) if jobs else []
    with contextlib.suppress(psutil.NoSuchProcess):
        if found:
            rng.choice(found).kill()
            return 1
    return 0


def last_words(ground: Ground, jobs: list[int]) -> dict[tuple[int, int], dict[str, Any]]:
    """The newest event of each job, as any watcher would have been told it by now."""
    seqs = [(job_id, ground.job(job_id).last_seq) for job_id in jobs]
    return {(job_id, seq): ground.event(job_id, seq) for job_id, seq in seqs}


def test_jobs_outlive_a_killed_server_and_are_adopted(make_ground: Callable[..., Ground], tmp_path: Path) -> None:
    """R2: 50 kills with 8 live jobs each, on five grounds at once: all adopted within 10 s, none started twice, what ended
    meanwhile is told right. The server is away for 0, 1 or 3 s; in full counts for 0, 20 or 60 s."""
    grounds = [make_ground(cpu_slots=8, job_restarts=0, lease_s=30.0) for _ in range(5)]
    marks = [tmp_path / f"marks-{n}" for n in range(len(grounds))]
    with ThreadPoolExecutor(len(grounds)) as pool:
        assert sum(pool.map(kill_and_adopt, grounds, marks)) == 50 * TIMES


def kill_and_adopt(ground: Ground, marks: Path) -> int:
    """Kill the ground's server ten times (times TIMES); how often it was."""
    port, rng, ends = free_port(), random.Random(2), dict[int, str]()
    times = 10 * TIMES
    downtimes_s = (0, 20, 60) if TIMES > 1 else (0, 1, 3)
    server = ground.start_process(port)
    long = {"steps": 100_000, "pause_s": 0.2, "save_steps": 100_000, "marks": str(marks)}
    stay = [ground.submit(**long) for _ in range(5)]
    for number in range(times):
        down_s = downtimes_s[number % 3]
        for outcome in ("completed", "failed", "lying"):
            steps = rng.randint(5, 10 + 5 * down_s)
            pause_s = 0.2
            ends[ground.submit(steps=steps, pause_s=pause_s, outcome=outcome, marks=str(marks))] = outcome
        live = [*stay, *list(ends)[-3:]]
        for job_id in live:
            ground.until(job_id, lambda job: job.last_seq >= 4, tick=False)
        server.kill()
        server.wait()
        time.sleep(down_s)
        before = {job_id: ground.job(job_id).last_seq for job_id in live}
        server = ground.start_process(port)
        deadline_s = time.monotonic() + 10
        for job_id in live:
            left_s = deadline_s - time.monotonic()
            ground.until(
                job_id, lambda job, seqs=before: job.status in ENDED or job.last_seq > seqs[job.id], left_s, tick=False
            )
        for job_id in live[5:]:
            ground.until_ended(job_id, tick=False)
    for job_id in stay:
        ground.ask(job_id, lambda life, job: life.stop(job))
        assert ground.until_ended(job_id, tick=False).status == "cancelled"
    told = {"completed": ("completed", None), "failed": ("failed", "bad_data"), "lying": ("failed", "lost_worker")}
    for job_id, outcome in ends.items():
        job = ground.job(job_id)
        assert (job.status, job.failure_code) == told[outcome], f"job {job_id} was {outcome}: {job.status_reason}"
    assert {ground.job(job_id).attempt for job_id in [*stay, *ends]} == {1}, "adopted, not started again"
    assert check_marks(marks) == len(stay) + len(ends)
    return times


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
    with pytest.raises(Exception, match="does not answer"), ground.database.unit_of_work() as asleep:
        life = Lifecycle(asleep, ground.scheduler.bus)
        assert life.jobs.lock_for_scheduling() and life.jobs.take(other)
        ground.ask(free, lambda life, job: life.enqueue(job))
        ground.scheduler.tick()
        assert ground.job(free).status == "queued", "one server decides at a time"
        ground.until_ended(free, 15)
        life.jobs.running()
    ground.check_completed(free, 5)
