"""What happens to a job once it is completed: what it has left goes where its recipe says (`completion.py`), and the jobs that
should follow it are submitted.

Each job is dealt with in one transaction that also sets `registered_at`, so a kill leaves either all or nothing of it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from tunesmith.core.clock import monotonic_s, utc_now
from tunesmith.core.errors import TunesmithError
from tunesmith.core.rounds import Rounds
from tunesmith.features.jobs import completion, following
from tunesmith.features.jobs.lifecycle import Lifecycle
from tunesmith.live.bus import Bus
from tunesmith.settings import Settings
from tunesmith.storage.database import Database, DatabaseError

log = logging.getLogger(__name__)

TROUBLE = (OSError, TunesmithError, DatabaseError, ValueError, LookupError)
"""What a disk, a database or the files of one job may bring."""
AGAIN_AFTER_S = 60.0
"""Pause before a job that could not be dealt with (a full disk, say) is tried again."""


class Registrar(Rounds):
    """Deals with completed jobs, one after the other. What is half done when it is stopped is done again."""

    name = "registrar"
    rest_s = 5.0

    def __init__(
        self, settings: Settings, database: Database, bus: Bus, wake_scheduler: Callable[[], None] = lambda: None
    ) -> None:
        super().__init__()
        self.settings, self.database, self.bus = settings, database, bus
        self.wake_scheduler = wake_scheduler
        self._not_before_s: dict[int, float] = {}

    def look(self) -> None:
        """Deal with every completed job that is due. One that cannot be dealt with holds up no other."""
        for job_id in self._due():
            if self._stop.is_set():
                return
            try:
                self.deal_with(job_id)
                self._not_before_s.pop(job_id, None)
            except TROUBLE as error:
                self._not_before_s[job_id] = monotonic_s() + AGAIN_AFTER_S
                log.warning("job %s cannot be registered now: %s", job_id, error)

    def _due(self) -> list[int]:
        now_s = monotonic_s()
        waiting = [job_id for job_id, at_s in self._not_before_s.items() if at_s > now_s]
        with self.database.unit_of_work(readonly=True) as session:
            return Lifecycle(session, self.bus).jobs.to_register(without=waiting)

    def deal_with(self, job_id: int) -> None:
        """Register, hand on scores, submit what follows. Raises `DiskFull` or `OSError` when it has to be tried again."""
        prepared = completion.prepare(self.settings, self.database, job_id)
        with self.database.unit_of_work() as session:
            life = Lifecycle(session, self.bus)
            job = life.jobs.take(job_id)
            if job is None or job.registered_at is not None or job.status != "completed":
                return
            completion.carry_out(self.settings, session, life, job, prepared)
            followers = following.submit(self.settings, session, self.bus, job)
            job.registered_at = utc_now()
        self.bus.publish("registry", {"job_id": job_id})
        if followers:
            self.wake_scheduler()
