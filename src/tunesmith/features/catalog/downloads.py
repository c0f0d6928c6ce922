"""Downloads from the hub: asked for, listed, cancelled, and kept going by one thread of the server.

Each is a folder `downloads/<id>` in the home and a process of its own (`fetching.py`), which goes on while the server restarts.
What was killed is started again and goes on where it stopped.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

from tunesmith.core import confinement
from tunesmith.core.acting import current
from tunesmith.core.errors import Conflict, InvalidInput, NotFound, TunesmithError
from tunesmith.core.job_dir import durable_folder, new_folder, read_model, write_atomic
from tunesmith.core.rounds import Rounds
from tunesmith.features.catalog import asking, fetching, hub, library
from tunesmith.features.catalog.fetching import End, Progress, Request, WantedFile
from tunesmith.live.bus import Bus
from tunesmith.schemas.common import Page
from tunesmith.schemas.models import DownloadCreate, DownloadRead, DownloadStatus
from tunesmith.settings import Settings

ABOUT_IT = ("README", "LICENSE", "LICENCE")
"""Files that come along with a GGUF file, whatever their ending."""
TOPIC = "downloads"
AT_ONCE = 2
"""Downloads under way at the same time; the others wait."""
LOOK_EVERY_S = 0.5
REST_S = 5.0
"""Between two looks when nothing is to do."""
MAX_STARTS = 20
"""How often the process of one download is started."""
KEPT = 100
"""Downloads that are over and stay in the list."""
PASSED_ON = ("HF_TOKEN", "HF_TOKEN_PATH", "HF_HUB_DOWNLOAD_TIMEOUT")
"""The server's variables that a download gets besides what every process gets."""


def folder_of(settings: Settings) -> Path:
    return settings.home / "downloads"


def ids(settings: Settings) -> list[int]:
    """Newest first."""
    place = folder_of(settings)
    return sorted((int(path.name) for path in place.glob("[0-9]*") if path.name.isdigit()), reverse=True)


def read(settings: Settings, download_id: int) -> DownloadRead:
    """Raises `NotFound`."""
    folder = folder_of(settings) / str(download_id)
    request = read_model(folder / "request.json", Request)
    if request is None:
        raise NotFound(f"There is no download {download_id}.", hint="See the list of downloads.")
    end, progress = read_model(folder / "end.json", End), read_model(folder / "progress.json", Progress)
    total, came = request.bytes_total, progress or Progress()
    status: DownloadStatus = end.status if end else "running" if progress else "queued"  # type: ignore[assignment]
    done = total if status == "completed" else came.bytes_done
    speed = came.bytes_per_s if status == "running" else None
    return DownloadRead(
        id=download_id,
        name=request.name,
        revision=request.revision,
        file=request.file,
        status=status,
        bytes_done=done,
        bytes_total=total,
        share=done / total if total else 1.0,
        bytes_per_s=speed,
        remaining_s=(total - done) / speed if speed else None,
        files_done=len(request.files) if status == "completed" else came.files_done,
        files_total=len(request.files),
        current_file=came.current_file if status == "running" else None,
        note=came.note if status == "running" else "waits for others to end" if status == "queued" else "",
        left_out=request.left_out,
        error=end.error if end else None,
        requested_by=request.requested_by,
        created_at=datetime.fromtimestamp(request.created_at, UTC),
        ended_at=datetime.fromtimestamp(end.ended_at, UTC) if end else None,
    )


def list_downloads(settings: Settings, *, cursor: int | None, limit: int) -> Page[DownloadRead]:
    """Newest first; the cursor is the number of the last one of the page before."""
    found = [one for one in ids(settings) if cursor is None or one < cursor]
    return Page(
        items=[read(settings, one) for one in found[:limit]],
        next_cursor=found[limit - 1] if len(found) > limit else None,
    )


def active(settings: Settings) -> list[DownloadRead]:
    """Those that are not over, oldest first."""
    open_ids = [one for one in ids(settings) if not (folder_of(settings) / str(one) / "end.json").exists()]
    return [read(settings, one) for one in reversed(open_ids)]


