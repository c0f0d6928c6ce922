"""A scheduler without a web server in front of it, its jobs, and processes that run it: for tests that kill often."""

from __future__ import annotations

import contextlib
import os
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from tests import forked
from tests.conftest import lay_database
from tests.reliability.payload import expected
from tunesmith.core.clock import utc_now
from tunesmith.core.job_dir import JobDir
from tunesmith.core.job_status import JobStatus
from tunesmith.executors.local import MARK, LocalExecutor
from tunesmith.features.jobs.lifecycle import Lifecycle
from tunesmith.features.jobs.tables import EventRow, JobRow
from tunesmith.live.bus import Bus
from tunesmith.scheduler.loop import Scheduler
from tunesmith.settings import Settings
from tunesmith.storage.database import Database

PAYLOAD = (sys.executable, "-S", "-E", str(Path(__file__).parent / "payload.py"))
TIMES = int(os.environ.get("TUNESMITH_SOAK", "1"))
"""Counts are a tenth of the bars'; `make soak` sets 10."""
ENDED = ("completed", "failed", "cancelled")


class Ground:
    """One home folder and database with a scheduler on it, moved by hand (`until`) or in processes that can be killed."""

    def __init__(self, home: Path, url: str | None = None, worker: tuple[str, ...] = PAYLOAD, **settings: Any) -> None:
        self.url = url
        defaults = {"lease_s": 4.0, "tick_s": 0.2, "min_free_bytes": 0, "cpu_slots": 4}
        self.settings = Settings(home=home, database_url=url, **{**defaults, **settings})
        self.settings.make_dirs()
        if url is None:
            lay_database(home)
        self.database = Database(self.settings.sqlalchemy_url)
        self.database.migrate()
        self.worker = worker
        self.processes: list[forked.Forked] = []
        self.scheduler = self.new_scheduler()

    def new_scheduler(self, **settings: Any) -> Scheduler:
        """Another server on the same ground, or the same after a restart."""
        changed = self.settings.model_copy(update=settings)
        return Scheduler(changed, self.database, Bus(), LocalExecutor(self.worker))

    def submit(self, start: bool = True, **params: Any) -> int:
        with self.database.unit_of_work() as session:
            life = Lifecycle(session, self.scheduler.bus)
            job = life.jobs.add(
                JobRow(
                    name="sum", method="custom", hyperparameters={}, reasons={}, request={}, spec={}, resources={}, tags=[],
                    output_name=uuid.uuid4().hex, status=JobStatus.CREATED, created_at=utc_now(),
                )
            )  # fmt: skip
            params = {"steps": 30, "pause_s": 0.02, **params}
            cache = str(self.settings.cache_dir)
            job.spec = {"job_id": job.id, "name": "sum", "recipe": "custom", "params": params, "cache_dir": cache}
            if start:
                life.enqueue(job)
            return job.id

    def ask(self, job_id: int, what: Callable[[Lifecycle, JobRow], None]) -> None:
        """What an owner does through the API: one transaction."""
        with self.database.unit_of_work() as session:
            life = Lifecycle(session, self.scheduler.bus)
            what(life, life.jobs.get(job_id, for_update=True))

    def job(self, job_id: int) -> JobRow:
        with self.database.unit_of_work(readonly=True) as session:
            return session.get_one(JobRow, job_id)

    def dir(self, job_id: int) -> JobDir:
        return JobDir(self.settings.jobs_dir / str(job_id))

    def events(self, job_id: int, event_type: str) -> list[dict[str, Any]]:
        with self.database.unit_of_work(readonly=True) as session:
            return Lifecycle(session, self.scheduler.bus).jobs.bodies(job_id, event_type)

    def event(self, job_id: int, seq: int) -> dict[str, Any]:
        """The event of that number, with the attempt that wrote it."""
        with self.database.unit_of_work(readonly=True) as session:
            return Lifecycle(session, self.scheduler.bus).jobs.events(job_id, after=seq - 1, limit=1)[0].body

    def waits(self) -> dict[int, str]:
        """Why each queued job does not start."""
        with self.database.unit_of_work(readonly=True) as session:
            return self.scheduler.placement(Lifecycle(session, self.scheduler.bus)).waits

    def until(self, job_id: int, check: Callable[[JobRow], Any], timeout_s: float = 30, tick: bool = True) -> JobRow:
        """Let the scheduler work (or, with `tick=False`, only wait) until `check(job)` holds."""
        deadline_s = time.monotonic() + timeout_s
        while not check(job := self.job(job_id)):
            assert time.monotonic() < deadline_s, f"job {job_id} stays {job.status}: {job.status_reason}"
            if tick:
                self.scheduler.tick()
            time.sleep(0.05)
        return job

    def until_ended(self, job_id: int, timeout_s: float = 30, tick: bool = True) -> JobRow:
        return self.until(job_id, lambda job: job.status in ENDED, timeout_s, tick)

    def until_step(self, job_id: int, step: int) -> JobRow:
        return self.until(job_id, lambda _: any(e["step"] >= step for e in self.events(job_id, "step")))

    def start_process(self, port: int) -> forked.Forked:
        """A scheduler in a process of its own."""
        settings = {**self.settings.model_dump(), "port": port}
        self.processes = [process for process in self.processes if process.poll() is None]
        self.processes.append(forked.start_scheduler(settings, self.worker, self.settings.home / "scheduler.log"))
        return self.processes[-1]

    def members(self, job_id: int) -> list[psutil.Process]:
        """Every living process of the job that carries its mark: shim, worker, children."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.status() == psutil.STATUS_ZOMBIE:
                    continue
                if process.environ().get(MARK, "").startswith(f"{self.dir(job_id).path}#"):
                    found.append(process)
        return found

    def worker_of(self, job_id: int) -> psutil.Process:
        """The process below the shim, waited for."""
        deadline_s = time.monotonic() + 15
        while True:
            shim = (self.job(job_id).launch or {}).get("pid", 0)
            found = [p for p in self.members(job_id) if p.pid != shim and _parent(p) == shim]
            if found:
                return found[0]
            assert time.monotonic() < deadline_s, "no worker came"
            time.sleep(0.02)

    def check_completed(self, job_id: int, steps: int) -> None:
        """It ended well, with the result of an uninterrupted run, and its events have no gap, repeat or stranger."""
        job = self.job(job_id)
        assert job.status == "completed", f"{job.status}: {job.status_reason}"
        assert (self.dir(job_id).artifacts / "model" / "sum").read_text() == expected(steps)
        with self.database.unit_of_work(readonly=True) as session:
            rows = Lifecycle(session, self.scheduler.bus).jobs.events(job_id, limit=100_000)
        check_events(rows)
        assert rows[-1].body["new"] == "completed" and rows[-1].seq == job.last_seq
        found, wanted = {row.step for row in rows if row.type == "step"}, set(range(1, steps + 1))
        assert found == wanted, (
            f"missing steps {sorted(wanted - found)}, strange ones {sorted(found - wanted, key=str)}"
        )

    def close(self) -> None:
        for server in self.processes:
            server.kill()
            server.wait()
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get(MARK, "").startswith(f"{self.settings.jobs_dir}{os.sep}"):
                    process.kill()
        self.database.close()


def check_events(rows: list[EventRow]) -> None:
    """Numbered without gaps; attempts never go back; steps within one attempt follow each other."""
    assert [row.seq for row in rows] == list(range(1, len(rows) + 1))
    attempts = [row.body["attempt"] for row in rows]
    assert attempts == sorted(attempts)
    for attempt in set(attempts):
        steps = [row.step for row in rows if row.type == "step" and row.body["attempt"] == attempt]
        assert not steps or steps == list(range(steps[0] or 0, (steps[0] or 0) + len(steps)))


def check_marks(marks: Path) -> int:
    """No job had two workers at once: one that begins ends, or never says another word. Returns how many began."""
    present: dict[str, str] = {}
    began = 0
    for line in marks.read_text().splitlines():
        what, job, attempt, pid = line.split()
        if what == "begin":
            began += 1
            assert job not in present or int(present[job].split()[0]) < int(attempt), "an attempt began twice"
            present[job] = f"{attempt} {pid}"
        else:
            assert present[job] == f"{attempt} {pid}", "a worker ended after another had begun"
    return began


def _parent(process: psutil.Process) -> int:
    with contextlib.suppress(psutil.Error):
        return int(process.ppid())
    return 0
