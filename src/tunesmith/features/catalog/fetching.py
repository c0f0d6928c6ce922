"""One download from the hub, in a process of its own: `python -m tunesmith.features.catalog.fetching FOLDER`.

The folder has `request.json`: which files of which commit, with their digests. Each goes to `blobs/<digest>.incomplete` of the
hub's cache, from where a later process goes on, is compared with its digest, and then gets its name. The snapshot is linked
last, so a model is listed whole or not at all. `progress.json` says how far it is, `end.json` how it ended. A file `cancel`
ends it. Whoever runs holds `lock`; a second process for the same folder leaves.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import hashlib
import os
import shutil
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from tunesmith.core.errors import BadData, Conflict, DiskFull, NotFound, TunesmithError, Unavailable
from tunesmith.core.job_dir import durable_folder, fsync_dir, read_model, write_atomic

LOOK_EVERY_S = 0.5
LOCK_WAIT_S = 5.0
SPEED_OVER_S = 5.0
"""Time over which the speed is told."""
CHUNK_BYTES = 1024 * 1024
"""Written at once: what a kill loses at most."""
MAX_TRIES = 8
"""Attempts in a row that bring nothing before the download counts as failed."""
LONGEST_PAUSE_S = 60.0
SPARE_BYTES = 200 * 1024**2
"""Disk space that stays free besides the model."""


class WantedFile(BaseModel):
    """One file of the commit."""

    path: str = Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,199}$")
    """In the folder itself."""
    size_bytes: int = Field(ge=0)
    sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$")
    """Of files that the hub keeps outside of git."""
    git_id: str = Field(pattern=r"^[0-9a-f]{40}$")
    """Of the others: git's SHA-1 of the content with its length."""

    @property
    def digest(self) -> str:
        """The blob's name in the hub's cache."""
        return self.sha256 or self.git_id


class Request(BaseModel):
    """What is to be fetched; written once."""

    name: str
    revision: str | None = None
    file: str | None = None
    commit: str = Field(pattern=r"^[0-9a-f]{40}$")
    endpoint: str
    cache: str
    """The hub's cache folder."""
    files: list[WantedFile]
    left_out: list[str] = []
    """Files of the model that are never fetched."""
    requested_by: str | None = None
    created_at: float
    """Seconds since 1970."""

    @property
    def bytes_total(self) -> int:
        return sum(file.size_bytes for file in self.files)

    @property
    def repository(self) -> Path:
        """The model's folder in the cache."""
        return Path(self.cache) / f"models--{self.name.replace('/', '--')}"


class Progress(BaseModel):
    """How far it is."""

    bytes_done: int = 0
    bytes_per_s: float | None = None
    files_done: int = 0
    current_file: str | None = None
    note: str = ""


class End(BaseModel):
    """How it ended; written once."""

    status: str
    """`completed`, `failed` or `cancelled`."""
    error: dict[str, Any] | None = None
    ended_at: float


def finish(folder: Path, status: str, error: TunesmithError | None = None) -> None:
    """Write the last word."""
    write_atomic(folder / "end.json", End(status=status, error=error.body() if error else None, ended_at=time.time()))


def missing_bytes(request: Request) -> int:
    """What is still to come: neither there whole nor in part."""
    blobs, missing = request.repository / "blobs", 0
    for file in request.files:
        whole, part = blobs / file.digest, blobs / f"{file.digest}.incomplete"
        if not whole.is_file():
            missing += max(0, file.size_bytes - (part.stat().st_size if part.is_file() else 0))
    return missing


def check_disk(request: Request) -> None:
    """Raise `DiskFull` with the numbers when what is missing does not fit."""
    place = request.repository
    while not place.exists():
        place = place.parent
    missing, free = missing_bytes(request), shutil.disk_usage(place).free
    if missing + SPARE_BYTES > free:
        raise DiskFull(
            f"{request.name} needs {_gb(missing)} more and the disk has {_gb(free)} free, of which {_gb(SPARE_BYTES)} "
            "stay as a reserve.",
            hint=f"Free {_gb(missing + SPARE_BYTES - free)} at {place}, or set HF_HUB_CACHE to another disk; what is here stays.",
        )


def remove_parts(request: Request) -> None:
    """Take away what was fetched in part; whole files stay."""
    for file in request.files:
        (request.repository / "blobs" / f"{file.digest}.incomplete").unlink(missing_ok=True)