def create(settings: Settings, body: DownloadCreate) -> DownloadRead:
    """Ask the hub what is to be fetched and queue it; the same that is under way is not begun twice.

    Raises `Conflict` when the hub is switched off or keeps the model behind terms, `NotFound`, `InvalidInput` for what must not
    be fetched, `DiskFull` with the numbers, `Unavailable` when the hub is silent.
    """
    if "/" not in body.name:
        raise InvalidInput(
            f"{body.name[:80]!r} is not the name of a model on the hub.",
            hint="Use organisation/name, such as HuggingFaceTB/SmolLM2-135M-Instruct.",
            details=[{"loc": "name", "message": "not organisation/name"}],
        )
    for one in active(settings):
        if (one.name, one.revision, one.file) == (body.name, body.revision, body.file):
            return one
    try:
        about = asking.about(settings, body.name, body.revision)
    except TunesmithError as error:
        error.hint = f"{error.hint} {at_hand(settings)}".strip()
        raise
    if about.gated and not asking.is_given(body.name):
        raise fetching.gated(body.name)
    request = _request(body, about)
    fetching.check_disk(request)
    return _queue(settings, request)


def at_hand(settings: Settings) -> str:
    """What can be used without the hub, in words."""
    names = sorted(library.base_models(settings))
    if not names:
        return "No model is at hand yet; tunesmith demo brings one."
    return f"At hand: {', '.join(names[:8])}{' and more' if len(names) > 8 else ''}."


def _request(body: DownloadCreate, about: asking.About) -> Request:
    from huggingface_hub import constants

    return Request(
        name=body.name,
        revision=body.revision,
        file=body.file,
        commit=about.commit,
        endpoint=constants.ENDPOINT,
        cache=str(Path(constants.HF_HUB_CACHE).absolute()),
        files=_small_enough(body.name, _chosen(body, about)),
        left_out=about.left_out,
        requested_by=current().name if current().user_id is not None else None,
        created_at=time.time(),
    )


def _small_enough(name: str, files: list[WantedFile]) -> list[WantedFile]:
    """The same. Raises `InvalidInput` for files that the hub does not give over plain HTTP."""
    from huggingface_hub import constants

    most = constants.MAX_HTTP_DOWNLOAD_SIZE
    if too_large := next((file for file in files if file.size_bytes > most), None):
        raise InvalidInput(
            f"{too_large.path} of {name} has {too_large.size_bytes / 1e9:.0f} GB; the hub gives files of more than "
            f"{most / 1e9:.0f} GB only to its own tool.",
            hint=f"Fetch it with: hf download {name}. It is listed here as soon as it is in the hub's cache.",
            details=[{"loc": "name", "message": f"{too_large.path} is too large"}],
        )
    return files


def _chosen(body: DownloadCreate, about: asking.About) -> list[WantedFile]:
    """The files; of many GGUF files the one that was named, with the card."""
    small = [file for file in about.files if not file.path.endswith(".safetensors")]
    if body.file or not any(file.path.endswith(".safetensors") for file in about.files):
        choice = [file for file in about.gguf_files if body.file in (None, file.path)]
        if len(choice) == 1:
            return [*[file for file in small if PurePosixPath(file.path).stem in ABOUT_IT], *choice]
        if about.has_pickles_only:
            raise InvalidInput(
                f"{body.name} has its weights only in a format that can run code when it is read, so it is not fetched.",
                hint="Look for a version with .safetensors or .gguf files.",
                details=[{"loc": "name", "message": "no .safetensors and no .gguf"}],
            )
        names = ", ".join(f"{file.path} ({file.size_bytes / 1e9:.1f} GB)" for file in about.gguf_files[:20])
        raise InvalidInput(
            f"{body.name} has no {body.file}." if body.file else f"{body.name} has {len(choice)} files to choose from."
            if choice else f"{body.name} has no weights that could be fetched.",
            hint=f"Name one of them as file: {names}." if names else "Look for a version with .safetensors files.",
            details=[{"loc": "file", "message": "name one GGUF file"}],
        )  # fmt: skip
    return about.files


def _queue(settings: Settings, request: Request) -> DownloadRead:
    place = folder_of(settings)
    durable_folder(place, mode=0o700)
    with fetching.alone(place, fetching.LOCK_WAIT_S):  # numbers are given out one after the other
        for left in place.glob(".*"):  # half-made by a server that was killed
            shutil.rmtree(left, ignore_errors=True)
        number = max(ids(settings), default=0) + 1
        with new_folder(place / str(number)) as folder:
            write_atomic(folder / "request.json", request)
    return read(settings, number)


