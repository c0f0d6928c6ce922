"""Every request is written down, many in one transaction, beside the requests themselves."""

from __future__ import annotations

import logging
import queue
import threading
from collections import defaultdict
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from tunesmith.core.clock import monotonic_s, utc_now
from tunesmith.features.deployments.repository import RequestRepository, RevisionRepository
from tunesmith.features.registry import service as registry
from tunesmith.storage.database import Database, DatabaseError

log = logging.getLogger(__name__)

FLUSH_EVERY_S = 0.5
MAX_HELD = 50_000
"""Requests that may wait to be written; while the database cannot take them, more are forgotten."""
KEEP = timedelta(days=90)
FORGET_EVERY_S = 3600.0


class Recorder:
    """A thread that writes."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self._rows: queue.Queue[dict[str, Any]] = queue.Queue(MAX_HELD)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._forgot_s = monotonic_s()

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="requests", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """What is there is written first."""
        self._stop.set()
        if self._thread:
            self._thread.join(10)

    def add(self, row: dict[str, Any]) -> None:
        """Without waiting."""
        try:
            self._rows.put_nowait(row)
        except queue.Full:
            log.warning("a request is not written down: %s wait already", MAX_HELD)

    def flush(self) -> None:
        """Write what is there."""
        rows = []
        while not self._rows.empty():
            rows.append(self._rows.get_nowait())
        if not rows:
            return
        with self.database.unit_of_work() as session:
            RequestRepository(session).add_all(rows)
            versions = {
                row.id: row.version_id for row in RevisionRepository(session).with_ids({r["revision_id"] for r in rows})
            }
            use: dict[int, dict[str, Any]] = defaultdict(
                lambda: {"requests": 0, "errors": 0, "latency_sum_s": 0.0, "tokens": 0}
            )
            for row in rows:
                if version_id := versions.get(row["revision_id"]):
                    counts = use[version_id]
                    counts["requests"] += 1
                    counts["errors"] += row["status"] >= 500
                    counts["latency_sum_s"] += row["latency_s"]
                    counts["tokens"] += row["completion_tokens"] or 0
            for version_id, counts in use.items():
                registry.record_use(session, version_id, **counts)

    def _run(self) -> None:
        while not self._stop.wait(FLUSH_EVERY_S):
            self._safely(self.flush)
            if monotonic_s() - self._forgot_s > FORGET_EVERY_S:
                self._forgot_s = monotonic_s()
                self._safely(self._forget)
        self._safely(self.flush)

    def _forget(self) -> None:
        with self.database.unit_of_work() as session:
            RequestRepository(session).forget_before(utc_now() - KEEP)

    @staticmethod
    def _safely(work: Callable[[], None]) -> None:
        """The database may be away for a while: that must not end the thread."""
        try:
            work()
        except (DatabaseError, OSError) as error:
            log.warning("requests cannot be written down now: %s", error)
