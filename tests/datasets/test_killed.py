"""A child that reads a dataset and is killed says nothing of the data: it is tried again, and in the end the true reason told."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.conftest import ServerProcess
from tests.datasets.test_api import ROWS, ready
from tunesmith.executors import limits
from tunesmith.features.datasets import child as children
from tunesmith.features.datasets.child import Child
from tunesmith.settings import Settings


def kill_children(server: ServerProcess, times: int) -> None:
    """kill -9 of so many children, each as soon as it is there."""
    killed: set[int] = set()
    deadline_s = time.monotonic() + 60
    while len(killed) < times:
        assert time.monotonic() < deadline_s, f"{len(killed)} children came"
        assert server.process
        for process in psutil.Process(server.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if "tunesmith.dataprep" in process.cmdline() and process.pid not in killed:
                    process.kill()
                    killed.add(process.pid)
        time.sleep(0.005)


def upload(server: ServerProcess) -> int:
    made = server.client.put("/datasets/upload", params={"file_name": "rows.jsonl"}, content=ROWS)
    return int(made.raise_for_status().json()["id"])


def test_one_that_is_killed_once_is_tried_again(sqlite_server: ServerProcess) -> None:
    dataset_id = upload(sqlite_server)
    kill_children(sqlite_server, 1)
    assert ready(sqlite_server, dataset_id)["num_rows"] == 150
    assert not list((sqlite_server.home / "datasets" / str(dataset_id)).glob("processing-*"))


def test_one_that_is_killed_each_time_fails_with_the_true_reason(sqlite_server: ServerProcess) -> None:
    dataset_id = upload(sqlite_server)
    kill_children(sqlite_server, 3)
    found = sqlite_server.wait_for(f"/datasets/{dataset_id}", lambda d: d["status"] == "failed", 30)
    error = found["error"]
    assert error["error"] == "unavailable" and "memory" not in error["message"]
    assert "ended from outside, by signal 9 (SIGKILL). It was tried 3 times." in error["message"] and error["hint"]


Make = Callable[..., Child]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """A child that is `code` instead of the program that reads data."""

    def begin(code: str, **settings: int) -> Child:
        popen = subprocess.Popen

        def other(command: list[str], **more: object) -> object:
            return popen([command[0], "-c", code], **more)  # type: ignore[call-overload]

        with monkeypatch.context() as patch:
            patch.setattr(subprocess, "Popen", other)
            return Child(Settings(home=tmp_path, **settings), {"action": "ingest"}, tmp_path)

    return begin


def end(child: Child) -> tuple[str, str, bool]:
    list(child.progress())
    error = child.end()
    assert error and error["hint"]
    return error["error"], error["message"], child.was_killed


def test_how_it_ended_is_told_as_it_was(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    kill = "import os, signal; os.kill(os.getpid(), signal.{})"
    code, message, was_killed = end(make(kill.format("SIGSEGV")))
    assert (code, was_killed) == ("unavailable", True) and "signal 11 (SIGSEGV)" in message
    refused = make("held = bytearray(2**40)")
    assert end(refused) == ("too_large", "The data needs more memory than is allowed.", False)
    limited = make("held = bytearray(600 * 2**20)", dataset_memory_bytes=400 * 2**20)
    assert end(limited)[::2] == ("too_large", False)
    assert end(make("raise ValueError('x')"))[2] is False, "a defect comes again: it is not tried again"
    monkeypatch.setattr(children, "kernel_ended", lambda pid: True)
    code, message, was_killed = end(make(kill.format("SIGKILL")))
    assert (code, was_killed) == ("unavailable", True) and "memory ran out" in message
    assert "memory" not in end(make(kill.format("SIGTERM")))[1], "the kernel ends by SIGKILL only"


def test_one_that_says_nothing_any_more_is_ended(make: Make) -> None:
    code = "import time\nfor _ in range(3): print('{\"progress\": 0.1}', flush=True); time.sleep(0.5)\ntime.sleep(60)"
    code, message, was_killed = end(make(code, stall_s=2))
    assert (code, was_killed) == ("unavailable", True) and "made no progress" in message


def test_the_kernels_log_tells_of_this_process_only() -> None:
    assert not limits.kernel_ended(os.getpid())


def test_a_child_ends_with_its_server(sqlite_server: ServerProcess) -> None:
    """So that nothing is written where the next server sweeps."""
    upload(sqlite_server)
    found: list[psutil.Process] = []
    deadline_s = time.monotonic() + 30
    while not found:
        assert time.monotonic() < deadline_s and sqlite_server.process
        for process in psutil.Process(sqlite_server.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if "tunesmith.dataprep" in process.cmdline():
                    process.send_signal(signal.SIGSTOP)
                    found.append(process)
    sqlite_server.kill()
    psutil.wait_procs(found, timeout=5)
    assert not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in found)
