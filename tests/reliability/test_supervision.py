"""The scheduler over real processes: what the bars R1, R4, R9, R10 and R13 ask of it, and what once went wrong.

Counts are a tenth of the bars'; TUNESMITH_SOAK=10 (`make soak`) runs them in full.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.reliability.ground import Ground, check_marks
from tunesmith.core.job_dir import JobDir
from tunesmith.core.job_spec import Launch
from tunesmith.executors.local import LocalExecutor

TIMES = int(os.environ.get("TUNESMITH_SOAK", "1"))
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
    job_id = ground.submit(steps=60)
    ground.until_step(job_id, 3)
    ground.ask(job_id, lambda life, job: life.pause(job))
    assert ground.until(job_id, lambda job: job.status == "paused").attempt == 1
    beat = json.loads(ground.dir(job_id).heartbeat.read_text())
    ground.dir(job_id).heartbeat.write_text(json.dumps({**beat, "monotonic_s": beat["monotonic_s"] - 3600}))
    os.utime(ground.dir(job_id).heartbeat, (1, 1))
    ground.ask(job_id, lambda life, job: life.resume(job))
    job = ground.until_ended(job_id)
    assert (job.attempt, job.restarts) == (2, 0)
    ground.check_completed(job_id, 60)


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


def test_workers_killed_at_any_moment_leave_the_result_of_an_undisturbed_run(ground: Ground, tmp_path: Path) -> None:
    """R1: the worker, or its shim, killed at random moments; no committed step is lost, no two attempts overlap."""
    rng = random.Random(1)
    kills = 0
    while kills < 12 * TIMES:
        jobs = [ground.submit(steps=60, save_steps=5, marks=str(tmp_path / "marks")) for _ in range(3)]
        while any(ground.job(job_id).status in ("queued", "running") for job_id in jobs):
            ground.scheduler.tick()
            victims = [process for job_id in jobs for process in ground.members(job_id)]
            if victims and rng.random() < 0.15:
                victim = rng.choice(victims)
                with contextlib.suppress(psutil.Error):
                    victim.kill()
                    kills += 1
            time.sleep(rng.uniform(0, 0.1))
        for job_id in jobs:
            job = ground.job(job_id)
            if (
                job.failure_code == "lost_worker"
            ):  # killed oftener than allowed between two checkpoints: told, and resumable
                ground.ask(job_id, lambda life, job: life.resume(job))
                ground.until_ended(job_id)
            ground.check_completed(job_id, 60)
    assert check_marks(tmp_path / "marks") >= kills / 4


def test_a_sleeping_worker_is_dead_before_the_next_begins(ground: Ground, tmp_path: Path) -> None:
    """R4: SIGSTOP for longer than the lease, then SIGCONT."""
    for _ in range(TIMES):
        job_id = ground.submit(steps=60, marks=str(tmp_path / "marks"))
        ground.until_step(job_id, 2)
        asleep = ground.worker_of(job_id)
        asleep.suspend()
        ground.until(job_id, lambda job: job.attempt == 2 or job.status != "running")
        assert not asleep.is_running() or asleep.status() == psutil.STATUS_ZOMBIE
        ground.until_ended(job_id)
        ground.check_completed(job_id, 60)
    check_marks(tmp_path / "marks")


def test_nothing_is_left_of_a_stubborn_job_that_is_cancelled(make_ground: Callable[..., Ground]) -> None:
    """R13: it ignores SIGTERM, forks twice, and its grandchild has thrown away every mark."""
    ground = make_ground()
    before = {process.pid for process in psutil.process_iter()}
    jobs = [ground.submit(steps=5000, stubborn=True) for _ in range(2)]
    for job_id in jobs:
        ground.until_step(job_id, 2)
    began_s = time.monotonic()
    for job_id in jobs:
        ground.ask(job_id, lambda life, job: life.stop(job))
    for job_id in jobs:
        assert ground.until_ended(job_id).status == "cancelled"
        assert not ground.members(job_id)
    assert time.monotonic() - began_s < 15
    assert not [p for p in psutil.process_iter() if p.pid not in before and _is_left(p)], "a marked-off child is left"


def _is_left(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return process.cmdline() == ["sleep", "120"] and process.status() != psutil.STATUS_ZOMBIE
    return False


def test_pausing_and_resuming_at_random_changes_nothing(ground: Ground) -> None:
    """R13: the result is that of an undisturbed run."""
    rng = random.Random(13)
    for _ in range(TIMES):
        job_id = ground.submit(steps=80, save_steps=1000)
        for _ in range(4):
            ground.until(job_id, lambda job: job.status in ("running", "completed"))
            for _ in range(rng.randint(0, 6)):
                ground.scheduler.tick()
                time.sleep(0.05)
            if ground.job(job_id).status == "running":
                ground.ask(job_id, lambda life, job: life.pause(job))
                if ground.until(job_id, lambda job: job.status != "running").status == "paused":
                    ground.ask(job_id, lambda life, job: life.resume(job))
        ground.until_ended(job_id)
        ground.check_completed(job_id, 80)


def test_a_low_disk_holds_back_starts_with_a_reason(make_ground: Callable[..., Ground]) -> None:
    """R8: jobs wait and start once there is room."""
    ground = make_ground(min_free_bytes=2**60)
    job_id = ground.submit(steps=3)
    for _ in range(3):
        ground.scheduler.tick()
    with ground.database.unit_of_work(readonly=True) as session:
        from tunesmith.features.jobs.lifecycle import Lifecycle

        assert "disk" in ground.scheduler.placement(Lifecycle(session, ground.scheduler.bus)).waits[job_id]
    assert ground.job(job_id).status == "queued"
    ground.scheduler = ground.new_scheduler(min_free_bytes=0)
    ground.until_ended(job_id)
    ground.check_completed(job_id, 3)
