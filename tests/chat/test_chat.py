"""Talking over HTTP to a serving process that is started, found again, killed and started anew."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.conftest import ServerProcess

ASK = {"messages": [{"role": "user", "content": "the question"}], "max_tokens": 5, "temperature": 0}


@pytest.fixture
def server(start_server: Callable[..., ServerProcess], tmp_path: Path, tiny_model: Path) -> ServerProcess:
    shutil.copytree(tiny_model, tmp_path / "home" / "models" / "tests--tiny")
    return start_server()


def process_of(server: ServerProcess) -> dict[str, Any]:
    (path,) = (server.home / "serving").glob("*/process.json")
    return dict(json.loads(path.read_bytes()))


def test_one_process_serves_survives_the_server_and_is_replaced_when_killed(server: ServerProcess) -> None:
    ask = {**ASK, "model": "tests/tiny", "stream": False}
    first = server.client.post("/models/chat", json=ask).json()
    assert first["completion_tokens"] <= 5 and first["finish_reason"] in ("stop", "length")
    with server.client.stream("POST", "/models/chat", json={**ask, "stream": True}) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = [line.removeprefix("data: ") for line in answer.iter_lines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    chunks = [json.loads(line) for line in lines[:-1]]
    assert "".join(c["choices"][0]["delta"].get("content", "") for c in chunks) == first["content"]
    assert chunks[-1]["usage"]["completion_tokens"] == first["completion_tokens"]
    for told in (chunks[-1]["timings"], first):
        assert told["time_to_first_token_s"] > 0 and told["tokens_per_s"] > 0
    for extreme in ({"temperature": 1e-40}, {"repetition_penalty": 1e-40}):
        assert server.client.post("/models/chat", json={**ask, **extreme}).status_code == 200
    pid = process_of(server)["pid"]
    server.kill()
    server.start()
    assert server.client.post("/models/chat", json=ask).json()["content"] == first["content"]
    assert process_of(server)["pid"] == pid, "found again, not started twice"
    psutil.Process(pid).kill()
    assert server.client.post("/models/chat", json=ask).json()["content"] == first["content"]
    assert process_of(server)["pid"] != pid


def test_answers_side_by_side_come_together_and_one_can_be_stopped(server: ServerProcess) -> None:
    ask = {
        **ASK,
        "model": "tests/tiny",
        "max_tokens": 400,
        "temperature": 1.5,
        "stream": True,
        "repetition_penalty": 1.3,
    }
    server.client.post("/models/chat", json={**ask, "max_tokens": 1, "stream": False})
    orders: list[int] = []

    def listen(number: int) -> None:
        with server.client.stream("POST", "/models/chat", json={**ask, "seed": number}) as answer:
            for line in answer.iter_lines():
                if '"content"' in line:
                    orders.append(number)
                if number == 0 and orders.count(0) == 100:
                    break  # leaving the stream is how one stops it

    threads = [threading.Thread(target=listen, args=(number,)) for number in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    first_ends = len(orders) - orders[::-1].index(0)
    assert 1 in orders[:first_ends], "the second did not wait for the first to end"
    began = time.monotonic()
    assert server.client.post("/models/chat", json={**ASK, "model": "tests/tiny", "stream": False}).status_code == 200
    assert time.monotonic() - began < 20, "what was stopped holds nobody up"


def test_a_stranger_on_this_machine_does_not_get_in(server: ServerProcess) -> None:
    server.client.post("/models/chat", json={**ASK, "model": "tests/tiny", "stream": False})
    (path,) = (server.home / "serving").glob("*/endpoint.json")
    assert path.stat().st_mode & 0o077 == 0
    port = json.loads(path.read_bytes())["port"]
    for headers in ({}, {"Authorization": "Bearer wrong"}):
        assert httpx.post(f"http://127.0.0.1:{port}/v1/chat/completions", json=ASK, headers=headers).status_code == 401


@pytest.mark.parametrize(("path", "body", "status"), [
    ("/models/chat", {**ASK, "model": "tests/none"}, 404),
    ("/models/chat", {**ASK, "model": "../etc"}, 422),
    ("/models/chat", {"model": "tests/tiny", "messages": []}, 422),
    ("/models/chat", {**ASK, "model": "tests/tiny", "stream": False, "max_tokens": 0}, 422),
    ("/jobs/99/chat", ASK, 404),
])  # fmt: skip
def test_what_cannot_be_answered_is_told(server: ServerProcess, path: str, body: dict[str, Any], status: int) -> None:
    answer = server.client.post(path, json=body)
    assert answer.status_code == status and answer.json()["message"]


def test_the_real_starter_model_knows_paris(
    start_server: Callable[..., ServerProcess], tmp_path: Path, starter_model: Path
) -> None:
    folder = tmp_path / "home" / "models" / starter_model.name
    folder.parent.mkdir(parents=True)
    shutil.copytree(starter_model, folder)
    server = start_server()
    ask = {
        "messages": [{"role": "user", "content": "What is the capital of France?"}],
        "max_tokens": 12,
        "temperature": 0,
        "stream": False,
    }
    said = server.client.post("/models/chat", json={**ask, "model": "HuggingFaceTB/SmolLM2-135M-Instruct"}).json()
    assert "Paris" in said["content"]
