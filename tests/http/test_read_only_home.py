"""A home folder that cannot be written: one sentence at the start, and an error with its reason while the server runs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.conftest import ServerProcess, free_port


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, which can be made read-only."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64m,mode=700", "tunesmith-test", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("this machine lets us mount no disk; run as root, where mounting is allowed")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def remount(disk: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", str(disk)], check=True)


@pytest.mark.parametrize("exists", [False, True])
def test_a_server_that_cannot_write_its_home_says_so_and_ends(disk: Path, exists: bool) -> None:
    home = disk / "home"
    if exists:
        for name in ("datasets", "uploads", "jobs", "models", "cache"):
            (home / name).mkdir(parents=True)
    remount(disk, "ro")
    command = [sys.executable, "-m", "tunesmith", "up", "--port", str(free_port())]
    ended = subprocess.run(
        command, env={**os.environ, "TUNESMITH_HOME": str(home)}, capture_output=True, text=True, timeout=60
    )
    said = ended.stdout + ended.stderr
    assert ended.returncode not in (0, -9) and "Traceback" not in said
    assert f"The home folder {home} cannot be written: Read-only file system." in said and "TUNESMITH_HOME" in said


def test_a_home_that_becomes_read_only_is_told_and_reading_goes_on(
    disk: Path, start_server: Callable[..., ServerProcess]
) -> None:
    """A read-only view is laid over the folder, since a file system with open files cannot be turned round; then taken away."""
    home = disk / "home"
    server = start_server(home, TUNESMITH_MIN_FREE_BYTES="0")

    def upload() -> httpx.Response:
        return server.client.put("/datasets/upload", params={"file_name": "x.csv"}, content=b"a,b\n1,2\n")

    upload().raise_for_status()
    subprocess.run(["mount", "--bind", str(home), str(home)], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(home)], check=True)
        refused = upload()
        assert refused.status_code == 503, refused.text
        assert (
            refused.json()["message"] == "The home folder is read-only; nothing was changed." and refused.json()["hint"]
        )
        assert server.client.get("/datasets/").status_code == 200
    finally:
        subprocess.run(["umount", "--lazy", str(home)], check=True)
    assert upload().status_code == 201
    assert server.lives() and server.log().count("Traceback") == 0