def cancel(settings: Settings, download_id: int) -> DownloadRead:
    """End it and take away what came in part; whole files stay. Raises `NotFound`, `Conflict` when it is over."""
    found = read(settings, download_id)
    if found.ended_at:
        raise Conflict(f"Download {download_id} is over ({found.status}).", hint="Nothing needs to be done.")
    folder = folder_of(settings) / str(download_id)
    (folder / "cancel").touch()
    until_s = time.monotonic() + 3 * fetching.LOOK_EVERY_S
    while time.monotonic() < until_s and not (folder / "end.json").exists():
        with fetching.alone(folder) as is_mine:
            if is_mine:
                _cancelled(folder)
        time.sleep(0.05)
    return read(settings, download_id)


def remove(settings: Settings, download_id: int) -> None:
    """Take one that is over out of the list; the model stays. Raises `NotFound`, `Conflict` while it is under way."""
    if not read(settings, download_id).ended_at:
        raise Conflict(f"Download {download_id} is not over.", hint="Cancel it first.")
    shutil.rmtree(folder_of(settings) / str(download_id), ignore_errors=True)


def _cancelled(folder: Path) -> None:
    request = read_model(folder / "request.json", Request)
    if request is not None and not (folder / "end.json").exists():
        fetching.remove_parts(request)
        fetching.finish(folder, "cancelled")


class Downloads(Rounds):
    """Starts the processes, starts them again, and tells the bus how far they are. They go on while no server is there."""

    name = "downloads"
    rest_s = REST_S

    def __init__(self, settings: Settings, bus: Bus) -> None:
        super().__init__()
        self.settings, self.bus = settings, bus
        self._children: dict[int, subprocess.Popen[bytes]] = {}
        self._starts: dict[int, int] = {}
        self._told: dict[int, Any] = {}

    def look(self) -> None:
        for child in self._children.values():
            child.poll()
        downloads = active(self.settings)
        slots = AT_ONCE
        for one in downloads:
            slots -= 1
            if slots >= 0 and not self._runs(one.id):
                self._go_on(one)
            self._tell(one)
        for number in set(self._told) - {one.id for one in downloads}:
            with contextlib.suppress(NotFound):
                self._tell(read(self.settings, number))
            del self._told[number]
            self._forget()
        self.rest_s = LOOK_EVERY_S if downloads else REST_S

    def _runs(self, number: int) -> bool:
        child = self._children.get(number)
        if child is not None and child.poll() is None:
            return True
        with fetching.alone(folder_of(self.settings) / str(number)) as is_free:
            return not is_free

    def _go_on(self, one: DownloadRead) -> None:
        folder = folder_of(self.settings) / str(one.id)
        with fetching.alone(folder) as is_mine:
            if not is_mine or (folder / "end.json").exists():
                return None
            if (folder / "cancel").exists():
                return _cancelled(folder)
            if why := hub.why_not_asked(self.settings):
                return fetching.finish(folder, "failed", Conflict(f"{why}.", hint=at_hand(self.settings)))
            self._starts[one.id] = self._starts.get(one.id, 0) + 1
            if self._starts[one.id] > MAX_STARTS:
                said = "The process of this download ended again and again."
                return fetching.finish(folder, "failed", TunesmithError(said, hint=f"{folder / 'log.txt'} says more."))
        with contextlib.suppress(OSError):  # where it lies beside the home folder, the process itself could not make it
            if request := read_model(folder / "request.json", Request):
                Path(request.cache).mkdir(parents=True, exist_ok=True)
        environment = confinement.environment(*PASSED_ON) | {
            "TMPDIR": str(folder),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_VERBOSITY": "error",
        }
        with (folder / "log.txt").open("ab") as log_file:
            self._children[one.id] = subprocess.Popen(
                confinement.command("tunesmith.features.catalog.fetching", str(folder)),
                stdin=subprocess.DEVNULL, stdout=log_file, stderr=log_file, env=environment, start_new_session=True,
            )  # fmt: skip
        return None

    def _tell(self, one: DownloadRead) -> None:
        seen = (one.status, one.bytes_done, one.note)
        if self._told.get(one.id) != seen:
            self._told[one.id] = seen
            self.bus.publish(TOPIC, one)

    def _forget(self) -> None:
        """Old ones leave the list."""
        ended = [one for one in ids(self.settings) if (folder_of(self.settings) / str(one) / "end.json").exists()]
        for number in ended[KEPT:]:
            shutil.rmtree(folder_of(self.settings) / str(number), ignore_errors=True)
