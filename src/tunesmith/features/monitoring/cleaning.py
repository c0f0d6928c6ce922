"""Making room: each clean-up says first what it would delete, and never deletes what something may still use.

Things go out of sight by a rename inside a transaction in which nothing can begin to use them; the slow deleting comes after.
"""

from __future__ import annotations

import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from tunesmith.core.errors import Conflict, NotFound
from tunesmith.features.jobs import service as jobs
from tunesmith.features.jobs.files import job_dir
from tunesmith.features.jobs.lifecycle import Lifecycle
from tunesmith.features.monitoring.repository import Monitored
from tunesmith.live.bus import Bus
from tunesmith.schemas.system import CleanupDone, CleanupItem, CleanupRead
from tunesmith.settings import Settings
from tunesmith.storage.database import Database, Session

ABANDONED_S = 24 * 3600
"""Seconds without a byte after which an upload or a download counts as abandoned."""
MAX_SHOWN = 50
AT_ONCE = 500
HIDDEN = ".trash-"
"""Prefix of what is out of sight and still to be deleted."""
PRUNED = ".pruned."


class Doomed(NamedTuple):
    """One thing to delete."""

    what: str
    path: Path
    size_bytes: int
    upload_id: str | None = None


class Cleanup(NamedTuple):
    """One way to make room."""

    title: str
    about: str
    find: Callable[[Session], Iterator[Doomed]]


