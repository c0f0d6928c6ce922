"""Ground for tests of the scheduler, on either database, and whole servers that are killed and started often."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ServerProcess, kill_processes_of
from tests.reliability import forked
from tests.reliability.ground import Ground


@pytest.fixture
def make_ground(tmp_path: Path) -> Iterator[Callable[..., Ground]]:
    made: list[Ground] = []

    def make(url: str | None = None, home: Path | None = None, **more: Any) -> Ground:
        made.append(Ground(home or tmp_path / f"ground-{len(made)}", url, **more))
        return made[-1]

    yield make
    for ground in made:
        ground.close()


@pytest.fixture
def ground(make_ground: Callable[..., Ground], database_url: str | None) -> Ground:
    return make_ground(database_url)


class ForkedServer(ServerProcess):
    """`tunesmith up`, forked."""

    forked: BaseProcess | None = None

    def launch(self) -> None:
        self.forked = forked.start_server(self.port, self.env, self.home / "server.log")

    def lives(self) -> bool:
        return self.forked is not None and self.forked.is_alive()

    def kill(self) -> None:
        assert self.forked
        self.forked.kill()
        self.forked.join()

    def stop(self) -> None:
        if self.forked and self.forked.is_alive():
            self.forked.terminate()
            self.forked.join(20)
            if self.forked.is_alive():
                self.kill()


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[Callable[..., ServerProcess]]:
    """As everywhere, but forked."""
    started: list[ForkedServer] = []

    def start(home: Path | None = None, **env: str) -> ForkedServer:
        started.append(ForkedServer(home or tmp_path / "home", env))
        started[-1].start()
        return started[-1]

    yield start
    for server in started:
        server.stop()
        kill_processes_of(server.home)
        server.client.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MB, where this machine lets us mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=24m,mode=700", "tunesmith-test", str(folder)]
    mounted = os.geteuid() == 0 and subprocess.run(command, capture_output=True, check=False).returncode == 0
    if not mounted:
        pytest.skip("this machine lets us mount no small disk; run as root, where mounting is allowed")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)  # it goes with the last process that works there
