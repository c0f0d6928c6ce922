"""Requests that would fill the memory or the stack are refused; what is within bounds goes through whole."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from tests.conftest import lay_database
from tunesmith.app import create_app
from tunesmith.http.limits import MAX_BODY_BYTES
from tunesmith.settings import Settings

JSON = {"content-type": "application/json"}


@pytest.fixture
def client(tmp_path: Path) -> Iterator[TestClient]:
    lay_database(tmp_path / "h")
    with TestClient(
        create_app(Settings(home=tmp_path / "h")), client=("127.0.0.1", 1), base_url="http://localhost/api/v1"
    ) as found:
        yield found


def test_a_request_without_end_is_refused_before_it_fills_the_memory(client: TestClient) -> None:
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        while sent < 20 * MAX_BODY_BYTES:
            sent += 1024**2
            yield b" " * 1024**2

    answer = client.post("/jobs/", content=endless(), headers=JSON)
    assert answer.status_code == 413 and answer.json()["error"] == "too_large"


@pytest.mark.parametrize(
    "body", [b"[" * 200_000, b'{"a":' * 200_000, b"\xff\xfe", b"1" * 10_000, b"", b"NaN", b'{"name": 1e999}']
)
def test_json_that_cannot_be_read_is_the_clients_mistake(client: TestClient, body: bytes) -> None:
    answer = client.post("/jobs/", content=body, headers=JSON)
    assert answer.status_code in (400, 422) and set(answer.json()) == {"error", "message", "hint", "details"}


def test_a_large_request_within_bounds_arrives_whole(client: TestClient) -> None:
    name = "x" * (4 * 1024**2)
    answer = client.post("/jobs/", json={"name": name})
    assert answer.status_code == 422 and answer.json()["details"][0]["loc"] == "name"
