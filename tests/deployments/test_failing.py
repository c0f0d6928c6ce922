"""Models that cannot be run are told of at once, with the true reason, wherever somebody asks."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.cli.command import tunesmith
from tests.conftest import ServerProcess
from tunesmith.core.serving_spec import ServingSpec
from tunesmith.executors.serving_process import ServingProcess

SETTINGS = {"engine": "transformers", "threads": 1, "max_concurrent": 2, "context_tokens": 256}
REASON = "Error while deserializing header"
"""Of what safetensors says of a file that is cut off."""


@pytest.fixture
def server(start_server: Callable[..., ServerProcess], tmp_path: Path, tiny_model: Path) -> ServerProcess:
    models = tmp_path / "home" / "models"
    for name in ("tests--good", "tests--broken"):
        shutil.copytree(tiny_model, models / name)
    for weights in (models / "tests--broken").glob("*.safetensors"):
        os.truncate(weights, 100)
    return start_server()


def deploy(server: ServerProcess, name: str, model: str) -> int:
    answer = server.client.post("/deployments/", json={"name": name, "model": model, "settings": SETTINGS})
    assert answer.status_code == 201, answer.text
    return int(answer.json()["id"])


def ask(server: ServerProcess, model: str, **more: Any) -> tuple[httpx.Response, float]:
    """The answer, and how long it took, seconds."""
    body = {"model": model, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 2} | more
    began_s = time.monotonic()
    answer = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=60)
    return answer, time.monotonic() - began_s


def ask_until_told(server: ServerProcess, model: str, **more: Any) -> httpx.Response:
    """Whoever is told that it is still starting, on a slow machine, asks again."""
    while "is starting" in (answer := ask(server, model, **more)[0]).text:
        pass
    return answer


def test_a_model_that_cannot_be_loaded_is_told_at_once_with_what_its_process_printed(server: ServerProcess) -> None:
    number = deploy(server, "broken", "tests/broken")
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(ask_until_told, server, "broken", stream=n == 0) for n in range(2)]
        chats = [
            pool.submit(
                server.client.post,
                "/models/chat",
                json={"model": "tests/broken", "messages": HELLO, "stream": False},
                timeout=180,
            )
            for _ in range(2)
        ]
        told = server.wait_for(f"/deployments/{number}", lambda found: found["status"] == "failed", 120)
        failed_s = time.monotonic()
        answers = [future.result() for future in waiting]
        assert time.monotonic() - failed_s < 2, "those who wait are answered at that moment"
        chatted = [future.result() for future in chats]
    assert REASON in told["reason"] and "log is empty" not in told["reason"] and "Traceback" not in told["reason"]
    late, took_s = ask(server, "broken")
    assert took_s < 2
    for answer in (*answers, late):
        error = answer.json()["error"]
        assert answer.status_code == 503 and error["code"] == "unavailable" and told["reason"] in error["message"]
        assert "Roll out another model" in error["message"] and answer.headers["retry-after"]
    for answer in chatted:
        assert answer.status_code == 503 and REASON in answer.json()["message"] and answer.json()["hint"], answer.text
    page = httpx.get(f"{server.url}/deployments/{number}").text
    shown = tunesmith(server.home.parent, "deployments", "show", "broken", TUNESMITH_URL=server.url).stdout
    assert REASON in page and REASON in " ".join(shown.split())


HELLO = [{"role": "user", "content": "hello"}]


def test_a_live_model_that_is_killed_again_and_again_says_how_and_when_it_is_tried_again(server: ServerProcess) -> None:
    number = deploy(server, "good", "tests/good")
    server.wait_for(f"/deployments/{number}", lambda found: found["status"] == "ready", 90)
    over = threading.Event()

    def kill_all() -> None:
        while not over.is_set():
            for path in (server.home / "deployments" / "engines").glob("*/process.json"):
                with contextlib.suppress(OSError, ValueError):
                    os.kill(json.loads(path.read_bytes())["pid"], signal.SIGKILL)
            time.sleep(0.01)

    killer = threading.Thread(target=kill_all)
    killer.start()
    try:
        answer, _ = ask(server, "good")
        told = server.wait_for(f"/deployments/{number}", lambda found: found["status"] == "failed", 60)
        late, took_s = ask(server, "good")
    finally:
        over.set()
        killer.join()
    assert answer.status_code == late.status_code == 503 and took_s < 2
    assert "SIGKILL" in told["reason"] and "It is started again at" in told["reason"]
    assert told["reason"] in late.json()["error"]["message"]
    server.stop()
    server.start()  # which tries again
    server.wait_for(f"/deployments/{number}", lambda found: found["status"] == "ready" and not found["reason"], 90)
    assert ask(server, "good")[0].status_code == 200


@pytest.mark.parametrize(
    ("log", "words"),
    [
        (b'Traceback (most recent call last):\n  File "x.py", line 1, in f\n    f()\n    ~^^\nValueError: no\nsuch model\n', "ValueError: no such model"),
        (b"loading 10%\rloading 90%\r\x1b[31mThe file is gone.\x1b[0m Copy it again.\n", "loading 10% loading 90% The file is gone. Copy it again."),
        (b"\n", "It ended with exit code 3 and printed nothing."),
    ],
)  # fmt: skip
def test_last_words(tmp_path: Path, log: bytes, words: str) -> None:
    process = ServingProcess(tmp_path)
    process.start(ServingSpec(base_path=str(tmp_path / "none"), idle_s=1.0))
    pid = json.loads((tmp_path / "process.json").read_bytes())["pid"]
    process._children[pid].kill()
    process._children[pid].wait()
    (tmp_path / "log.txt").write_bytes(log)
    assert process.why_ended().startswith("It was ended by SIGKILL. Look whether the machine's memory ran out.")
    process._codes[pid] = 3
    assert process.why_ended() == words
