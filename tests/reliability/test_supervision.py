"""The scheduler over real processes: what the bars R1, R4, R9, R10 and R13 ask of it, and what once went wrong.

Counts are a tenth of the bars'; TUNESMITH_SOAK=10 (`make soak`) runs them in full.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.reliability.ground import ENDED, TIMES, Ground, check_marks
from tunesmith.core.job_dir import JobDir
from tunesmith.core.job_spec import Launch
from tunesmith.executors.local import LocalExecutor

JSON_WORKER = """
import json, sys
folder = sys.argv[1]
event = lambda **e: open(folder + "/events.jsonl", "a").write(json.dumps({"attempt": 1, **e}) + chr(10))
end = lambda **e: open(folder + "/exit.json", "w").write(json.dumps({"attempt": 1, **e}))
step = lambda n: event(type="step", step=n, total_steps=1, epoch=0, loss=1, learning_rate=0)
"""
BAD_JOBS = {
    "NUL in an event": ("event(type='notice', message='a\\0b'); end(outcome='completed')", "completed"),
    "NUL in a failure": (
        "end(outcome='failed', failure={'code': 'script_failed', 'message': 'a\\0b', 'details': [{'m\\0': 'x\\0'}]})",
        "failed",
    ),
    "three billion steps": ("step(3 * 10**9); end(outcome='completed')", "completed"),
    "more steps than can be counted": ("step(10**25); end(outcome='completed')", "completed"),
    "a garbled control file": ("open(folder + '/control.json', 'w').write('{'); end(outcome='completed')", "completed"),
    "a garbled exit record": ("open(folder + '/exit.json', 'w').write('{')", "failed"),
    "success said, failure seen": ("end(outcome='completed'); sys.exit(5)", "failed"),
}


@pytest.mark.parametrize("bad", BAD_JOBS, ids=list(BAD_JOBS))
def test_whatever_a_job_writes_it_ends_and_the_next_one_runs(
    make_ground: Callable[..., Ground], database_url: str | None, bad: str
) -> None:
    code, expected = BAD_JOBS[bad]
    ground = make_ground(database_url, worker=(sys.executable, "-c", JSON_WORKER + code), job_restarts=0)
    assert ground.until_ended(ground.submit()).status == expected
    assert ground.until_ended(ground.submit()).status == expected


def test_a_job_that_cannot_be_watched_holds_up_no_other(make_ground: Callable[..., Ground]) -> None:
    ground = make_ground()
    bad, good = ground.submit(steps=500), ground.submit(steps=5)
    ground.until(bad, lambda job: job.status == "running")

    def spoil(job: object) -> None:
        job.launch = {"what": "is this"}  # type: ignore[attr-defined]

    ground.ask(bad, lambda _, job: spoil(job))
    ground.until_ended(good)
    ground.check_completed(good, 5)


def test_a_long_pause_does_not_make_the_next_attempt_look_dead(ground: Ground) -> None:
    """The heartbeat that the attempt before left behind says nothing of this one."""
    job_id = ground.submit(steps=200)
    ground.until_step(job_id, 3)
    ground.ask(job_id, lambda life, job: life.pause(job))
    assert ground.until(job_id, lambda job: job.status == "paused").attempt == 1
    beat = json.loads(ground.dir(job_id).heartbeat.read_text())
    ground.dir(job_id).heartbeat.write_text(json.dumps({**beat, "monotonic_s": beat["monotonic_s"] - 3600}))
    os.utime(ground.dir(job_id).heartbeat, (1, 1))
    ground.ask(job_id, lambda life, job: life.resume(job))
    job = ground.until_ended(job_id)
    assert (job.attempt, job.restarts) == (2, 0)
    ground.check_completed(job_id, 200)


def test_setting_the_clock_ends_no_worker(ground: Ground) -> None:
    """R10: a heartbeat's age is told by a clock that nobody sets, whatever the file's date says."""
    job_id = ground.submit(steps=40)
    ground.until_step(job_id, 1)
    for jump_s in (-86400, -3600, 600, 86400):
        for path in (ground.dir(job_id).heartbeat, ground.dir(job_id).launch):
            os.utime(path, (time.time() + jump_s,) * 2)
        ground.scheduler.tick()
    assert ground.until_ended(job_id).attempt == 1
    ground.check_completed(job_id, 40)


@pytest.mark.parametrize(("wish", "becomes"), [("stop", "cancelled"), ("pause", "paused")])
def test_what_its_owner_asks_for_while_a_lost_job_is_cleared_away_is_done(
    make_ground: Callable[..., Ground], wish: str, becomes: str
) -> None:
    """The request comes after the scheduler has looked and before it writes: a new attempt must not forget it."""
    ground = make_ground()
    job_id = ground.submit(steps=500)
    ground.until_step(job_id, 2)

    class Slow(LocalExecutor):
        def kill(self, job_dir: JobDir, launch: Launch) -> bool:
            ground.ask(job_id, lambda life, job: getattr(life, wish)(job))
            return super().kill(job_dir, launch)

    ground.scheduler.executor = Slow(ground.worker)
    ground.worker_of(job_id).kill()
    job = ground.until(job_id, lambda job: job.status != "running")
    assert (job.status, job.attempt) == (becomes, 1)


def test_the_next_server_on_sqlite_adopts_at_once_whatever_its_port(make_ground: Callable[..., Ground]) -> None:
    ground = make_ground(lease_s=30.0)
    job_id = ground.submit(steps=500)
    ground.until_step(job_id, 2)
    before = ground.job(job_id).last_seq
    ground.scheduler = ground.new_scheduler(port=8001)
    began_s = time.monotonic()
    ground.until(job_id, lambda job: job.last_seq > before + 5)
    assert time.monotonic() - began_s < 10 and ground.job(job_id).attempt == 1


def test_workers_killed_at_any_moment_leave_the_result_of_an_undisturbed_run(
    make_ground: Callable[..., Ground], tmp_path: Path
) -> None:
    """R1: 100 kills of workers, eight at work at a time: no committed step is lost, no two attempts overlap."""
    ground, rng = make_ground(job_restarts=10_000, cpu_slots=8, lease_s=30.0), random.Random(1)
    marks, kills, steps = tmp_path / "marks", 0, 100
    jobs, living = list[int](), list[int]()
    while living or kills < 100 * TIMES:
        if kills < 100 * TIMES:
            new = [ground.submit(steps=steps, save_steps=5, marks=str(marks)) for _ in range(8 - len(living))]
            jobs, living = jobs + new, living + new
            kills += kill_worker(ground, rng.choice(living))
        ground.scheduler.tick()
        time.sleep(rng.uniform(0, 0.15))
        living = [job_id for job_id in living if ground.job(job_id).status not in ENDED]
    for job_id in jobs:
        ground.check_completed(job_id, steps)
    assert len(jobs) <= check_marks(marks) <= len(jobs) + kills


def kill_worker(ground: Ground, job_id: int) -> int:
    """Kill the process below the shim, if there is one now; how many were killed."""
    shim = (ground.job(job_id).launch or {}).get("pid")
    for process in ground.members(job_id):
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.pid != shim:
                process.kill()
                return 1
    return 0


def test_a_sleeping_worker_is_dead_before_the_next_begins(
    make_ground: Callable[..., Ground], database_url: str | None, tmp_path: Path
) -> None:
    """R4: ten workers on each database get SIGSTOP for longer than the lease; nothing of theirs comes after a successor's."""
    ground, marks = make_ground(database_url, cpu_slots=10), tmp_path / "marks"
    for _ in range(TIMES):
        jobs = [ground.submit(steps=60, pause_s=0.05, marks=str(marks)) for _ in range(10)]
        asleep: dict[int, psutil.Process] = {}
        for job_id in jobs:
            ground.until_step(job_id, 2)
            asleep[job_id] = ground.worker_of(job_id)
            asleep[job_id].suspend()
        for job_id in jobs:
            ground.until(job_id, lambda job: job.attempt == 2 or job.status != "running")
            assert not asleep[job_id].is_running() or asleep[job_id].status() == psutil.STATUS_ZOMBIE
        for job_id in jobs:
            ground.until_ended(job_id)
            ground.check_completed(job_id, 60)
            assert ground.job(job_id).attempt == 2
    assert check_marks(marks) == 20 * TIMES


