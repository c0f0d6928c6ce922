"""One run in a process of its own: how long it took, and the most memory that it and its children held together."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import NamedTuple

import psutil

SAMPLE_EVERY_S = 0.1
LOG_TAIL_CHARACTERS = 2000


class Measured(NamedTuple):
    """A run that ended well."""

    began_at: float
    """Seconds since 1970."""
    wall_s: float
    peak_bytes: int
    """Largest sum of resident memory over the process tree, looked at ten times a second."""


class RunFailed(Exception):
    """The process ended with an error; the text is the end of what it printed."""


def run_measured(command: list[str], folder: Path, environment: dict[str, str]) -> Measured:
    """Run `command` in `folder`, output to `folder/output.log`. Raises `RunFailed`."""
    log_path = folder / "output.log"
    with log_path.open("wb") as log:
        began_at = time.time()
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        peak, ended = [0], threading.Event()
        watcher = threading.Thread(target=_watch, args=(process.pid, peak, ended), daemon=True)
        watcher.start()
        try:
            code = process.wait()
            wall_s = time.time() - began_at
        finally:
            ended.set()
            end_tree(process)
        watcher.join()
    if code:
        raise RunFailed(log_path.read_text(errors="replace")[-LOG_TAIL_CHARACTERS:])
    return Measured(began_at, wall_s, peak[0])


def end_tree(process: subprocess.Popen[bytes] | subprocess.Popen[str]) -> None:
    """Leave nothing running when the bench itself is ended; children may have sessions of their own."""
    if process.poll() is None:
        with contextlib.suppress(psutil.Error):
            for one in (*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)):
                with contextlib.suppress(psutil.Error):
                    one.kill()


def end_by_exception() -> None:
    """Let SIGTERM unwind the program as Ctrl-C does, so that what it started ends with it."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def _watch(pid: int, peak: list[int], ended: threading.Event) -> None:
    while not ended.wait(SAMPLE_EVERY_S):
        with contextlib.suppress(psutil.Error):
            root = psutil.Process(pid)
            total = 0
            for process in (root, *root.children(recursive=True)):
                with contextlib.suppress(psutil.Error):
                    total += process.memory_info().rss
            peak[0] = max(peak[0], total)


def plain_environment(home: Path) -> dict[str, str]:
    """What every contender runs with: this environment, nothing from a hub, caches under `home`."""
    return {
        **os.environ,
        "HF_HOME": str(home / "huggingface"),
        "HF_HUB_OFFLINE": "1",
        "TUNESMITH_HOME": str(home / "tunesmith"),
        "PYTHONUNBUFFERED": "1",
    }
