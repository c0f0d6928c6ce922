"""Datasets being read, off the request path: each in a child process that can be killed, limited, and started again."""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import socket
import threading
import time
import uuid
from datetime import timedelta
from pathlib import Path
from typing import Any

from tunesmith.core.clock import monotonic_s, utc_now
from tunesmith.core.job_dir import durable_folder, fsync_dir, fsync_tree
from tunesmith.core.rounds import carried_on
from tunesmith.features.datasets import asking, files
from tunesmith.features.datasets.child import Child
from tunesmith.features.datasets.repository import DatasetRepository
from tunesmith.features.datasets.service import Datasets
from tunesmith.live.bus import Bus
from tunesmith.settings import Settings
from tunesmith.storage.database import Database

log = logging.getLogger(__name__)

BEAT_EVERY_S = 1.0
FORSAKEN_S = 7 * 24 * 3600.0
STALE_S = 60.0
"""Seconds without a sign of a worker after which another server may take over."""
LOOK_EVERY_S = 2.0
ORIGINS = {"ingest": "upload", "repair": "repair", "remap": "mapping", "edit": "edit"}
"""Action → what a version is said to come from."""
TRIES = 3
"""How often a dataset is tried whose child is killed each time. Why a child is killed lies mostly outside of the data."""


class Processing:
    """A few threads, each of which watches one child at a time."""

    def __init__(self, settings: Settings, database: Database, bus: Bus) -> None:
        self.settings, self.database, self.bus = settings, database, bus
        self.server = f"{socket.gethostname()[:30]}:{settings.port}"
        self._wake, self._stop = threading.Event(), threading.Event()
        self._threads: list[threading.Thread] = []
        self._children: set[Child] = set()

    def start(self) -> None:
        """Sweep what was left, free what an earlier process of this server had begun, and begin."""
        with self.database.unit_of_work() as session:
            rows = DatasetRepository(session)
            rows.release_claims(self.server)
            ids, uploads = rows.ids(), rows.upload_ids()
        # With one server on the database, what it does not know of is nobody's; with several, what is old enough.
        files.sweep(self.settings, ids, uploads, math.inf if self.database.is_sqlite else time.time() - FORSAKEN_S)
        for number in range(self.settings.dataset_workers):
            thread = threading.Thread(target=self._run, args=(number,), name=f"datasets-{number}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        """End the children; the work is taken up again at the next start."""
        self._stop.set()
        self._wake.set()
        for child in list(self._children):
            child.kill()
        asking.stop()
        for thread in self._threads:
            thread.join(10)

    def wake(self) -> None:
        self._wake.set()

    def _run(self, number: int) -> None:
        worker_id = f"{self.server}:{number}:{uuid.uuid4().hex[:8]}"
        while not self._stop.is_set():
            busy = False
            with carried_on("processing a dataset"):
                busy = self.process_one(worker_id)
            if not busy:
                self._wake.wait(LOOK_EVERY_S)
                self._wake.clear()

    def process_one(self, worker_id: str) -> bool:
        """Claim a dataset and process it; whether there was one."""
        now = utc_now()
        with self.database.unit_of_work(readonly=True) as session:
            if not DatasetRepository(session).has_work():
                return False
        with self.database.unit_of_work() as session:
            row = DatasetRepository(session).claim(worker_id, now, now - timedelta(seconds=STALE_S))
            if row is None or row.task is None:
                return False
            dataset_id, task, file_name = row.id, row.task, row.file_name
        folder = files.dataset_dir(self.settings, dataset_id)
        work = folder / f"{files.WORK}{uuid.uuid4().hex[:8]}"
        try:
            for old in folder.glob(f"{files.WORK}*"):
                shutil.rmtree(old, ignore_errors=True)
            work.mkdir(mode=0o700)
            error, was_killed = self._child(dataset_id, worker_id, task, file_name, work)
            if self._stop.is_set() and error is not None:
                return True  # the server ends: the task stays
            if error is not None and was_killed and (tries := task.get("tries", 1)) < TRIES:
                self._again(dataset_id, worker_id, {**task, "tries": tries + 1}, error)
                return True
            self._finish(dataset_id, worker_id, task, work, error)
        finally:
            shutil.rmtree(work, ignore_errors=True)
        return True

    def _request(self, dataset_id: int, task: dict[str, Any], file_name: str, work: Path) -> dict[str, Any]:
        request: dict[str, Any] = {
            "action": task["action"],
            "file_name": file_name,
            "out_dir": str(work / "out"),
            "media_dir": str(work / "media"),
            "limits": {"max_rows": self.settings.max_rows, "max_bytes": self.settings.max_upload_bytes},
        }
        if task["action"] == "ingest":
            request["source"] = str(files.original_path(self.settings, dataset_id))
        else:
            request["version_dir"] = str(files.version_dir(self.settings, dataset_id, task["base"]))
        request |= {key: task[key] for key in ("options", "repairs", "edits") if task.get(key) is not None}
        if old := {key: task[key] for key in ("shape", "mapping") if task.get(key)}:
            request["options"] = old  # a task of a version before
        return request

    def _child(
        self, dataset_id: int, worker_id: str, task: dict[str, Any], file_name: str, work: Path
    ) -> tuple[dict[str, Any] | None, bool]:
        """Run the child to its end, passing its progress on; the error's body, or None when all went well, and whether somebody
        has killed it."""
        child = Child(self.settings, self._request(dataset_id, task, file_name, work), work)
        self._children.add(child)
        try:
            next_beat_s = 0.0
            for progress in child.progress():
                if monotonic_s() >= next_beat_s:
                    next_beat_s = monotonic_s() + BEAT_EVERY_S
                    if not self._beat(dataset_id, worker_id, progress):
                        child.kill()
            return child.end(), child.was_killed
        finally:
            child.kill()
            self._children.discard(child)

    def _again(self, dataset_id: int, worker_id: str, task: dict[str, Any], error: dict[str, Any]) -> None:
        """Leave the task for the next look; the number of its tries outlives the server."""
        log.warning("dataset %s is tried again: %s", dataset_id, error["message"])
        with self.database.unit_of_work() as session:
            row = DatasetRepository(session).find(dataset_id)
            if row is not None and row.worker_id == worker_id:
                row.task, row.worker_id = task, None

    def _beat(self, dataset_id: int, worker_id: str, progress: float) -> bool:
        with self.database.unit_of_work() as session:
            mine = DatasetRepository(session).beat(dataset_id, worker_id, utc_now(), progress)
        self.bus.publish("datasets", {"dataset_id": dataset_id, "status": "processing", "progress": progress})
        return mine

    def _finish(
        self, dataset_id: int, worker_id: str, task: dict[str, Any], work: Path, error: dict[str, Any] | None
    ) -> None:
        about: dict[str, Any] = {}
        if error is None:
            about = json.loads((work / "out" / "version.json").read_bytes())
            self._place(dataset_id, about["digest"], work)
        with self.database.unit_of_work() as session:
            datasets = Datasets(self.settings, session, self.bus)
            row = datasets.rows.find(dataset_id)
            if row is None or row.worker_id != worker_id:
                return  # deleted meanwhile, or taken over
            if error is not None:
                if task.get("tries"):
                    error = {**error, "message": f"{error['message']} It was tried {task['tries']} times."}
                datasets.failed(row, error)
            else:
                origin = "reading" if task.get("again") else ORIGINS[task["action"]]
                datasets.processed(row, about, origin)

    def _place(self, dataset_id: int, digest: str, work: Path) -> None:
        """Give the version its place by a rename; one of the same content is there already after a kill, and serves."""
        final = files.version_dir(self.settings, dataset_id, digest)
        durable_folder(final.parent, mode=0o700)
        if (work / "media").is_dir():
            fsync_tree(work / "media")
            media = files.dataset_dir(self.settings, dataset_id) / "media"
            shutil.rmtree(media, ignore_errors=True)
            os.replace(work / "media", media)
            fsync_dir(media.parent)
        if not final.exists():
            os.replace(work / "out", final)
        fsync_dir(final.parent)