def test_pause_resume_and_cancel_at_random_of_jobs_that_resist(make_ground: Callable[..., Ground]) -> None:
    """R13: 30 jobs that ignore SIGTERM and every request to stop, each with a child that has forked twice and thrown away
    every mark. Paused and resumed, the result is that of an undisturbed run; cancelled, nothing is left within 15 s."""
    for _ in range(TIMES):
        ground, rng = make_ground(cpu_slots=30, lease_s=30.0), random.Random(13)
        rest = {"pause_s": 0.1, "save_steps": 100_000, "stubborn": True}
        doomed = {ground.submit(steps=100_000, **rest) for _ in range(15)}
        jobs = [*doomed, *(ground.submit(steps=80, **rest) for _ in range(15))]
        asked_s: dict[int, float] = {}
        took_s: dict[int, float] = {}
        living = list(jobs)
        while living:
            ground.scheduler.tick()
            for job_id in living:
                if job_id in doomed and job_id not in asked_s and rng.random() < 0.05:
                    if ground.job(job_id).status in ("running", "paused"):
                        ground.ask(job_id, lambda life, job: life.stop(job))
                        asked_s[job_id] = time.monotonic()
                elif job_id not in asked_s:
                    pause_or_resume(ground, job_id, rng)
            for job_id in [n for n in living if ground.job(n).status in ENDED]:
                living.remove(job_id)
                assert not ground.members(job_id) and not left_by(ground, job_id)
                took_s[job_id] = time.monotonic() - asked_s.get(job_id, math.inf)
            time.sleep(0.05)
        for job_id in jobs:
            if job_id in doomed:
                assert ground.job(job_id).status == "cancelled" and took_s[job_id] < 15
            else:
                ground.check_completed(job_id, 80)
        assert max(ground.job(job_id).attempt for job_id in jobs) > 1, "none was paused and resumed"


def pause_or_resume(ground: Ground, job_id: int, rng: random.Random) -> None:
    job = ground.job(job_id)
    if job.status == "paused":
        ground.ask(job_id, lambda life, job: life.resume(job))
    elif job.status == "running" and not job.wants_pause and job.attempt <= 2 and rng.random() < 0.01:
        ground.ask(job_id, lambda life, job: life.pause(job))


def left_by(ground: Ground, job_id: int) -> list[int]:
    """Its grandchildren that still live."""
    path = ground.dir(job_id).path / "left"
    found = []
    for pid in map(int, path.read_text().split()) if path.exists() else ():
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            if process.cmdline() == ["sleep", "120"] and process.status() != psutil.STATUS_ZOMBIE:
                found.append(pid)
    return found


def test_a_low_disk_holds_back_starts_with_a_reason(make_ground: Callable[..., Ground]) -> None:
    """R8: jobs wait and start once there is room."""
    ground = make_ground(min_free_bytes=2**60)
    job_id = ground.submit(steps=3)
    for _ in range(3):
        ground.scheduler.tick()
    assert "disk" in ground.waits()[job_id]
    assert ground.job(job_id).status == "queued"
    ground.scheduler = ground.new_scheduler(min_free_bytes=0)
    ground.until_ended(job_id)
    ground.check_completed(job_id, 3)
