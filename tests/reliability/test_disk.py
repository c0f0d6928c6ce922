"""R8: a disk that really is full, at every write site and in the middle of jobs. Needs the right to mount a small one.

Counts are a tenth of the bar's; TUNESMITH_SOAK=10 (`make soak`) runs them in full.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import text

from tests.conftest import ServerProcess, free_port
from tests.reliability import real_worker
from tests.reliability.ground import ENDED, TIMES, Ground
from tunesmith.core.job_status import JobStatus

RESERVE_BYTES = 1024**2
"""Free space under which nothing starts, as `min_free_bytes`: here a megabyte of 24."""


def fill(disk: Path, leave_bytes: int) -> Path:
    """Take all space but `leave_bytes`."""
    path = disk / "filling"
    free_bytes = max(0, shutil.disk_usage(disk).free - leave_bytes)
    with path.open("wb") as file, contextlib.suppress(OSError):
        os.posix_fallocate(file.fileno(), 0, free_bytes) if free_bytes else None
    return path


def ground_on(make_ground: Callable[..., Ground], disk: Path, url: str | None, slots: int = 4) -> Ground:
    return make_ground(
        url, disk / "home", worker=real_worker.COMMAND, min_free_bytes=RESERVE_BYTES, cpu_slots=slots, lease_s=15.0
    )


def check_database(ground: Ground) -> None:
    if ground.database.is_sqlite:
        with ground.database.unit_of_work(readonly=True) as session:
            assert session.scalar(text("PRAGMA integrity_check")) == "ok"


def test_a_job_whose_checkpoint_finds_no_room_is_paused_with_a_reason(
    make_ground: Callable[..., Ground], small_disk: Path, database_url: str | None
) -> None:
    """What it had finished is kept, others wait; with room again both go on, on the same server."""
    ground = ground_on(make_ground, small_disk, database_url)
    job_id = ground.submit(steps=30, pause_s=0.1, weights_bytes=2 * 1024**2)
    ground.until(job_id, lambda job: job.last_checkpoint_step >= 5)
    filling = fill(small_disk, 700_000)
    job = ground.until(job_id, lambda job: job.status != "running")
    assert (job.status, job.failure_code) == ("paused", "disk_full"), f"{job.status}: {job.status_reason}"
    assert "disk is full" in job.status_reason and "Free some disk space" in job.hint
    waits = ground.submit(steps=3, pause_s=0.0, weights_bytes=10)
    ground.scheduler.tick()
    assert "disk" in ground.waits()[waits] and ground.job(waits).status == JobStatus.QUEUED
    filling.unlink()
    ground.ask(job_id, lambda life, job: life.resume(job))
    for number, steps in ((job_id, 30), (waits, 3)):
        ground.until_ended(number, 30)
        ground.check_completed(number, steps)
    assert ground.job(job_id).failure_code is None


def test_random_fills_lose_nothing(
    make_ground: Callable[..., Ground], small_disk: Path, database_url: str | None
) -> None:
    """Five fills on each database: whatever was being written, by server, shim or worker, no event is lost or doubled, no
    job fails, no database is harmed, and within 30 s of the space's return every job is on its way again."""
    ground, rng = ground_on(make_ground, small_disk, database_url), random.Random(8)
    server = ground.start_process(free_port())
    for _ in range(5 * TIMES):
        jobs = [ground.submit(steps=40, pause_s=0.05, weights_bytes=1024**2) for _ in range(3)]
        for job_id in jobs:
            ground.until(job_id, lambda job: job.last_seq >= 3, tick=False)
        time.sleep(rng.uniform(0, 1))
        filling = fill(small_disk, rng.randrange(rng.choice((1, 5_000, 200_000, 2_000_000))))
        time.sleep(rng.uniform(1, 3))
        filling.unlink(missing_ok=True)
        began_s = time.monotonic()
        for job_id in jobs:
            go_on(ground, job_id, 30 - (time.monotonic() - began_s))
        for job_id in jobs:
            ground.until(job_id, lambda job: job.status in (*ENDED, "paused"), tick=False)
            go_on(ground, job_id, 30)
            ground.until_ended(job_id, tick=False)
            ground.check_completed(job_id, 40)
            shutil.rmtree(ground.dir(job_id).path)
        assert server.poll() is None
    check_database(ground)


def go_on(ground: Ground, job_id: int, within_s: float) -> None:
    """Wait until the job is on its way again or has ended; where it paused for want of space, resume it as its owner would."""
    job = ground.until(job_id, lambda job: job.status != "queued", within_s, tick=False)
    assert job.status != "failed", job.status_reason
    if job.status == "paused":
        assert job.failure_code == "disk_full" and job.hint
        ground.ask(job_id, lambda life, job: life.resume(job))


def test_uploads_to_a_full_disk_get_507_and_the_server_lives_on(
    start_server: Callable[..., ServerProcess], small_disk: Path
) -> None:
    """At every place where bytes of an upload are written, with no space held back."""
    server = start_server(small_disk / "home", TUNESMITH_MIN_FREE_BYTES="0")
    rows = b"input,output\n" + b"a,b\n" * 500_000
    begun = server.client.post("/datasets/uploads", json={"name": "x.csv", "size_bytes": len(rows)}).json()
    url = f"/datasets/uploads/{begun['id']}"
    filling = fill(small_disk, 500_000)
    answers = [
        server.client.put("/datasets/upload", params={"file_name": "x.csv"}, content=rows),
        server.client.post("/datasets/", files={"file": ("x.csv", rows)}),
        server.client.patch(url, params={"offset": 0}, content=rows),
    ]
    for answer in answers:
        assert answer.status_code == 507 and answer.json()["hint"], answer.text
    assert server.client.get("/datasets/").json()["items"] == []
    filling.unlink()
    offset = server.client.get(url).json()["offset"]
    assert server.client.patch(url, params={"offset": offset}, content=rows[offset:]).status_code == 200
    made = server.client.post(f"{url}/commit", json={"sha256": hashlib.sha256(rows).hexdigest()}).json()
    assert server.wait_for(f"/datasets/{made['id']}", lambda d: d["status"] == "ready", 30)["num_rows"] == 500_000
