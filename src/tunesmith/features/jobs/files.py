"""What a job leaves on disk: log, checkpoints, artifacts, report. Names from users are kept inside the job's folder."""

from __future__ import annotations

import codecs
import contextlib
import os
import shutil
import uuid
from datetime import UTC, datetime
from pathlib import Path

from tunesmith.core.errors import NotFound
from tunesmith.core.job_dir import JobDir
from tunesmith.schemas.jobs import ArtifactRead, CheckpointRead, LogChunk
from tunesmith.settings import Settings


def job_dir(settings: Settings, job_id: int) -> JobDir:
    return JobDir(settings.jobs_dir / str(job_id))


def read_log(path: Path, offset: int, limit: int) -> LogChunk:
    """At most `limit` bytes of text from `offset`; a character that is cut at the end waits for the next call."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(min(offset, size))
            data = file.read(limit)
            start = min(offset, size)
    except FileNotFoundError:
        return LogChunk(text="", next_offset=0, size_bytes=0)
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    text = decoder.decode(data)
    waiting = len(decoder.getstate()[0])
    if waiting == len(data):  # nothing but the start of a character: the file ends in it
        text, waiting = decoder.decode(b"", final=True), 0
    return LogChunk(text=text, next_offset=start + len(data) - waiting, size_bytes=size)


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
    found = []
    for root, names, files in os.walk(folder.artifacts):
        names[:] = sorted(name for name in names if not name.startswith("."))
        for name in sorted(files):
            path = Path(root, name)
            if not path.is_symlink():
                shown = path.relative_to(folder.artifacts).as_posix()
                found.append(ArtifactRead(path=shown, size_bytes=path.stat().st_size))
    return found


def artifact(folder: JobDir, name: str) -> Path:
    """One file below `artifacts/`. Raises `NotFound` for all else, such as a way out of the folder."""
    root = folder.artifacts.resolve()
    try:
        path = (root / name).resolve()
        found = path.is_relative_to(root) and path.is_file()
    except OSError:  # a name longer than any file's
        found = False
    if not found:
        raise NotFound("The job has no such artifact.", hint="GET /jobs/{id}/artifacts lists what there is.")
    return path


def report(folder: JobDir) -> Path:
    """The HTML page. Raises `NotFound` before the job is done."""
    path = folder.artifacts / "report" / "report.html"
    if not path.is_file():
        raise NotFound("The job has no report yet.", hint="It is written when the job is completed.")
    return path


def discard(settings: Settings, job_id: int) -> None:
    """Delete a job's folder: out of sight with one rename, then file by file, with what a killed server left to delete."""
    folder = settings.jobs_dir / str(job_id)
    trash = settings.jobs_dir / f".trash-{job_id}-{uuid.uuid4().hex[:8]}"
    with contextlib.suppress(FileNotFoundError):
        os.rename(folder, trash)
    for path in settings.jobs_dir.glob(".trash-*"):
        shutil.rmtree(path, ignore_errors=True)