class Fetch:
    """One run of a download."""

    def __init__(self, folder: Path, request: Request) -> None:
        self.folder, self.request = folder, request
        self.blobs = request.repository / "blobs"
        self.progress, self._done_bytes, self._part = Progress(), 0, Path()
        self._seen: deque[tuple[float, int]] = deque()
        self._over = threading.Event()

    def run(self) -> None:
        """All of it. Raises what `end.json` is to say."""
        durable_folder(self.blobs)
        check_disk(self.request)
        watcher = threading.Thread(target=self._watch, daemon=True)
        watcher.start()
        try:
            for file in self.request.files:
                self.progress.current_file = file.path
                self._whole(file)
                self._done_bytes += file.size_bytes
                self.progress.files_done += 1
            self._link()
        finally:
            self._over.set()
            watcher.join()

    def _watch(self) -> None:
        """Tell how far it is, and end the process when somebody says so."""
        while not self._over.wait(LOOK_EVERY_S):
            if (self.folder / "cancel").exists():
                remove_parts(self.request)
                finish(self.folder, "cancelled")
                os._exit(0)  # the transfer may be waiting for the hub
            self._tell()
        self._tell()

    def _tell(self) -> None:
        now_s, done = time.monotonic(), self._done_bytes
        with contextlib.suppress(OSError):
            done += self._part.stat().st_size if self._part.name else 0
        self._seen.append((now_s, done))
        while now_s - self._seen[0][0] > SPEED_OVER_S:
            self._seen.popleft()
        began_s, before = self._seen[0]
        speed = (done - before) / (now_s - began_s) if now_s - began_s > LOOK_EVERY_S / 2 else None
        self.progress.bytes_done = min(done, self.request.bytes_total)
        self.progress.bytes_per_s = max(0.0, speed) if speed is not None else None
        with contextlib.suppress(OSError):  # a full disk is told by the transfer itself
            write_atomic(self.folder / "progress.json", self.progress)

    def _whole(self, file: WantedFile) -> None:
        """See that the file's blob is there and is what the hub says."""
        blob = self.blobs / file.digest
        if blob.is_file() and _is(blob, file):
            return
        blob.unlink(missing_ok=True)
        self._part = self.blobs / f"{file.digest}.incomplete"
        with self._part.open("ab", buffering=0) as part:
            fcntl.flock(part, fcntl.LOCK_EX)  # another download of the same file may be under way
            if not _is(blob, file):
                self._fetched(file)
                os.fsync(part.fileno())
                os.replace(self._part, blob)
                fsync_dir(self.blobs)
            else:
                self._part.unlink(missing_ok=True)
        self._part = Path()

    def _fetched(self, file: WantedFile) -> None:
        """Fetch what is missing of the part, through broken connections, and compare it. Raises `BadData` for other bytes
        than the hub promised, twice."""
        for last in (False, True):
            self._transfer(file)
            if _is(self._part, file):
                return
            os.truncate(self._part, 0)  # what an earlier process had left may have been wrong
            if last:
                break
        raise BadData(
            f"{file.path} of {self.request.name} has other bytes than the hub's digest says, twice in a row.",
            hint="Something between here and the hub changes files, or the hub's copy is damaged; nothing of it was kept.",
            details=[{"loc": file.path, "message": f"the digest is not {file.digest}"}],
        )

    def _transfer(self, file: WantedFile) -> None:
        """Until the part has its size. Raises `Unavailable` when nothing comes any more."""
        tries = 0
        while self._part.stat().st_size < file.size_bytes:
            before = self._part.stat().st_size
            try:
                self._ask(file, before)
            except TunesmithError:
                raise
            except OSError as error:
                if error.errno == errno.ENOSPC:
                    raise DiskFull(f"The disk was full after {_gb(before)} of {file.path}.") from None
                said = _in_short(error)
            else:
                said = "the connection ended early"
            tries = 0 if self._part.stat().st_size > before else tries + 1
            if tries >= MAX_TRIES:
                raise Unavailable(
                    f"The hub gave nothing of {file.path} in {MAX_TRIES} attempts: {said}.",
                    hint="Download it again when the network is back: it goes on where it stopped.",
                )
            if self._part.stat().st_size < file.size_bytes:
                self._pause(min(LONGEST_PAUSE_S, 2.0 ** max(0, tries - 1)), said)
        if self._part.stat().st_size > file.size_bytes:
            os.truncate(self._part, 0)
            self._transfer(file)

    def _pause(self, wait_s: float, said: str) -> None:
        self.progress.note = f"The connection broke ({said}); trying again in {wait_s:.0f} s."
        time.sleep(wait_s)
        self.progress.note = ""

    def _ask(self, file: WantedFile, have: int) -> None:
        """One request for the rest of the file. Raises `OSError` for what may pass, `TunesmithError` for what will not."""
        from huggingface_hub import constants, hf_hub_url
        from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RemoteEntryNotFoundError
        from huggingface_hub.file_download import http_get
        from huggingface_hub.utils import build_hf_headers

        constants.DOWNLOAD_CHUNK_SIZE = CHUNK_BYTES
        url = hf_hub_url(self.request.name, file.path, revision=self.request.commit, endpoint=self.request.endpoint)
        try:
            with self._part.open("ab", buffering=0) as part:
                http_get(
                    url,
                    part,
                    resume_size=have,
                    headers=build_hf_headers(),
                    expected_size=file.size_bytes,
                    _nb_retries=0,
                )
        except GatedRepoError:
            raise gated(self.request.name) from None
        except RemoteEntryNotFoundError:
            raise NotFound(
                f"The hub has no {file.path} of {self.request.name} any more.", hint="Begin the download anew."
            ) from None
        except HfHubHTTPError as error:
            status = error.response.status_code
            if status in (401, 403, 404):
                raise gated(self.request.name) from None
            raise OSError(f"the hub answered {status}") from None
        except _broken() as error:
            if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                raise
            raise OSError(_in_short(error)) from None

    def _link(self) -> None:
        """The snapshot, `config.json` last: a folder that has it is a model. Then what the branch stands for."""
        snapshot = self.request.repository / "snapshots" / self.request.commit
        durable_folder(snapshot)
        for file in sorted(self.request.files, key=lambda one: one.path == "config.json"):
            link = snapshot / file.path
            link.parent.mkdir(parents=True, exist_ok=True)
            up = "../" * len(Path(file.path).parts)
            for left in link.parent.glob(f".{glob.escape(link.name)}.*"):  # by one that was killed here
                left.unlink(missing_ok=True)
            temporary = link.with_name(f".{link.name}.{os.getpid()}")
            temporary.symlink_to(f"{up}../blobs/{file.digest}")
            os.replace(temporary, link)
        fsync_dir(snapshot)
        reference = self.request.repository / "refs" / (self.request.revision or "main")
        if (self.request.revision or "main") != self.request.commit:
            durable_folder(reference.parent)
            for left in reference.parent.glob(f".{glob.escape(reference.name)}.*"):
                left.unlink(missing_ok=True)
            write_atomic(reference, self.request.commit)


