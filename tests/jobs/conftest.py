"""The application in this process, on both databases, and small jobs that need no model."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.conftest import kill_processes_of, lay_database
from tunesmith.app import create_app
from tunesmith.settings import Settings

SCRIPT = """
import json, pathlib, sys, time
config = json.load(open(sys.argv[1]))
for step in range(1, {steps} + 1):
    print(json.dumps({{"step": step, "total_steps": {steps}, "loss": 1.0 / step}}), flush=True)
    time.sleep({pause})
out = pathlib.Path(config["output_dir"])
out.mkdir(parents=True, exist_ok=True)
(out / "result.json").write_text("{{}}")
"""


def script(steps: int = 5, pause: float = 0.0) -> dict[str, Any]:
    """Hyperparameters of a custom job of so many steps."""
    return {"script": SCRIPT.format(steps=steps, pause=pause)}


def custom(steps: int = 5, pause: float = 0.0, **fields: Any) -> dict[str, Any]:
    """A request for a custom job."""
    return {"method": "custom", "hyperparameters": script(steps, pause), **fields}


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "home"
    kill_processes_of(tmp_path / "home")


@pytest.fixture
def make_client(home: Path, database_url: str | None) -> Iterator[Callable[..., TestClient]]:
    """The application on each database in turn; its scheduler runs unless `idle`."""
    opened: list[TestClient] = []

    def make(**more: Any) -> TestClient:
        settings = Settings(home=home, database_url=database_url, custom_scripts=True, hub_offline=True, **more)
        if database_url is None:
            lay_database(home)
        client = TestClient(create_app(settings), client=("127.0.0.1", 1), base_url="http://localhost/api/v1")
        opened.append(client.__enter__())
        return client

    yield make
    for client in opened:
        client.__exit__(None, None, None)


@pytest.fixture
def client(make_client: Callable[..., TestClient]) -> TestClient:
    return make_client()


@pytest.fixture
def idle(make_client: Callable[..., TestClient]) -> TestClient:
    """Nothing starts: every job stays in the queue."""
    return make_client(cpu_slots=0)


def wait_until(client: TestClient, job_id: int, *statuses: str, timeout_s: float = 60) -> dict[str, Any]:
    """The job's progress once it is in one of `statuses`."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        found: dict[str, Any] = client.get(f"/jobs/{job_id}/status").json()
        if found["status"] in statuses:
            return found
        time.sleep(0.05)
    raise AssertionError(f"job {job_id} is {found['status']}: {found['message']}")
