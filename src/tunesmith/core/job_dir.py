"""The job directory: the only contract between server and worker. Paths, atomic writes, and reading events by byte offset."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar

from pydantic import BaseModel, ValidationError

from tunesmith.core.events import parse_event
from tunesmith.core.job_spec import Control, ExitRecord, JobSpec, Launch, ShimRecord

T = TypeVar("T", bound=BaseModel)

MAX_READ_BYTES = 4 * 1024 * 1024
"""Most that one call of `read_new_events` takes in, so that a flood of events cannot fill the server's memory."""


class NewEvents(NamedTuple):
    """Whole lines found after an offset."""

    events: list[Any]
    next_offset: int
    """Bytes; stored in the same transaction as the events."""
    bad_lines: int
    """Lines that are not events; skipped, counted."""


class JobDir:
    """Paths in one job's directory."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.spec = self.path / "spec.json"
        self.launch = self.path / "launch.json"
        self.control = self.path / "control.json"
        self.events = self.path / "events.jsonl"
        self.log = self.path / "output.log"
        self.heartbeat = self.path / "heartbeat"
        self.progress = self.path / "progress"
        self.exit = self.path / "exit.json"
        self.shim = self.path / "shim.json"
        self.checkpoints = self.path / "checkpoints"
        self.artifacts = self.path / "artifacts"

    def read_spec(self) -> JobSpec:
        return JobSpec.model_validate_json(self.spec.read_bytes())

    def read_launch(self) -> Launch | None:
        return read_model(self.launch, Launch)

    def read_control(self) -> Control:
        return read_model(self.control, Control) or Control()

    def size_bytes(self) -> int:
        """Of all files in it; those that go while we look do not count."""
        total = 0
        for file in self.path.rglob("*"):
            with contextlib.suppress(OSError):
                total += file.lstat().st_size
        return total

    def read_exit(self) -> ExitRecord | None:
        return read_model(self.exit, ExitRecord)

    def read_shim(self) -> ShimRecord | None:
        return read_model(self.shim, ShimRecord)

    def complete_checkpoints(self) -> list[Path]:
        """Checkpoints that hold `complete.json`, oldest step first."""
        if not self.checkpoints.is_dir():
            return []
        found = [p for p in self.checkpoints.iterdir() if (p / "complete.json").is_file()]
        return sorted((p for p in found if p.name.startswith("step-")), key=lambda p: int(p.name.split("-")[1]))

    def latest_checkpoint(self) -> Path | None:
        """The complete checkpoint of the highest step, or None."""
        found = self.complete_checkpoints()
        return found[-1] if found else None


def checkpoint_name(step: int) -> str:
    return f"step-{step:06d}"


def read_model(path: Path, cls: type[T]) -> T | None:
    """The record in `path`, or None when there is none that can be read. Writers rename into place, so half a record is
    never seen; but a worker may write anything to its own directory, and garbage says no more than silence."""
    try:
        with open_plain(path) as file:
            return cls.model_validate_json(file.read())
    except (FileNotFoundError, ValidationError):
        return None


def open_plain(path: Path) -> BinaryIO:
    """A job's file for reading, if it is one: not through a link that the job has put there, nor from a pipe that never ends.

    Raises `FileNotFoundError` for all else.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise FileNotFoundError(errno.ENOENT, "It is a link, not a file", str(path)) from None
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise FileNotFoundError(errno.ENOENT, "It is no file", str(path))
    return os.fdopen(fd, "rb")


def write_atomic(path: Path, data: bytes | str | BaseModel | dict[str, Any], mode: int = 0o644) -> None:
    """Write to a temporary name beside `path`, fsync, rename, fsync the folder: old or new, never half, after any kill."""
    if isinstance(data, BaseModel):
        data = data.model_dump_json(indent=1)
    elif isinstance(data, dict):
        data = json.dumps(data, indent=1)
    if isinstance(data, str):
        data = data.encode()
    fd, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError):  # in its place by now, when all went well
            os.unlink(temporary)
    fsync_dir(path.parent)


def fsync_dir(path: Path) -> None:
    """Make renames inside `path` durable."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def durable_folder(path: Path, mode: int = 0o755) -> None:
    """Make a folder, and those above it, that are still there after the machine has lost power. One that is there is good."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(mode=mode, parents=True, exist_ok=True)
    for folder in missing or [path]:  # whoever else has just made it may not have come to that yet
        with contextlib.suppress(PermissionError):  # a folder above the home that only others may read
            fsync_dir(folder.parent)


def fsync_tree(root: Path) -> int:
    """Flush every file and folder below `root`; returns the files' total size in bytes."""
    total = 0
    for folder, _, names in os.walk(root):
        for name in names:
            with open(os.path.join(folder, name), "rb") as file:
                os.fsync(file.fileno())
                total += os.fstat(file.fileno()).st_size
        fsync_dir(Path(folder))
    return total


def read_new_events(path: Path, offset: int) -> NewEvents:
    """Read the whole lines after `offset` (bytes); a half-written last line waits for the next call."""
    try:
        with open_plain(path) as file:
            file.seek(offset)
            chunk = file.read(MAX_READ_BYTES)
    except FileNotFoundError:
        return NewEvents([], offset, 0)
    whole, newline, _ = chunk.rpartition(b"\n")
    if not newline and len(chunk) == MAX_READ_BYTES:
        return NewEvents([], offset + len(chunk), 0)  # no event is this long: its end will count as a bad line
    events, bad = [], 0
    for line in whole.split(b"\n"):
        if not line:
            continue
        try:
            events.append(parse_event(line))
        except ValidationError:
            bad += 1
    return NewEvents(events, offset + len(whole) + len(newline), bad)


def whole_lines_bytes(path: Path, most: int) -> int:
    """Bytes of the whole lines among the first `most`: fewer where a machine that lost power has forgotten the last ones."""
    try:
        opened = open_plain(path)
    except FileNotFoundError:
        return 0
    with opened as file:
        size = file.seek(0, os.SEEK_END)
        if size >= most:
            return most
        file.seek(max(0, size - MAX_READ_BYTES))
        tail = file.read()
    return size - len(tail) + tail.rfind(b"\n") + 1


def end_half_line(path: Path) -> None:
    """Cut a half-written last line that a killed writer left, before a new writer appends."""
    with contextlib.suppress(FileNotFoundError), path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        if not size:
            return
        file.seek(max(0, size - MAX_READ_BYTES))
        tail = file.read()
        keep = tail.rfind(b"\n") + 1
        file.truncate(size - len(tail) + keep)


@contextlib.contextmanager
def new_folder(final: Path, before_rename: Callable[[Path], None] | None = None) -> Iterator[Path]:
    """A temporary folder beside `final` that is flushed and renamed to it when the block ends well, and removed otherwise.

    `before_rename(folder)` may still add files or refuse (raise) at the last moment.
    """
    import shutil

    durable_folder(final.parent)
    temporary = Path(tempfile.mkdtemp(dir=final.parent, prefix=f".{final.name}."))
    try:
        yield temporary
        if before_rename:
            before_rename(temporary)
        os.chmod(temporary, 0o755)
        fsync_tree(temporary)
        if final.exists():
            shutil.rmtree(final)
        os.rename(temporary, final)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)  # in its place by now, when all went well
    fsync_dir(final.parent)
