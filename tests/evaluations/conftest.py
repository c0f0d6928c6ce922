"""One server for a module, with small models, and rows that they can be measured on."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import kill_processes_of
from tests.jobs.serving_app import serve
from tests.tiny import make_tiny_model
from tunesmith.app import create_app
from tunesmith.settings import Settings

ROWS = [{"question": f"the question {n} of user", "answer": "user" if n % 2 else "assistant"} for n in range(40)]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[httpx.Client]:
    home = tmp_path_factory.mktemp("evaluations") / "home"
    settings = Settings(home=home, hub_offline=True, warm_workers=True, promotion_metric="perplexity")
    settings.make_dirs()
    shutil.copytree(tiny_model, settings.models_dir / "tiny-llama")
    make_tiny_model(settings.models_dir / "tiny-other", seed=7)
    with serve(create_app(settings)) as host, httpx.Client(base_url=f"http://{host}/api/v1", timeout=60) as found:
        yield found
    kill_processes_of(home)


@pytest.fixture(scope="module")
def dataset(client: httpx.Client) -> int:
    return upload(client, ROWS, "labels.jsonl")


def upload(client: httpx.Client, rows: list[dict[str, Any]], name: str) -> int:
    data = "".join(json.dumps(row) + "\n" for row in rows)
    dataset_id = int(client.post("/datasets/", files={"file": (name, data)}).json()["items"][0]["dataset"]["id"])
    wait(client, f"/datasets/{dataset_id}", "ready")
    return dataset_id


def wait(client: httpx.Client, path: str, *statuses: str) -> dict[str, Any]:
    """The thing at `path` once it is in one of `statuses`; it must not fail unless that is asked for."""
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        found: dict[str, Any] = client.get(path).json()
        if found["status"] in statuses:
            return found
        assert found["status"] != "failed", found
        time.sleep(0.1)
    raise AssertionError(found)


def eventually(check: Any, timeout_s: float = 60.0) -> Any:
    """What `check` gives once it gives something."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if found := check():
            return found
        time.sleep(0.1)
    raise AssertionError(f"not in {timeout_s} s")


def evaluate(client: httpx.Client, **body: Any) -> dict[str, Any]:
    """An evaluation once it is completed."""
    made = client.post("/evaluations/", json=body)
    assert made.status_code == 201, made.text
    return wait(client, f"/evaluations/{made.json()['id']}", "completed")
