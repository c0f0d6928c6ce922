"""The scheduler's thread: observe → ingest → decide → act, then place what waits. Safe to repeat at any point."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import shutil
import socket
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING

from tunesmith.core.clock import monotonic_s, utc_now
from tunesmith.core.devices import read_gpus
from tunesmith.core.errors import FailureCode, Unavailable
from tunesmith.core.job_dir import JobDir, read_new_events, whole_lines_bytes, write_atomic
from tunesmith.core.job_spec import Failure, JobSpec, Launch, ResourceRequest
from tunesmith.core.job_status import JobStatus
from tunesmith.core.rounds import Rounds, carried_on
from tunesmith.core.words import plural
from tunesmith.executors.base import Executor, Observation, Order
from tunesmith.executors.identity import boot_id
from tunesmith.executors.local import LocalExecutor
from tunesmith.executors.warm import WarmExecutor
from tunesmith.features.jobs.files import sweep_job
from tunesmith.features.jobs.lifecycle import Lifecycle, control_of
from tunesmith.features.jobs.output import make_folder
from tunesmith.live.bus import Bus
from tunesmith.scheduler.placement import Machine, Placement, Waiting, in_window, place
from tunesmith.scheduler.supervision import Kill, Nothing, Requeue, View, next_step
from tunesmith.settings import Settings
from tunesmith.storage.database import Database, after_commit

if TYPE_CHECKING:
    from tunesmith.features.jobs.tables import JobRow

log = logging.getLogger(__name__)

BUSY_TICK_S = 0.2
"""Pause between rounds while something runs, seconds."""


class Scheduler(Rounds):
    """Starts and watches the jobs of one machine. Several on one database share the work by leases."""

    name = "scheduler"

    def __init__(self, settings: Settings, database: Database, bus: Bus, executor: Executor | None = None) -> None:
        super().__init__()
        self.settings, self.database, self.bus = settings, database, bus
        local = WarmExecutor(offline=settings.hub_offline) if settings.warm_workers else LocalExecutor()
        self.executor: Executor = executor or local
        # Devices belong to this start of this machine; its name may change while jobs run.
        self.host = boot_id()[:80]
        # SQLite serves one server at a time, so whoever comes next need not wait for the lease of the one before.
        named = f"{socket.gethostname()[:40]}:{settings.port}:{boot_id()[:13]}"
        self.server_id = "the only server" if database.is_sqlite else named
        self._renewed_s: dict[tuple[int, int], float] = {}
        self._gpus: list[int] | None = None
        self.rest_s = settings.tick_s
        self._has_looked = False
        self.on_completed: Callable[[], None] = lambda: None
        """Called after a job was completed."""

    # -- the thread -------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Leave the workers running; the next server finds them."""
        super().stop()
        self.executor.close()

    def look(self) -> None:
        self.tick()
        if self._has_looked:
            self.executor.warm_up()  # not before the server has had a moment to answer
        self._has_looked = True

    def tick(self) -> None:
        """One round."""
        with self.database.unit_of_work(readonly=True) as session:
            ids = [job.id for job in Lifecycle(session, self.bus).jobs.with_process()]
        self.rest_s = BUSY_TICK_S if ids else self.settings.tick_s
        for job_id in ids:
            with carried_on(f"watching job {job_id}"):
                self._watch(job_id)
        self._renewed_s = {watched: at_s for watched, at_s in self._renewed_s.items() if watched[0] in ids}
        self._place()

    # -- one job that has a process ---------------------------------------------------------------------------------

    def job_dir(self, job_id: int) -> JobDir:
        return JobDir(self.settings.jobs_dir / str(job_id))

    def _watch(self, job_id: int) -> None:
        job_dir = self.job_dir(job_id)
        with self.database.unit_of_work() as session:
            life = Lifecycle(session, self.bus)
            job = life.jobs.take(job_id)
            if job is None or job.launch is None or not self._has_lease(life, job):
                return
            launch = Launch.model_validate(job.launch)
            self._write_control(job, job_dir)
            observed = self.executor.observe(job_dir, launch)
            drained = self._ingest(life, job, job_dir)
            if observed.state != "alive" and not drained:
                self._busy = True
                return  # a flood of events: the rest comes with the next round, before anything is decided
            view = self._view(job, job_dir, observed)
        self._act(job_id, launch, job_dir, view)

    def _has_lease(self, life: Lifecycle, job: JobRow) -> bool:
        """Whether the job is ours to watch. The row is locked and names its server; the lease is renewed now and then."""
        watched, now_s = (job.id, job.attempt), monotonic_s()
        renewed_s = self._renewed_s.get(watched)
        if job.server_id == self.server_id and renewed_s is not None and now_s - renewed_s < self.settings.lease_s / 4:
            return True
        if not life.jobs.renew_lease(job, self.server_id, self.settings.lease_s):
            return False
        self._renewed_s[watched] = now_s
        return True

    def _write_control(self, job: JobRow, job_dir: JobDir) -> None:
        wanted = control_of(job)
        if job_dir.read_control() != wanted:
            write_atomic(job_dir.control, wanted)
        if (job.wants_stop or job.wants_pause) and job.stopping_since is None:
            job.stopping_since = utc_now()

    def _ingest(self, life: Lifecycle, job: JobRow, job_dir: JobDir) -> bool:
        """Take in new events; whether that was all."""
        found = read_new_events(job_dir.events, job.events_offset)
        if found.bad_lines:
            log.warning("job %s wrote %s that could not be read as events", job.id, plural(found.bad_lines, "line"))
        if found.next_offset != job.events_offset:
            life.record_events(job, found.events, found.next_offset)
            return read_new_events(job_dir.events, found.next_offset).next_offset == found.next_offset
        return True

    def _view(self, job: JobRow, job_dir: JobDir, observed: Observation) -> View:
        record = job_dir.read_exit()
        return View(
            state=observed.state,
            wants_stop=job.wants_stop,
            wants_pause=job.wants_pause,
            asked_for_s=(utc_now() - job.stopping_since).total_seconds() if job.stopping_since else 0.0,
            heartbeat_age_s=observed.heartbeat_age_s,
            lease_s=self.settings.lease_s,
            stillness=observed.stillness,
            stall_s=self.settings.stall_s,
            exit=record if record and record.attempt == job.attempt else None,
            shim=observed.shim,
            restarts=job.restarts,
            max_restarts=self.settings.job_restarts,
            out_of_memory_kills=job.out_of_memory_kills,
            worker_memory_bytes=job.spec.get("worker_memory_bytes"),
        )

    def _act(self, job_id: int, launch: Launch, job_dir: JobDir, view: View) -> None:
        step = next_step(view)
        if isinstance(step, Nothing):
            return
        if isinstance(step, Kill) and step.dump:
            self.executor.dump(job_dir, launch)
        if not self.executor.kill(job_dir, launch):
            log.error("job %s: some of its processes cannot be ended; trying again", job_id)
            return
        if isinstance(step, Kill):
            log.warning("job %s: ended attempt %s: %s", job_id, launch.attempt, step.reason)
            return
        self._finish(job_id, launch, job_dir, view)

    def _finish(self, job_id: int, launch: Launch, job_dir: JobDir, view: View) -> None:
        """Nothing of the attempt lives any more: say what became of the job, and give its devices back."""
        size_bytes = job_dir.size_bytes()
        with self.database.unit_of_work() as session:
            life = Lifecycle(session, self.bus)
            job = life.jobs.take(job_id)
            if job is None or job.attempt != launch.attempt or job.launch is None:
                return
            self._ingest(life, job, job_dir)
            # Its owner may have asked for something since we looked: a new attempt would forget that.
            step = next_step(dataclasses.replace(view, wants_stop=job.wants_stop, wants_pause=job.wants_pause))
            assert not isinstance(step, Nothing | Kill)  # these are for the living
            job.launch = job.server_id = job.lease_until = job.stopping_since = None
            job.size_bytes = size_bytes
            life.jobs.release_devices(job.id)
            if isinstance(step, Requeue):
                if step.out_of_memory:
                    job.out_of_memory_kills += 1
                elif step.counts:
                    job.restarts += 1
                restarts, kills = job.restarts, job.out_of_memory_kills
                life.transition(job, JobStatus.QUEUED, step.reason)
                job.restarts, job.out_of_memory_kills = restarts, kills
            else:
                life.transition(job, step.status, step.reason, step.failure)
                if step.status == JobStatus.COMPLETED:
                    after_commit(session, self.on_completed)
        with contextlib.suppress(OSError):  # the rounds of `leftovers` come again
            sweep_job(job_dir)

    # -- the queue --------------------------------------------------------------------------------------------------

    def gpus(self) -> list[int]:
        """Indices of the GPUs that this server may give out, asked for once."""
        if self._gpus is None:
            self._gpus = _visible([gpu.index for gpu in read_gpus()], os.environ.get("CUDA_VISIBLE_DEVICES"))
        return self._gpus

    def placement(self, life: Lifecycle) -> Placement:
        """What would start now, and why the rest waits."""
        queue = life.jobs.turns()
        if not queue:
            return Placement()
        after = life.jobs.statuses([job.after_job_id for job in queue if job.after_job_id])
        waiting = [
            Waiting(
                job_id=job.id,
                num_gpus=int(job.resources.get("num_gpus", 0)),
                not_before=job.not_before,
                off_peak=job.off_peak,
                after_job_id=job.after_job_id,
                after_status=JobStatus(after[job.after_job_id]) if job.after_job_id in after else None,
                after_failure=job.after_failure,
            )
            for job in queue
        ]
        return place(waiting, self._machine(life), utc_now())

    def _machine(self, life: Lifecycle) -> Machine:
        held = life.jobs.held_devices(self.host)
        mine = [job for job in life.jobs.with_process() if (job.launch or {}).get("boot_id") == boot_id()]
        on_cpu = sum(1 for job in mine if not job.resources.get("num_gpus"))
        folders = [self.settings.home, *([self.settings.output_dir] if self.settings.output_dir else [])]
        free_bytes = min(shutil.disk_usage(folder).free for folder in folders if folder.is_dir())
        return Machine(
            free_gpus=[gpu for gpu in self.gpus() if gpu not in held],
            num_gpus=len(self.gpus()),
            cpu_slots=self.settings.cpu_slots,
            free_cpu_slots=max(0, self.settings.cpu_slots - on_cpu),
            disk_is_low=free_bytes < self.settings.min_free_bytes,
            is_off_peak=in_window(self.settings.off_peak, datetime.now().astimezone()),
            off_peak=self.settings.off_peak,
        )

    def _place(self) -> None:
        with self.database.unit_of_work(readonly=True) as session:
            if not Lifecycle(session, self.bus).jobs.has_waiting():
                return
        while self._start_one():
            self._busy = True

    def _start_one(self) -> bool:
        """Start the job whose turn it is, in one transaction that ends with its identity written down."""
        with contextlib.ExitStack() as undo:
            with self.database.unit_of_work() as session:
                life = Lifecycle(session, self.bus)
                if not life.jobs.lock_for_scheduling():
                    return False
                starts = self.placement(life).starts
                if not starts:
                    return False
                job_id, devices = starts[0]
                job = life.jobs.get(job_id, for_update=True)
                try:
                    job_dir = self._make_dir(job)
                except Unavailable as error:
                    why = Failure(code=FailureCode.INVALID_SETTINGS, message=error.message, hint=error.hint)
                    life.transition(job, JobStatus.FAILED, failure=why)
                    return True
                job.events_offset = whole_lines_bytes(job_dir.events, job.events_offset)
                prepared = self.executor.prepare(job_dir, self._order(job, devices))
                undo.callback(prepared.abandon)
                job.attempt = prepared.launch.attempt
                job.launch = prepared.launch.model_dump(mode="json")
                life.jobs.hold_devices(self.host, job.id, devices)
                life.transition(job, JobStatus.RUNNING)
                session.flush()
                life.jobs.renew_lease(job, self.server_id, self.settings.lease_s)
                self._write_control(job, job_dir)
                write_atomic(job_dir.launch, prepared.launch)
            undo.pop_all()
        prepared.go()
        return True

    def _make_dir(self, job: JobRow) -> JobDir:
        job_dir = make_folder(self.settings, job.id, job.output_name)
        sweep_job(job_dir)
        if not job_dir.spec.exists():
            write_atomic(job_dir.spec, JobSpec.model_validate(job.spec))
        return job_dir

    def _order(self, job: JobRow, devices: list[int]) -> Order:
        resources = ResourceRequest.model_validate(job.resources)
        return Order(
            attempt=job.attempt + 1,
            devices=devices,
            cpu_threads=resources.cpu_threads,
            offline=self.settings.hub_offline,
            timeout_s=job.timeout_s,
            out_of_memory_kills=job.out_of_memory_kills,
        )


def _visible(gpus: list[int], variable: str | None) -> list[int]:
    """Those of `gpus` that CUDA_VISIBLE_DEVICES leaves to this server; all when it does not name them by number."""
    named = (variable or "").replace(" ", "").split(",")
    if variable is None or not all(name.isdigit() for name in named if name):
        return gpus
    return [gpu for gpu in gpus if str(gpu) in named]
