"""R12: a submit that is sent again, at once or after a kill, makes one job. Counts are a tenth of the bar's;
TUNESMITH_SOAK=10 (`make soak`) runs them in full: 1,000 submits, 50 times each, and 100 kills on either database.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import os
import random
import threading
import time
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import update

from tests import forked
from tests.conftest import free_port
from tests.jobs.conftest import custom
from tunesmith.core.clock import utc_now
from tunesmith.storage.idempotency import KEPT_FOR, IdempotencyRow

TIMES = int(os.environ.get("TUNESMITH_SOAK", "1"))


def send(client: Any, key: str | None, body: dict[str, Any], path: str = "/jobs/") -> Any:
    return client.post(path, json=body, headers={"Idempotency-Key": key} if key else {})


def test_the_same_request_again_gives_the_same_answer_and_does_nothing(idle: TestClient) -> None:
    first, second = send(idle, "k", custom()), send(idle, "k", custom())
    assert first.status_code == second.status_code == 201 and first.content == second.content
    assert second.headers["idempotency-replayed"] == "true" and "idempotency-replayed" not in first.headers
    idle.post(f"/jobs/{first.json()['id']}/stop")
    assert send(idle, "k", custom()).content == first.content  # the answer of then, not the state of now
    other = send(idle, "k", custom(7))
    assert other.status_code == 422 and "another request" in other.json()["message"]
    assert send(idle, "k2", custom()).json()["id"] != first.json()["id"]
    url = f"/jobs/{first.json()['id']}/clone"
    clones = [send(idle, "k", {}, url).json()["id"] for _ in range(2)]
    assert clones[0] == clones[1]
    batches = [send(idle, "k", {"jobs": [custom(), custom()]}, "/jobs/batch").json()["batch_id"] for _ in range(2)]
    assert batches[0] == batches[1]
    assert len(idle.get("/jobs/").json()["items"]) == 5


def test_a_refused_request_may_be_mended_under_its_key(idle: TestClient) -> None:
    assert send(idle, "k", {"method": "custom", "hyperparameters": {}}).status_code == 422
    assert send(idle, "k", custom()).status_code == 201


@pytest.mark.parametrize("key", ["", "x" * 256, "ä", "a\tb"])
def test_keys_have_bounds(idle: TestClient, key: str) -> None:
    answer = idle.post("/jobs/", json=custom(), headers={"Idempotency-Key": key.encode("latin-1")})  # type: ignore[dict-item]
    assert answer.status_code == 422
    assert send(idle, "x" * 255, custom()).status_code == 201


def test_answers_are_forgotten_after_a_day(idle: TestClient) -> None:
    first = send(idle, "k", custom()).json()["id"]
    with idle.app.state.tunesmith.database.unit_of_work() as session:  # type: ignore[attr-defined]
        session.execute(update(IdempotencyRow).values(created_at=utc_now() - KEPT_FOR - timedelta(seconds=1)))
    assert send(idle, "k", custom(7)).json()["id"] > first


class Sender:
    """Posts over one kept connection per thread: quicker than httpx, so that the server is what is loaded."""

    def __init__(self, hosts: list[str]) -> None:
        self.hosts, self.local = itertools.cycle(hosts), threading.local()

    def __call__(self, key: str, body: bytes) -> tuple[int, bytes]:
        if not hasattr(self.local, "connection"):
            self.local.connection = http.client.HTTPConnection(next(self.hosts), timeout=60)
        headers = {"Content-Type": "application/json", "Idempotency-Key": key}
        self.local.connection.request("POST", "/api/v1/jobs/", body, headers)
        answer = self.local.connection.getresponse()
        return answer.status, answer.read()


def storm(submits: int, duplicates: int, home: Path, database_url: str | None) -> None:
    """Every submit `duplicates` times at once, on PostgreSQL to two servers; each makes one job with one answer."""
    ports = [free_port() for _ in range(2 if database_url else 1)]
    processes = [start(home, database_url, port) for port in ports]
    counts: Counter[int] = Counter()
    post = Sender([f"localhost:{port}" for port in ports])
    with ThreadPoolExecutor(duplicates) as pool:
        for number in range(submits):
            key, body = uuid.uuid4().hex, json.dumps(custom(number + 1)).encode()
            answers = list(pool.map(post, [key] * duplicates, [body] * duplicates))
            counts.update(status for status, _ in answers)
            assert {status for status, _ in answers} <= {201, 409}
            assert len({text for status, text in answers if status == 201}) == 1
            assert post(key, json.dumps(custom(number + 2)).encode())[0] == 422
    with httpx.Client(base_url=f"http://localhost:{ports[0]}/api/v1") as client:
        assert len(all_jobs(client)) == submits
    for process in processes:
        process.kill()
        process.wait()
    assert counts[201] >= submits and sum(counts.values()) == submits * duplicates


def all_jobs(client: httpx.Client) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    cursor = None
    while True:
        page = client.get("/jobs/", params={"limit": 500, **({"cursor": cursor} if cursor else {})}).json()
        found, cursor = found + page["items"], page["next_cursor"]
        if cursor is None:
            return found


def test_duplicates_at_once_make_one_job(home: Path, database_url: str | None) -> None:
    storm(100 * TIMES, 50, home, database_url)


def start(home: Path, database_url: str | None, port: int) -> forked.Forked:
    """A server that takes jobs and starts none."""
    told = {"HOME": str(home), "HUB_OFFLINE": "1", "CUSTOM_SCRIPTS": "1", "CPU_SLOTS": "0", "LOG_LEVEL": "ERROR"}
    told["WARM_WORKERS"] = "0"
    if database_url:
        told["DATABASE_URL"] = database_url
    home.mkdir(exist_ok=True)
    environment = {**os.environ, **{f"TUNESMITH_{name}": value for name, value in told.items()}}
    process = forked.start_server(port, environment, home / "server.log")
    deadline = time.monotonic() + 30
    with httpx.Client(base_url=f"http://localhost:{port}/api/v1") as client:
        while time.monotonic() < deadline:
            with contextlib.suppress(httpx.TransportError):
                if client.get("/system/health").status_code == 200:
                    return process
            time.sleep(0.03)
    raise AssertionError("the server did not start")


def test_a_server_killed_between_commit_and_answer_has_made_one_job(home: Path, database_url: str | None) -> None:
    """Submits go on under kill -9; whoever got no answer sends again under the same key."""
    port, kills = free_port(), 10 * TIMES
    chance = random.Random(5)
    answered: dict[str, int] = {}
    process = start(home, database_url, port)
    client = httpx.Client(base_url=f"http://localhost:{port}/api/v1", timeout=10)
    for _ in range(kills):
        keys = [uuid.uuid4().hex for _ in range(8)]

        def submit(key: str) -> None:
            while key not in answered:
                try:
                    answer = send(client, key, custom(name=key))
                except httpx.TransportError:
                    time.sleep(0.05)
                    continue
                if answer.status_code == 201:
                    answered[key] = answer.json()["id"]

        threads = [threading.Thread(target=submit, args=(key,)) for key in keys]
        for thread in threads:
            thread.start()
        time.sleep(chance.uniform(0.005, 0.12))
        process.kill()
        process.wait()
        process = start(home, database_url, port)
        for thread in threads:
            thread.join(60)
    found = all_jobs(client)
    client.close()
    process.kill()
    process.wait()
    assert {job["name"]: job["id"] for job in found} == answered and len(found) == kills * 8