class Cleanups:
    """All of them, by name."""

    def __init__(self, settings: Settings, database: Database, bus: Bus) -> None:
        self.settings, self.database, self.bus = settings, database, bus
        self._all = {
            "checkpoints": Cleanup(
                "Old checkpoints",
                "Checkpoints of jobs that are over, but for the last and the best of each: from those a job can still go on.",
                self._checkpoints,
            ),
            "caches": Cleanup(
                "Caches",
                "Tokenised rows and compiled code. The next job that needs them makes them again.",
                self._caches,
            ),
            "uploads": Cleanup(
                "Abandoned uploads", "Uploads that were begun and have brought nothing for a day.", self._uploads
            ),
            "downloads": Cleanup(
                "Broken-off downloads", "Parts of models that nobody has gone on fetching for a day.", self._downloads
            ),
            "leftovers": Cleanup(
                "Leftovers",
                "What was deleted before and not yet gone, and scratch files of jobs that are over.",
                self._leftovers,
            ),
        }

    def names(self) -> list[str]:
        return list(self._all)

    def read(self, name: str) -> CleanupRead:
        """What it would delete now. Raises `NotFound` for a name that is none."""
        cleanup = self._get(name)
        with self.database.unit_of_work(readonly=True) as session:
            why_not = self._why_not(session, name)
            found = [] if why_not else list(cleanup.find(session))
        largest = sorted(found, key=lambda doomed: -doomed.size_bytes)[:MAX_SHOWN]
        return CleanupRead(
            name=name,
            title=cleanup.title,
            about=cleanup.about,
            num_items=len(found),
            frees_bytes=sum(doomed.size_bytes for doomed in found),
            items=[CleanupItem(what=doomed.what, size_bytes=doomed.size_bytes) for doomed in largest],
            why_not=why_not,
        )

    def run(self, name: str) -> CleanupDone:
        """Delete it. Raises `Conflict` when it is in use now, `NotFound` for a name that is none."""
        cleanup, hidden = self._get(name), []
        with self.database.unit_of_work() as session:
            if not Lifecycle(session, self.bus).jobs.lock_for_scheduling():
                raise Conflict("Jobs are being started just now.", hint="Try again in a moment.")
            if why_not := self._why_not(session, name):
                raise Conflict(why_not, hint="Wait until they are over, then try again.")
            found = list(cleanup.find(session))
            hidden = [(doomed, place) for doomed in found if (place := _hide(doomed.path))]
            Monitored(session).forget_uploads([doomed.upload_id for doomed, _ in hidden if doomed.upload_id])
        for _, place in hidden:
            _delete(place)
        freed = sum(doomed.size_bytes for doomed, place in hidden if not place.exists())
        return CleanupDone(name=name, num_items=len(hidden), freed_bytes=freed)

    def _get(self, name: str) -> Cleanup:
        found = self._all.get(name)
        if found is None:
            raise NotFound(f"There is no clean-up {name!r}.", hint=f"There are: {', '.join(self._all)}.")
        return found

    def _why_not(self, session: Session, name: str) -> str:
        """Caches belong to all jobs at once; the rest is told apart thing by thing."""
        if name != "caches":
            return ""
        busy = [str(job.id) for job in Monitored(session).with_process()]
        return f"The caches are in use by job {', '.join(busy[:5])}." if busy else ""

    # -- what there is to delete ----------------------------------------------------------------------------------------

    def _over(self, session: Session) -> Iterator[int]:
        """Jobs with a folder that are over and have no process, by number."""
        ids = sorted(int(path.name) for path in _children(self.settings.jobs_dir) if path.name.isdigit())
        for start in range(0, len(ids), AT_ONCE):
            yield from sorted(Monitored(session).over_among(ids[start : start + AT_ONCE]))

    def _checkpoints(self, session: Session) -> Iterator[Doomed]:
        for job_id in self._over(session):
            folder = job_dir(self.settings, job_id)
            if folder.checkpoints.is_dir():
                for path in (path for path in _children(folder.checkpoints) if path.name.startswith((HIDDEN, PRUNED))):
                    yield _doomed(f"Job {job_id}, a checkpoint that was deleted before", path)
            if len(folder.complete_checkpoints()) < 2:
                continue
            for checkpoint in jobs.read_checkpoints(session, folder, job_id)[1:]:
                if not checkpoint.is_best:
                    what = f"Job {job_id}, step {checkpoint.step}"
                    yield Doomed(what, folder.path / checkpoint.path, checkpoint.size_bytes)

    def _caches(self, _session: Session) -> Iterator[Doomed]:
        names = {"tokens": "Tokenised rows", "compiled": "Compiled code"}
        for path in _children(self.settings.cache_dir):
            yield _doomed(names.get(path.name, path.name), path)

    def _uploads(self, _session: Session) -> Iterator[Doomed]:
        for path in _children(self.settings.uploads_dir):
            if _is_abandoned(path):
                upload_id = path.stem if path.suffix == ".resumable" else None
                yield _doomed("An upload that can be resumed" if upload_id else "Part of an upload", path, upload_id)

    def _downloads(self, _session: Session) -> Iterator[Doomed]:
        from huggingface_hub import constants

        for path in Path(constants.HF_HUB_CACHE).glob("*--*/blobs/*.incomplete"):
            if _is_abandoned(path):
                kind, _, name = path.parent.parent.name.partition("--")
                yield _doomed(f"Part of {name.replace('--', '/')} ({kind})", path)

    def _leftovers(self, session: Session) -> Iterator[Doomed]:
        for folder in (self.settings.jobs_dir, self.settings.datasets_dir, self.settings.cache_dir):
            for path in folder.glob(f"{HIDDEN}*"):
                yield _doomed("What was deleted before", path)
        for job_id in self._over(session):
            scratch = job_dir(self.settings, job_id).path / "tmp"
            if scratch.is_dir():
                yield _doomed(f"Scratch files of job {job_id}", scratch)


def _children(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _doomed(what: str, path: Path, upload_id: str | None = None) -> Doomed:
    size = path.lstat().st_size if not path.is_dir() or path.is_symlink() else sum(
        file.lstat().st_size for file in path.rglob("*") if not file.is_dir()
    )  # fmt: skip
    return Doomed(what, path, size, upload_id)


def _is_abandoned(path: Path) -> bool:
    try:
        return time.time() - path.stat().st_mtime > ABANDONED_S
    except FileNotFoundError:
        return False


def _hide(path: Path) -> Path | None:
    """Its name out of sight, beside where it was; None when it has gone by itself."""
    if path.name.startswith((HIDDEN, PRUNED)):
        return path
    place = path.with_name(f"{HIDDEN}{uuid.uuid4().hex[:8]}-{path.name}")
    try:
        os.rename(path, place)
    except FileNotFoundError:
        return None
    return place


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
