"""Every request is written down, many in one transaction, beside the requests themselves."""

from __future__ import annotations

import logging
import queue
import threading
from collections import defaultdict
from datetime import timedelta
from typing import Any

from tunesmith.core.clock import monotonic_s, utc_now
from tunesmith.core.rounds import Rounds, carried_on
from tunesmith.features.deployments.repository import RequestRepository, RevisionRepository
from tunesmith.features.registry import service as registry
from tunesmith.storage.database import Database

log = logging.getLogger(__name__)

MAX_HELD = 50_000
"""Requests that may wait to be written; while the database cannot take them, more are forgotten."""
KEEP = timedelta(days=90)
FORGET_EVERY_S = 3600.0


class Recorder(Rounds):
    """Writes, and forgets what is old."""

    name = "requests"
    rest_s = 0.5

    def __init__(self, database: Database) -> None:
        super().__init__()
        self.database = database
        self._unwritten: list[dict[str, Any]] = []
        self._writing = threading.Lock()
        self._rows: queue.Queue[dict[str, Any]] = queue.Queue(MAX_HELD)
        self._forgot_s = monotonic_s()

    def stop(self) -> None:
        """What is there is written first."""
        super().stop()
        with carried_on("writing down the last requests"):
            self.flush()

    def add(self, row: dict[str, Any]) -> None:
        """Without waiting."""
        try:
            self._rows.put_nowait(row)
        except queue.Full:
            log.warning("a request is not written down: %s wait already", MAX_HELD)

    def flush(self) -> None:
        """Write what is there."""
        with self._writing:
            self._write()

    def _write(self) -> None:
        rows = self._unwritten  # those that the database could not take the last time are still here
        while not self._rows.empty() and len(rows) < MAX_HELD:
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
        self._unwritten = []

    def look(self) -> None:
        self.flush()
        if monotonic_s() - self._forgot_s > FORGET_EVERY_S:
            self._forgot_s = monotonic_s()
            with self.database.unit_of_work() as session:
                RequestRepository(session).forget_before(utc_now() - KEEP)
