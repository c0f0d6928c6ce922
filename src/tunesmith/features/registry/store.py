"""The files of versions: each content once, under its SHA-256, and for each version a folder of hard links to them.

A content gets its place by a rename after it was flushed, so a kill leaves at most a temporary name. Rows come after their
contents, folders after their rows and whenever one is missing. A content that no row names is removed when it is a day old:
until then somebody may be about to name it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from tunesmith.core.errors import DiskFull
from tunesmith.core.job_dir import durable_folder, fsync_dir, new_folder
from tunesmith.settings import Settings

CHUNK_BYTES = 4 * 1024**2
REFLINK = 0x40049409
"""FICLONE: share the blocks of another file, on file systems that can."""
FORSAKEN_S = 24 * 3600
"""Age after which a content that no row names is removed, seconds."""
SETTLED_NS = 2 * 10**9
"""A file that changed less than this before it was read may have changed again within one tick of its clock."""
REMEMBERED = 20_000
Told = Callable[[int], None]
"""Is told how many bytes have been read since the last call."""


class Stored(NamedTuple):
    """One content in the store."""

    sha256: str
    size_bytes: int

    def as_json(self) -> dict[str, Any]:
        return {"sha256": self.sha256, "size_bytes": self.size_bytes}


class Store:
    """The folder `registry` in the home folder. Any number of processes may use it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.root = settings.home / "registry"
        self.blobs = self.root / "blobs" / "sha256"
        self.incoming = self.root / "incoming"
        self.versions = self.root / "versions"

    def make(self) -> None:
        for path in (self.root, self.blobs, self.incoming, self.versions):
            durable_folder(path, mode=0o700)

    def blob(self, sha256: str) -> Path:
        return self.blobs / sha256[:2] / sha256

    def folder(self, version_id: int) -> Path:
        return self.versions / str(int(version_id))

    # -- bringing in --------------------------------------------------------------------------------------------------

    def put(self, source: Path, told: Told = lambda _bytes: None) -> Stored:
        """Copy a file in. It must not be a link; what may be one is resolved before. Raises `DiskFull`."""
        self.make()
        if shutil.disk_usage(self.root).free < self.settings.min_free_bytes + source.stat().st_size:
            raise DiskFull(
                "The disk is nearly full, so the model is not copied.", hint="Free some space and try again."
            )
        temporary = self.incoming / uuid.uuid4().hex
        try:
            with _opened(source) as file, temporary.open("x+b") as copy:
                stored = _copy(file, copy, told)
                copy.flush()
                os.fchmod(copy.fileno(), 0o444)
                os.fsync(copy.fileno())
            self._place(temporary, stored)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise DiskFull("The disk is full; nothing was registered.") from None
            raise
        finally:
            temporary.unlink(missing_ok=True)
        return stored

    def _place(self, temporary: Path, stored: Stored) -> None:
        """Give a content its place. One that is there already stays when it is whole, and counts as new."""
        final = self.blob(stored.sha256)
        is_there = final.is_file() and sha256_of(final) == stored.sha256
        with self._locked():
            durable_folder(final.parent, mode=0o700)
            if is_there and final.is_file():
                os.utime(final)
                return
            os.replace(temporary, final)
            fsync_dir(final.parent)

    # -- taking out ---------------------------------------------------------------------------------------------------

    def view(self, version_id: int, files: Mapping[str, Any]) -> Path:
        """The version's folder, made of links where it is missing. Raises `FileNotFoundError` for a content that is gone."""
        folder = self.folder(version_id)
        if folder.is_dir():
            return folder
        self.make()
        with self._locked():
            if not folder.is_dir():
                with new_folder(folder) as made:
                    for name, about in files.items():
                        _link(self.blob(about["sha256"]), made / name)
        return folder

    def damage(
        self, version_id: int, files: Mapping[str, Any], *, fresh: bool = False, told: Told = lambda _bytes: None
    ) -> list[str]:
        """Names of files that are not as they were registered, are missing, or do not belong there. With `fresh` every byte
        is read again, also of the stored contents; otherwise files are read that have changed since they were last read."""
        folder = self.folder(version_id)
        has_folder, found = folder.is_dir(), []
        for name, about in files.items():
            blob, place = self.blob(about["sha256"]), folder / name
            if has_folder and not (_is_whole(place, about["sha256"], fresh)):
                found.append(name)
            elif (fresh or not has_folder) and not (has_folder and _is_same(place, blob)):
                found += [] if _is_whole(blob, about["sha256"], fresh) else [name]
            told(int(about["size_bytes"]))
        there = {
            path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()
        }
        return found + sorted(there - set(files))

    def forget(self, version_id: int) -> None:
        """Remove a version's folder, out of sight first; its contents go with `sweep`."""
        folder = self.folder(version_id)
        trash = self.versions / f".trash-{uuid.uuid4().hex}"
        with contextlib.suppress(FileNotFoundError):
            os.rename(folder, trash)
        shutil.rmtree(trash, ignore_errors=True)

    # -- keeping clean ------------------------------------------------------------------------------------------------

    def contents(self) -> Iterator[tuple[str, int]]:
        """`(sha256, bytes)` of every stored content."""
        if self.blobs.is_dir():
            for path in sorted(self.blobs.glob("??/*")):
                if stat := _stat(path):
                    yield path.name, stat.st_size

    def sweep(
        self,
        named: Callable[[], set[str]],
        version_ids: Callable[[], set[int]],
        older_than_s: float = FORSAKEN_S,
        *,
        is_alone: bool = False,
    ) -> int:
        """Remove what kills left and what no row names; returns the bytes. The rows are asked for while nothing can come in.
        `is_alone`: nobody else is at work, and what has a temporary name goes at any age."""
        self.make()
        freed, now = 0, time.time()
        with self._locked():
            for path in (*self.incoming.iterdir(), *self.versions.glob(".*")):
                if is_alone or now - path.lstat().st_mtime > older_than_s:
                    freed += _remove(path)
            ids, digests = version_ids(), named()
            for folder in self.versions.glob("[0-9]*"):
                if int(folder.name) not in ids and now - folder.lstat().st_mtime > older_than_s:
                    freed += _remove(folder)
            for path in list(self.blobs.glob("??/*")):
                if path.name not in digests and now - path.lstat().st_mtime > older_than_s:
                    freed += _remove(path)
        return freed

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """One at a time, among all threads and processes."""
        with (self.root / ".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


# -- digests ----------------------------------------------------------------------------------------------------------

_known: OrderedDict[tuple[int, ...], str] = OrderedDict()
_known_lock = threading.Lock()


def sha256_of(path: Path, *, fresh: bool = False) -> str:
    """SHA-256 of a file; of one that has not been touched since it was last read, from memory. Every change of a file
    changes its ctime, which nobody can set."""
    with path.open("rb") as file:
        key = _key(os.fstat(file.fileno()))
        with _known_lock:
            if not fresh and key in _known:
                _known.move_to_end(key)
                return _known[key]
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        after = _key(os.fstat(file.fileno()))
    if key == after and time.time_ns() - max(key[3], key[4]) > SETTLED_NS:
        with _known_lock:
            _known[key] = digest
            while len(_known) > REMEMBERED:
                _known.popitem(last=False)
    return digest


def _key(stat: os.stat_result) -> tuple[int, ...]:
    return (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


def digest_of(files: Mapping[str, Any]) -> str:
    """One digest for a list of files: SHA-256 over `<sha256>  <name>` lines, sorted by name, as `sha256sum` writes them."""
    lines = "".join(f"{files[name]['sha256']}  {name}\n" for name in sorted(files))
    return hashlib.sha256(lines.encode()).hexdigest()


# -- files ------------------------------------------------------------------------------------------------------------


def _opened(source: Path) -> BinaryIO:
    return os.fdopen(os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb")


def _copy(source: BinaryIO, target: BinaryIO, told: Told) -> Stored:
    """Share the blocks where the file system can, else copy; either way what is hashed is what was stored."""
    digest, size_bytes, is_shared = hashlib.sha256(), 0, False
    with contextlib.suppress(OSError):
        fcntl.ioctl(target.fileno(), REFLINK, source.fileno())
        is_shared = True
    while chunk := (target if is_shared else source).read(CHUNK_BYTES):
        digest.update(chunk)
        size_bytes += len(chunk)
        if not is_shared:
            target.write(chunk)
        told(len(chunk))
    return Stored(digest.hexdigest(), size_bytes)


def _is_whole(path: Path, sha256: str, fresh: bool) -> bool:
    try:
        return path.is_file() and not path.is_symlink() and sha256_of(path, fresh=fresh) == sha256
    except FileNotFoundError:
        return False


def _is_same(path: Path, other: Path) -> bool:
    return path.exists() and other.exists() and path.samefile(other)


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.lstat()
    except FileNotFoundError:
        return None


def _link(blob: Path, place: Path) -> None:
    """A hard link, or a copy on file systems without."""
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(blob, place)
    except FileNotFoundError:
        raise
    except OSError:
        shutil.copyfile(blob, place)


def _remove(path: Path) -> int:
    """Remove a file or folder; the bytes that it took."""
    if not path.is_dir() or path.is_symlink():
        size = path.lstat().st_size
        path.unlink(missing_ok=True)
        return size
    shutil.rmtree(path, ignore_errors=True)
    return 0
