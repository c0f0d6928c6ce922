"""Temporary files and folders that kills have left in the home folder. Everything here is written under a temporary name first,
so a kill leaves such names; each round removes those that nobody writes any more.

A name counts as left when it is older than this server, or than a day, and no living process has it open. Folders of jobs that
have a process are passed over: a worker outlives its server.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from tunesmith.core.acting import everything_seen
from tunesmith.core.job_dir import JobDir
from tunesmith.core.rounds import Rounds
from tunesmith.features.jobs.files import sweep_job
from tunesmith.features.jobs.repository import JobRepository
from tunesmith.settings import Settings
from tunesmith.storage.database import Database

BESIDE = re.compile(r"\.(.{1,250})\.([a-z0-9_]{8}|[0-9]{1,7})")
"""What `mkstemp` and its like make beside the final name, and what is named after a process."""
DELETED = re.compile(r"\.trash-.+")
PLACES = {
    "*": re.compile(r"\.(.{1,250})\.([a-z0-9_]{8}|[0-9]{1,7})|secret\.\d+\.tmp"),
    "datasets/*": DELETED,
    "datasets/*/*": BESIDE,
    "datasets/*/versions/*": BESIDE,
    "jobs/*": DELETED,
    "models/*": re.compile(r"\.starter\.[a-z0-9_]{8}"),
    "cache/*": BESIDE,
    "cache/*/*": re.compile(r"\.(.{1,250})\.([a-z0-9_]{8}|[0-9]{1,7})|\.?tmp[a-z0-9_]{8}|\.[a-z0-9_]{8}"),
    "downloads/*/*": BESIDE,
    "serving/*": BESIDE,
    "serving/*/*": BESIDE,
    "deployments/*": BESIDE,
    "deployments/*/*": BESIDE,
    "deployments/*/*/*": BESIDE,
}
"""Where in the home folder temporary names are made, and of what form. Folders whose names people choose are not among them.
Uploads (`datasets/files.py`), datasets being read and the registry (`registry/store.py`) sweep themselves at the start."""
AT_START_AFTER_S = 5.0
AGAIN_AFTER_S = 3600.0
LEAST_AGE_S = 2.0
FORSAKEN_S = 24 * 3600.0


class Leftovers(Rounds):
    """Sweeps at the start, a moment later, and every hour."""

    name = "leftovers"

    def __init__(self, settings: Settings, database: Database) -> None:
        super().__init__()
        self.settings, self.database = settings, database
        self.rest_s = AT_START_AFTER_S
        self._started_at = time.time()
        self._looks = 0

    def look(self) -> None:
        self._looks += 1
        is_start = self._looks <= 2
        self.rest_s = AT_START_AFTER_S if self._looks == 1 else AGAIN_AFTER_S
        # Several servers may share a home folder beside PostgreSQL: there only age tells that nobody needs a name any more.
        is_ours = is_start and self.database.is_sqlite
        now = time.time()
        sweep(self.settings, self.database, min(now - LEAST_AGE_S, self._started_at) if is_ours else now - FORSAKEN_S)


def sweep(settings: Settings, database: Database, before: float) -> int:
    """Remove what was last written before that time, seconds since 1970; returns how many names."""
    with database.unit_of_work(readonly=True) as session, everything_seen():
        busy = {job.id for job in JobRepository(session).with_process()}
    in_use = open_below(settings.home)
    removed = 0
    for path in _names(settings):
        if _newest(path) < before and not any(used == path or path in used.parents for used in in_use):
            _remove(path)
            removed += 1
    for folder in _children(settings.jobs_dir):
        if folder.name.isdigit() and int(folder.name) not in busy:
            removed += sweep_job(JobDir(folder), before)
    return removed


def _names(settings: Settings) -> Iterator[Path]:
    for place, kinds in PLACES.items():
        yield from (path for path in settings.home.glob(place) if kinds.fullmatch(path.name))
    if settings.output_dir:
        yield from settings.output_dir.glob(".tunesmith-test-*")


def open_below(home: Path) -> set[Path]:
    """What living processes have open below that folder, or stand in. Linux tells."""
    found = set()
    prefix = f"{home.resolve()}{os.sep}"
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            for link in (process / "cwd", *(process / "fd").iterdir()):
                with contextlib.suppress(OSError):
                    target = str(link.readlink())
                    if target.startswith(prefix):
                        found.add(home / target.removeprefix(prefix))
    return found


def _children(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def _newest(path: Path) -> float:
    """When it, or anything in it, was last written."""
    newest = 0.0
    with contextlib.suppress(OSError):
        newest = path.lstat().st_mtime
        for each in path.rglob("*") if path.is_dir() and not path.is_symlink() else ():
            newest = max(newest, each.lstat().st_mtime)
    return newest


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    elif path.is_symlink() and path.name.startswith(".trash-"):  # a deleted job whose output was elsewhere
        shutil.rmtree(path.readlink(), ignore_errors=True)
        path.unlink(missing_ok=True)
    else:
        path.unlink(missing_ok=True)
