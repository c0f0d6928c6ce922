"""Where a dataset's files are, and how bytes come in: a temporary name, a running hash, a flush, a rename."""

from __future__ import annotations

import errno
import hashlib
import math
import os
import shutil
import uuid
from pathlib import Path
from typing import NamedTuple

from tunesmith.core.errors import BadData, DiskFull, TooLarge
from tunesmith.core.job_dir import fsync_dir
from tunesmith.settings import Settings

TRASH = ".trash-"
WORK = "processing-"
"""Prefix of a folder in a dataset's, in which a child makes a version."""


class Incoming:
    """One file on its way in. Used as a context: what is not kept is removed."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.path = settings.uploads_dir / f"{uuid.uuid4()}.part"
        self.size_bytes = 0
        self._hash = hashlib.sha256()
        refuse_when_disk_is_low(settings)
        self._file = self.path.open("xb")

    def write(self, data: bytes) -> None:
        """Append. Raises `TooLarge` beyond the limit, `DiskFull` when there is no room."""
        self.size_bytes += len(data)
        check_size(self.settings, self.size_bytes)
        try:
            self._file.write(data)
        except OSError as error:
            raise _translated(error) from None
        self._hash.update(data)

    def finish(self) -> Received:
        """Flush; the file stays under its temporary name until the dataset takes it."""
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
        except OSError as error:
            raise _translated(error) from None
        if self.size_bytes == 0:
            raise BadData("The file is empty.", hint="Choose a file with at least one row.")
        return Received(self.path, self.size_bytes, self._hash.hexdigest())

    def discard(self) -> None:
        """Close and remove; harmless once the file was taken."""
        self._file.close()
        self.path.unlink(missing_ok=True)


class Resumed:
    """An upload that goes on where it stopped."""

    def __init__(self, path: Path, name: str, size_bytes: int) -> None:
        self.name, self.size_bytes = name, size_bytes
        self._file = path.open("ab")
        self.offset = self._file.tell()

    def append(self, data: bytes) -> None:
        """Raises `TooLarge` beyond the size that was promised, `DiskFull` when there is no room."""
        if self.offset + len(data) > self.size_bytes:
            raise TooLarge(
                f"More bytes come than the {self.size_bytes} that were promised.", hint="Begin a new upload."
            )
        try:
            self._file.write(data)
        except OSError as error:
            raise _translated(error) from None
        self.offset += len(data)

    def close(self) -> None:
        """Flush: what is acknowledged is kept."""
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise _translated(error) from None
        finally:
            self._file.close()


class Received(NamedTuple):
    """A whole file under a temporary name."""

    path: Path
    size_bytes: int
    sha256: str


def check_size(settings: Settings, size_bytes: int) -> None:
    if size_bytes > settings.max_upload_bytes:
        limit = settings.max_upload_bytes // 1024**2
        raise TooLarge(f"File exceeds {limit}MB limit", hint="Split it, or raise TUNESMITH_MAX_UPLOAD_BYTES.")


def refuse_when_disk_is_low(settings: Settings) -> None:
    if shutil.disk_usage(settings.home).free < settings.min_free_bytes:
        raise DiskFull("The disk is nearly full, so no upload is taken.", hint="Free some space and upload it again.")


def _translated(error: OSError) -> Exception:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return DiskFull(
            "The disk is full; nothing of the upload was kept.", hint="Free some space and upload it again."
        )
    return error


def hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def dataset_dir(settings: Settings, dataset_id: int) -> Path:
    return settings.datasets_dir / str(int(dataset_id))


def original_path(settings: Settings, dataset_id: int) -> Path:
    return dataset_dir(settings, dataset_id) / "original"


def version_dir(settings: Settings, dataset_id: int, digest: str) -> Path:
    return dataset_dir(settings, dataset_id) / "versions" / digest


def take(settings: Settings, dataset_id: int, received: Received) -> None:
    """Give the received file its place, and leave it its temporary name as well: the row is not committed yet, and a file
    without a row is swept at start. Whoever received it removes that name."""
    folder = dataset_dir(settings, dataset_id)
    try:
        folder.mkdir(mode=0o700)
        try:
            os.link(received.path, folder / "original")
        except PermissionError:  # a file system without links
            os.replace(received.path, folder / "original")
        fsync_dir(folder)
        fsync_dir(folder.parent)
    except OSError as error:
        raise _translated(error) from None


def remove(settings: Settings, dataset_id: int) -> None:
    """Out of sight in one rename, then deleted."""
    folder = dataset_dir(settings, dataset_id)
    trash = folder.with_name(f"{TRASH}{folder.name}-{uuid.uuid4()}")
    if folder.exists():
        os.replace(folder, trash)
        shutil.rmtree(trash, ignore_errors=True)


def sweep(settings: Settings, dataset_ids: set[int], upload_ids: set[str], before: float = math.inf) -> int:
    """Remove what killed uploads, deletions and children left and was last changed before that time, seconds since 1970; returns
    how many things."""
    removed = 0
    for path in settings.uploads_dir.iterdir():
        if path.stat().st_mtime >= before:
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
            removed += 1
        elif path.name.removesuffix(".resumable") not in upload_ids:
            path.unlink(missing_ok=True)
            removed += 1
    for path in settings.datasets_dir.iterdir():
        is_known = path.name.isdigit() and int(path.name) in dataset_ids
        for left in path.glob(f"{WORK}*") if is_known else (path,):  # no child is at work: it ends with its server
            if left.stat().st_mtime >= before:
                continue
            shutil.rmtree(left, ignore_errors=True)
            removed += 1
    return removed
