"""What a job leaves on disk: checkpoints, artifacts, report. Names from users are kept inside the job's folder."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import stat
import uuid
from datetime import UTC, datetime
from pathlib import Path

from tunesmith.core.errors import NotFound
from tunesmith.core.job_dir import JobDir
from tunesmith.features.catalog.checksums import model_files
from tunesmith.features.jobs.output import real_place
from tunesmith.schemas.jobs import ArtifactRead, CheckpointRead
from tunesmith.settings import Settings
from tunesmith.worker.checkpoints import remove_leftovers

INNER = ("checkpoints", "artifacts")
"""Folders in a job's that are never links, unless somebody has made them so."""


def job_dir(settings: Settings, job_id: int) -> JobDir:
    return JobDir(settings.jobs_dir / str(job_id))


def checkpoints(folder: JobDir, best_step: int | None) -> list[CheckpointRead]:
    """Complete checkpoints, newest first."""
    found = []
    for path in reversed(folder.complete_checkpoints()):
        try:
            size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
            at = datetime.fromtimestamp((path / "complete.json").stat().st_mtime, UTC)
        except FileNotFoundError:
            continue  # pruned while we looked
        step = int(path.name.split("-")[1])
        name = f"checkpoints/{path.name}"
        found.append(CheckpointRead(step=step, path=name, size_bytes=size, created_at=at, is_best=step == best_step))
    return found


def artifacts(folder: JobDir) -> list[ArtifactRead]:
    """Every file below `artifacts/`, by name. Links and what is still being written are left out."""
    found: list[ArtifactRead] = []
    if folder.artifacts.is_symlink():
        return found
    for root, names, files in os.walk(folder.artifacts):
        names[:] = sorted(name for name in names if not name.startswith("."))
        for name in sorted(files):
            path = Path(root, name)
            if not path.is_symlink():
                shown = path.relative_to(folder.artifacts).as_posix()
                found.append(ArtifactRead(path=shown, size_bytes=path.stat().st_size))
    return found


def with_checksums(settings: Settings, folder: JobDir, listed: list[ArtifactRead]) -> list[ArtifactRead]:
    """The same with SHA-256; a file that has not changed is read once. Slow: call it outside a transaction."""
    known = {file.path: file.sha256 for file in model_files(settings, folder.artifacts, compute=True)}
    return [item.model_copy(update={"sha256": known.get(item.path)}) for item in listed]


def artifact(folder: JobDir, name: str) -> int:
    """One file below `artifacts/`, open for reading. No part of its way may be a link, whenever it was made one, but for the one
    that the server itself has put in the home folder.

    Raises `NotFound` for all else, such as a way out of the folder.
    """
    parts = name.split("/")
    try:
        if not parts or any(part in ("", ".", "..") for part in parts):
            raise OSError
        parts.insert(0, folder.artifacts.name)
        place = os.open(real_place(folder.path), os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        for number, part in enumerate(parts, start=1):
            kind = os.O_DIRECTORY if number < len(parts) else os.O_NONBLOCK
            try:
                below = os.open(part, os.O_RDONLY | os.O_NOFOLLOW | kind, dir_fd=place)
            finally:
                os.close(place)
            place = below
        if stat.S_ISREG(os.fstat(place).st_mode):
            return place
        os.close(place)
    except (OSError, ValueError):  # not there, a link, a name longer than any file's
        pass
    raise NotFound("The job has no such artifact.", hint="See the job's list of artifacts.")


def report(folder: JobDir) -> bytes:
    """The HTML page. Raises `NotFound` before the job is done."""
    try:
        with os.fdopen(artifact(folder, "report/report.html"), "rb") as file:
            return file.read()
    except NotFound:
        raise NotFound("The job has no report yet.", hint="It is written when the job is completed.") from None


def sweep_job(folder: JobDir, before: float = math.inf) -> int:
    """Remove what killed processes have left under temporary names in a job's folder, and its scratch files; how many there were.
    Only for jobs without a process. `before`: of what was last changed until then, seconds since 1970."""
    found = [path for path in (*_hidden(folder.path), folder.path / "tmp") if _changed_at(path) < before]
    for path in found:
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
    hidden = [path for below in (folder.checkpoints, folder.artifacts) for path in _hidden(below)]
    if hidden and all(_changed_at(path) < before for path in hidden):
        remove_leftovers(folder)
        found += hidden
    return len(found)


def _hidden(folder: Path) -> list[Path]:
    return list(folder.glob(".*")) if folder.is_dir() and not (folder.is_symlink() and folder.name in INNER) else []


def _changed_at(path: Path) -> float:
    """Never, where it is not there."""
    try:
        return path.lstat().st_mtime
    except OSError:
        return math.inf


def discard(settings: Settings, job_id: int) -> None:
    """Delete a job's folder: out of sight with one rename, then file by file, with what a killed server left to delete."""
    folder = settings.jobs_dir / str(job_id)
    trash = settings.jobs_dir / f".trash-{job_id}-{uuid.uuid4().hex[:8]}"
    with contextlib.suppress(FileNotFoundError):
        os.rename(folder, trash)
    for path in settings.jobs_dir.glob(".trash-*"):
        shutil.rmtree(real_place(path), ignore_errors=True)  # which refuses a link
        if path.is_symlink():  # its output was elsewhere
            path.unlink()
