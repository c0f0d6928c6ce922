"""The endpoints of a serving process while several clients ask at once, and one leaves."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import uvicorn

from tests.tiny import make_tiny_model
from tunesmith.serving.adapters import Adapters
from tunesmith.serving.app import Activity, create_serving_app
from tunesmith.serving.generation import Model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return Model(str(make_tiny_model(tmp_path_factory.mktemp("serve") / "m")), parallel=4)


@pytest.fixture(scope="module")
def client(model: Model) -> Iterator[httpx.Client]:
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(create_serving_app(model, "word", Activity()), log_level="warning"))
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with httpx.Client(base_url=url, headers={"Authorization": "Bearer word"}, timeout=60, trust_env=False) as client:
        yield client
    server.should_exit = True
    thread.join()


def whole(client: httpx.Client, **asked: object) -> str:
    response = client.post("/v1/completions", json={"prompt": "the answer", "temperature": 0, **asked})
    response.raise_for_status()
    return response.json()["choices"][0]["text"]


def streamed(client: httpx.Client, **asked: object) -> str:
    told = ""
    body = {"prompt": "the answer", "temperature": 0, "stream": True, **asked}
    with client.stream("POST", "/v1/completions", json=body) as response:
        for line in response.iter_lines():
            if line.startswith("data: {"):
                told += json.loads(line[6:])["choices"][0]["text"]
    return told


def test_many_at_once_are_answered_as_one(client: httpx.Client) -> None:
    alone = whole(client, max_tokens=20)
    with ThreadPoolExecutor(12) as threads:
        told = list(threads.map(lambda n: (whole, streamed)[n % 2](client, max_tokens=20), range(12)))
    assert told == [alone] * 12


def test_who_leaves_frees_the_row(client: httpx.Client, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Adapters.switch
    monkeypatch.setattr(Adapters, "switch", lambda *told: time.sleep(0.05) or plain(*told))  # 25 s for all tokens
    body = {"prompt": "the answer", "temperature": 1.5, "max_tokens": 500, "seed": 1}
    with client.stream("POST", "/v1/completions", json=body | {"stream": True}) as response:
        next(response.iter_lines())
    with pytest.raises(httpx.ReadTimeout):
        client.post("/v1/completions", json=body, timeout=0.2)
    deadline_s = time.monotonic() + 8
    while model.batcher.call(lambda: model.batcher.running) and time.monotonic() < deadline_s:
        time.sleep(0.02)
    assert model.batcher.call(lambda: model.batcher.running) == 0


def test_a_bad_adapter_is_told(client: httpx.Client, tmp_path: Path) -> None:
    response = client.post("/v1/completions", json={"prompt": "x", "adapter_path": str(tmp_path)})
    assert response.status_code == 422 and "adapter" in response.json()["message"]


def test_only_who_knows_the_word_gets_in(client: httpx.Client) -> None:
    for path in ("/health", "/v1/models", "/elsewhere"):
        assert client.get(path, headers={"Authorization": "Bearer other"}).status_code == 401
    assert client.get("/health").json()["context_tokens"] == 512
