"""What is on the disk, by kind: counted by a thread of its own, since a walk through a million files takes a while."""

from __future__ import annotations

import logging
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from tunesmith.core.clock import monotonic_s, utc_now
from tunesmith.features.monitoring.cleaning import Cleanups
from tunesmith.schemas.system import CleanupRead, StorageKind, StorageUse
from tunesmith.settings import Settings

log = logging.getLogger(__name__)

FRESH_S = 120.0
"""How old a count may be before somebody who asks starts a new one, seconds."""


class Kind(NamedTuple):
    """One kind of files. `prefix` is a folder; of jobs' folders, `part` names the folder within each."""

    name: str
    title: str
    about: str
    cleanup: str | None
    folder: Path
    part: str = ""


class Stopped(Exception):
    """The server ends: nobody waits for the count any more."""


def kinds(settings: Settings) -> list[Kind]:
    """Every kind but `other`, which is what is left in the home folder."""
    from huggingface_hub import constants

    jobs = settings.jobs_dir
    return [
        Kind("datasets", "Datasets", "Originals, versions and media.", None, settings.datasets_dir),
        Kind("checkpoints", "Checkpoints", "States of training that a job can go on from.", "checkpoints", jobs, "checkpoints"),
        Kind("results", "Results of jobs", "Tuned models, adapters and reports.", None, jobs, "artifacts"),
        Kind("logs", "Logs of jobs", "Events, output and settings of each job.", "leftovers", jobs),
        Kind("models", "Models", "Base models in the home folder.", None, settings.models_dir),
        Kind("registry", "Registry", "Versions of models: each content once.", None, settings.home / "registry" / "blobs"),
        Kind("hub_cache", "Hub cache", "Models that were fetched from the hub; other programs use them too.", "downloads",
             Path(constants.HF_HUB_CACHE)),
        Kind("caches", "Caches", "Tokenised rows and compiled code; made again when needed.", "caches", settings.cache_dir),
        Kind("uploads", "Uploads", "Files that are on their way in.", "uploads", settings.uploads_dir),
    ]  # fmt: skip


class Storage:
    """The last count, and the thread that makes the next."""

    def __init__(self, settings: Settings, cleanups: Cleanups) -> None:
        self.settings, self.cleanups = settings, cleanups
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._thread: threading.Thread | None = None
        self._kinds: list[StorageKind] = []
        self._cleanups: list[CleanupRead] = []
        self._counted_at: datetime | None = None
        self._counted_s = float("-inf")

    def stop(self) -> None:
        """Give up a count that is under way."""
        self._stop.set()
        if self._thread:
            self._thread.join(10)

    def read(self) -> StorageUse:
        """The last count. A new one is started when that is old, or there is none."""
        if monotonic_s() - self._counted_s > FRESH_S:
            self.count()
        disk = shutil.disk_usage(self.settings.home)
        with self._lock:
            return StorageUse(
                kinds=self._kinds,
                cleanups=self._cleanups,
                counted_at=self._counted_at,
                counting=self._is_counting(),
                disk_free_bytes=disk.free,
                disk_total_bytes=disk.used + disk.free,
            )

    def count(self) -> None:
        """Begin to count, unless that is under way."""
        with self._lock:
            if not self._is_counting() and not self._stop.is_set():
                self._thread = threading.Thread(target=self._count, name="storage", daemon=True)
                self._thread.start()

    def _is_counting(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def _count(self) -> None:
        try:
            found = list(measure(self.settings, self._stop.is_set))
            cleanups = [self.cleanups.read(name) for name in self.cleanups.names()]
        except Stopped:
            return
        except OSError as error:
            log.warning("the files cannot be counted now: %s", error)
            found, cleanups = self._kinds, self._cleanups
        with self._lock:
            self._kinds, self._cleanups = found, cleanups
            self._counted_at, self._counted_s = utc_now(), monotonic_s()


def measure(settings: Settings, is_stopped: Callable[[], bool] = lambda: False) -> Iterator[StorageKind]:
    """Each kind with its size, the largest kinds of jobs' files apart. Raises `Stopped`."""
    for kind in kinds(settings):
        size_bytes = num_files = 0
        for folder in _folders(kind):
            for file in files_below(
                folder, skip=() if kind.part or kind.name != "logs" else ("checkpoints", "artifacts")
            ):
                size_bytes, num_files = size_bytes + file, num_files + 1
                if is_stopped():
                    raise Stopped
        yield _kind(kind.name, kind.title, kind.about, kind.folder, size_bytes, num_files, kind.cleanup)
    own = [entry.stat(follow_symlinks=False).st_size for entry in os.scandir(settings.home) if entry.is_file()]
    own += [size for name in ("serving",) for size in files_below(settings.home / name)]
    yield _kind(
        "other",
        "Database and logs",
        "The database, the server's log, and its records.",
        settings.home,
        sum(own),
        len(own),
    )


def _kind(
    name: str, title: str, about: str, path: Path, size_bytes: int, num_files: int, cleanup: str | None = None
) -> StorageKind:
    return StorageKind(
        name=name, title=title, about=about, path=str(path), size_bytes=size_bytes, num_files=num_files, cleanup=cleanup
    )


def _folders(kind: Kind) -> Iterator[Path]:
    """The folders to look through. A job's own may be a link to where its output is."""
    if kind.name not in ("checkpoints", "results", "logs"):
        yield kind.folder
        return
    for job in sorted(kind.folder.iterdir()) if kind.folder.is_dir() else ():
        yield job / kind.part if kind.part else job


def files_below(folder: Path, skip: tuple[str, ...] = ()) -> Iterator[int]:
    """The size of every file, bytes; links count as themselves. `skip` names folders right below that are left out. What
    goes away meanwhile is not counted."""
    for root, names, files in os.walk(folder):
        if skip and Path(root) == folder:
            names[:] = [name for name in names if name not in skip]
        for name in files:
            try:
                yield os.lstat(os.path.join(root, name)).st_size
            except FileNotFoundError:
                continue
