"""One serving process, known by its folder: started, found again by whoever looks there, and ended.

`serving.json` says what it is to serve, `process.json` which process it is, `endpoint.json` where it answers.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tunesmith.core import confinement
from tunesmith.core.credentials import HUB_TOKEN, is_hub_id
from tunesmith.core.inference import NO_LIMITS, TemplateLimits
from tunesmith.core.job_dir import write_atomic
from tunesmith.core.serving_spec import ServingSpec
from tunesmith.executors.identity import boot_id, is_alive, start_time

LAST_WORDS = 500
"""Most characters of what a process said last that are told."""
LAST_LINES = 3
"""And most lines, where it said no error of Python's."""
LOG_TAIL_BYTES = 16 * 1024
MAX_CODES = 100
SIGNALS = {each.value: each.name for each in signal.Signals}
CONTROL = re.compile(r"\x1b\[[0-9;]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f]")


def _is_frame(line: str) -> bool:
    """Whether a line of a traceback says where, not what."""
    return line[:1].isspace() and line.lstrip().startswith(('File "', "^", "~"))


@dataclass(frozen=True)
class Endpoint:
    """Where a serving process answers, and with which word it lets one in."""

    url: str
    token: str
    tools: bool = True
    """Whether the model can be told of tools."""
    limits: TemplateLimits = NO_LIMITS
    """What else its chat template does not take."""


class ServingProcess:
    """The process of one folder. Threads and servers may share the folder: whoever starts or ends it holds `locked`."""

    _children: dict[int, subprocess.Popen[bytes]] = {}
    """Those that this server started, so that the ended ones are waited for."""
    _codes: dict[int, int] = {}
    """How those that have ended did, the last ones: exit code, negative for a signal."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """One at a time, over all servers."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with (self.folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def start(self, spec: ServingSpec) -> None:
        """Start it, without waiting."""
        (self.folder / "endpoint.json").unlink(missing_ok=True)
        write_atomic(self.folder / "serving.json", spec)
        temporary = self.folder / "tmp"
        temporary.mkdir(exist_ok=True, mode=0o700)
        environment = confinement.environment(*(HUB_TOKEN if is_hub_id(spec.base_path) and not spec.offline else ()))
        environment["TMPDIR"] = str(temporary)
        if spec.offline:
            environment["HF_HUB_OFFLINE"] = "1"
        with (self.folder / "log.txt").open("wb") as log:
            child = subprocess.Popen(
                confinement.command("tunesmith.serving", str(self.folder)), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True, env=environment,
            )  # fmt: skip
        self._codes.pop(child.pid, None)  # of another process that had this number
        self._children[child.pid] = child
        started = start_time(child.pid) or -1.0  # -1: it has ended already
        write_atomic(self.folder / "process.json", {"pid": child.pid, "started": started, "boot_id": boot_id()})

    def spec(self) -> ServingSpec:
        """What it was told. Raises `OSError` or `ValueError` when that is gone."""
        return ServingSpec.model_validate_json((self.folder / "serving.json").read_bytes())

    def pid(self) -> int | None:
        """Of the living process; None when it does not live."""
        self._bury()
        process = self._read("process.json")
        if process is None or process["boot_id"] != boot_id() or not is_alive(process["pid"], process["started"]):
            return None
        return int(process["pid"])

    def endpoint(self) -> Endpoint | None:
        """Where the living process answers; None while it loads, and when it does not live."""
        told, pid = self._read("endpoint.json"), self.pid()
        if told is None or pid is None or told["pid"] != pid:
            return None
        url, limits = f"http://127.0.0.1:{told['port']}", TemplateLimits(**told.get("limits", {}))
        return Endpoint(url, told["token"], bool(told.get("tools", True)), limits)

    def wait(self, within_s: float) -> Endpoint | None:
        """The endpoint as soon as there is one; None when the process ends or the time passes before."""
        deadline_s = time.monotonic() + within_s
        while time.monotonic() < deadline_s:
            if found := self.endpoint():
                return found
            if self.pid() is None:
                return None
            time.sleep(0.02)
        return None

    def why_ended(self) -> str:
        """Of a process that lives no more: the signal that ended it and what it printed last, or its exit code when it printed
        nothing."""
        self._bury()
        process, said = self._read("process.json"), self.last_words()
        code = self._codes.get(process["pid"]) if process else None
        if code is not None and code < 0:
            name = SIGNALS.get(-code, f"signal {-code}")
            memory = " Look whether the machine's memory ran out." if name == "SIGKILL" else ""
            told = f"Its last words were: {said}" if said else "It had printed nothing."
            return f"It was ended by {name}.{memory} {told}"
        if said:
            return said
        return (
            "It ended and printed nothing." if code is None else f"It ended with exit code {code} and printed nothing."
        )

    def last_words(self) -> str:
        """What its log ends with: Python's error without the way there, else the last lines; empty when it said nothing."""
        try:
            with (self.folder / "log.txt").open("rb") as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - LOG_TAIL_BYTES))
                lines = re.split(r"[\r\n]+", log.read().decode(errors="replace"))
        except FileNotFoundError:
            return ""
        frames = [number for number, line in enumerate(lines) if _is_frame(line)]
        # behind the last place comes its line of source, then the error, which may have several lines
        last = lines[frames[-1] + 1 :] if frames else lines
        told = [line for line in last if line.strip() and not (frames and line.startswith("    "))]
        told = told if frames else told[-LAST_LINES:]
        return CONTROL.sub("", " ".join(line.strip() for line in told))[:LAST_WORDS]

    def memory_bytes(self) -> int:
        """Resident memory; 0 when it does not live."""
        with contextlib.suppress(psutil.Error):
            if pid := self.pid():
                return int(psutil.Process(pid).memory_info().rss)
        return 0

    def end(self) -> None:
        """Kill it and all that it started; it is no error when it lives no more."""
        if pid := self.pid():
            with contextlib.suppress(ProcessLookupError, psutil.Error):
                process = psutil.Process(pid)
                os.killpg(pid, signal.SIGKILL)  # it leads a session of its own
                process.wait(5)
        self._bury()
        for name in ("endpoint.json", "process.json"):
            (self.folder / name).unlink(missing_ok=True)

    def _bury(self) -> None:
        for pid, child in list(self._children.items()):
            if (code := child.poll()) is not None and pid in self._children:
                del self._children[pid]
                self._codes[pid] = code
                while len(self._codes) > MAX_CODES:
                    self._codes.pop(next(iter(self._codes)))

    def _read(self, name: str) -> dict[str, Any] | None:
        try:
            return dict(json.loads((self.folder / name).read_bytes()))
        except (FileNotFoundError, ValueError):
            return None