def gated(name: str) -> Conflict:
    """What to do about a model whose terms have not been accepted."""
    return Conflict(
        f"The hub gives {name} only to accounts that have accepted its terms, and this server's token is none of them.",
        hint=f"Accept the terms at https://huggingface.co/{name}, make a token of that account, and start the server with "
        "HF_TOKEN set to it.",
    )


def _broken() -> Any:
    """What the hub's HTTP library raises for connections that fail, whichever library that is."""
    from huggingface_hub.errors import HfHubHTTPError

    return (*HfHubHTTPError.__bases__, ValueError)


def _is(path: Path, file: WantedFile) -> bool:
    """Whether the file has the size and the digest that the hub promised."""
    if not path.is_file() or path.stat().st_size != file.size_bytes:
        return False
    with path.open("rb") as content:
        if file.sha256:
            return hashlib.file_digest(content, "sha256").hexdigest() == file.sha256
        made = hashlib.sha1(f"blob {file.size_bytes}\0".encode(), usedforsecurity=False)
        for piece in iter(lambda: content.read(CHUNK_BYTES), b""):
            made.update(piece)
    return made.hexdigest() == file.git_id


def _in_short(error: BaseException) -> str:
    """The first line, without addresses: those of the hub's store hold signatures."""
    text = str(error).strip().partition("\n")[0]
    return type(error).__name__ if not text or "://" in text else text[:200]


def _gb(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


@contextlib.contextmanager
def alone(folder: Path, wait_s: float = 0.0) -> Iterator[bool]:
    """Whether nobody else works on the folder; until the block ends nobody does."""
    until_s = time.monotonic() + wait_s
    with (folder / "lock").open("w") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                if time.monotonic() < until_s:
                    time.sleep(0.05)
                    continue
                yield False
                return
            yield True
            return


def main(folder: Path) -> int:
    """The process's exit code: 0 whenever `end.json` was written."""
    with alone(folder, LOCK_WAIT_S) as is_mine:
        if not is_mine:
            return 3
        for left in folder.glob(".*.json.*"):  # half-written by one that was killed
            left.unlink(missing_ok=True)
        request = read_model(folder / "request.json", Request)
        if request is None or (folder / "end.json").exists():
            return 3
        try:
            Fetch(folder, request).run()
        except TunesmithError as error:
            finish(folder, "failed", error)
        except OSError as error:
            full = error.errno == errno.ENOSPC
            finish(folder, "failed", DiskFull() if full else Unavailable(f"The download stopped: {_in_short(error)}."))
        else:
            finish(folder, "completed")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
