"""Downloads against a hub over a real socket: whole, cut, forged, gated, cancelled, and through kills of server and process."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.catalog.downloading import COMMIT, TOKEN, Hub, Repository, file_hub, files_of
from tests.catalog.ground import make_base
from tests.conftest import ServerProcess, kill_processes_of

MEGA = 1024 * 1024


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    folder = make_base(tmp_path_factory.mktemp("repository") / "m")
    small, large = files_of(folder, 300_000), files_of(folder, 6 * MEGA)
    ggufs = {"README.md": b"# x", "a-q4.gguf": b"GGUF" * 50, "a-q8.gguf": b"GGUF" * 90}
    with file_hub(
        acme__good=Repository(small), acme__cut=Repository(large, cut_after=MEGA), acme__slow=Repository(large, bytes_per_s=MEGA),
        acme__forged=Repository(small, forged={"model.safetensors"}), acme__gated=Repository(small, gated=True),
        acme__slower=Repository(files_of(folder, 40 * MEGA), bytes_per_s=MEGA / 2), acme__ggufs=Repository(ggufs),
        acme__pickled=Repository({"pytorch_model.bin": b"x", "config.json": b"{}"}, num_parameters=None),
        acme__huge=Repository(small),
    ) as hub:  # fmt: skip
        yield hub


def environment(hub: Hub, home: Path) -> dict[str, str]:
    return {"TUNESMITH_HUB_OFFLINE": "0", "HF_HUB_OFFLINE": "0", "HF_HOME": str(home / "hf"), "HF_ENDPOINT": hub.url,
            "HF_HUB_CACHE": str(home / "hf" / "hub"), "HF_TOKEN": ""}  # fmt: skip


@pytest.fixture(scope="module")
def server(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    home = tmp_path_factory.mktemp("downloads") / "home"
    server = ServerProcess(home, environment(hub, home)).start()
    yield server
    server.stop()
    server.client.close()
    kill_processes_of(home)


def begin(server: ServerProcess, name: str, **more: Any) -> dict[str, Any]:
    answer = server.client.post("/models/downloads", json={"name": name, **more})
    assert answer.status_code == 202, answer.text
    return dict(answer.json())


def ended(server: ServerProcess, download: dict[str, Any], timeout_s: float = 60) -> dict[str, Any]:
    return dict(server.wait_for(f"/models/downloads/{download['id']}", lambda one: one["ended_at"], timeout_s))


def snapshot(server: ServerProcess, name: str) -> Path:
    return server.home / "hf" / "hub" / f"models--{name.replace('/', '--')}" / "snapshots" / COMMIT


def child_of(server: ServerProcess, download: dict[str, Any]) -> psutil.Process:
    place = str(server.home / "downloads" / str(download["id"]))
    until = time.monotonic() + 20
    while time.monotonic() < until:
        for process in psutil.process_iter(["cmdline"]):
            if (process.info["cmdline"] or [""])[-1] == place:
                return process
        time.sleep(0.05)
    raise AssertionError("no process fetches it")


def test_what_is_fetched_is_whole_compared_and_in_the_hubs_own_cache(server: ServerProcess, hub: Hub) -> None:
    found = ended(server, begin(server, "acme/good"))
    assert found["status"] == "completed" and found["share"] == 1.0 and found["bytes_done"] == found["bytes_total"]
    folder = snapshot(server, "acme/good")
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["README.md", "config.json", "model.safetensors", "tokenizer.json"], (
        "no pickle, no code, no folders"
    )
    assert found["left_out"] == ["modeling_evil.py", "pytorch_model.bin"]
    weights = (folder / "model.safetensors").resolve()
    assert weights.name == hashlib.sha256(weights.read_bytes()).hexdigest() and weights.parent.name == "blobs"
    model = server.client.get("/models/acme/good").json()
    assert model["source"] == "hub_cache" and model["licence"] == "apache-2.0"
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache("acme/good", "config.json", cache_dir=server.home / "hf" / "hub")
    assert isinstance(cached, str) and json.loads(Path(cached).read_text())["model_type"] == "llama"
    asked = len(hub.asked)
    again = ended(server, begin(server, "acme/good"))
    assert again["status"] == "completed"
    assert not [one for one in hub.asked[asked:] if "/resolve/" in one[1] and one[1].endswith(".safetensors")], (
        "it is here"
    )
    assert server.client.delete(f"/models/downloads/{again['id']}").status_code == 204
    listed = server.client.get("/models/downloads", params={"limit": 1}).json()
    assert [one["id"] for one in listed["items"]] == [found["id"]] and listed["next_cursor"] is None


def test_connections_that_break_are_taken_up_where_they_broke(server: ServerProcess, hub: Hub) -> None:
    found = ended(server, begin(server, "acme/cut"))
    assert found["status"] == "completed", found
    ranges = [
        one[2] for one in hub.asked if one[1] == f"/acme/cut/resolve/{COMMIT}/model.safetensors" and one[0] == "GET"
    ]
    starts = [int(one.removeprefix("bytes=").rstrip("-") or 0) for one in ranges]
    assert len(starts) >= 6 and starts == sorted(starts) and len(set(starts)) == len(starts), (
        "no byte was asked for twice"
    )


def test_wrong_bytes_are_refused_and_nothing_of_them_stays(server: ServerProcess) -> None:
    found = ended(server, begin(server, "acme/forged"))
    assert found["status"] == "failed" and found["error"]["error"] == "bad_data"
    assert "model.safetensors" in found["error"]["message"] and "digest" in found["error"]["message"]
    assert not snapshot(server, "acme/forged").exists()
    assert server.client.get("/models/acme/forged").status_code == 404


def test_what_the_hub_does_not_give_is_said_at_once(server: ServerProcess) -> None:
    post = server.client.post
    missing = post("/models/downloads", json={"name": "acme/none"})
    assert missing.status_code == 404 and "At hand" in missing.json()["hint"]
    closed = post("/models/downloads", json={"name": "acme/gated"})
    assert closed.status_code == 409 and "HF_TOKEN" in closed.json()["hint"] and "terms" in closed.json()["message"]
    pickled = post("/models/downloads", json={"name": "acme/pickled"})
    assert pickled.status_code == 422 and "run code" in pickled.json()["message"]
    many = post("/models/downloads", json={"name": "acme/ggufs"})
    assert many.status_code == 422 and "a-q4.gguf" in many.json()["hint"]
    for wrong in (
        {"name": "plain"},
        {"name": "../x/y"},
        {"name": "a/b", "file": "../x.gguf"},
        {"name": "a/b", "revision": "-x"},
    ):
        assert post("/models/downloads", json=wrong).status_code == 422, wrong
    assert server.client.get("/models/downloads/999").status_code == 404
    one = ended(server, begin(server, "acme/ggufs", file="a-q8.gguf"))
    assert one["status"] == "completed" and [p.name for p in sorted(snapshot(server, "acme/ggufs").iterdir())] == [
        "README.md", "a-q8.gguf",
    ]  # fmt: skip


def test_a_full_disk_is_told_with_numbers_before_it_begins(server: ServerProcess, hub: Hub) -> None:
    told = hub.repositories["acme/huge"]
    free = psutil.disk_usage(str(server.home)).free

    class Long(bytes):
        def __len__(self) -> int:
            return 45 * 10**9

    told.files = told.files | {f"model-{n}.safetensors": Long(b"x") for n in range(2 * free // len(Long()) + 1)}
    answer = server.client.post("/models/downloads", json={"name": "acme/huge"})
    assert answer.status_code == 507 and "GB" in answer.json()["message"] and "Free" in answer.json()["hint"]


def test_cancelled_downloads_leave_no_parts(server: ServerProcess) -> None:
    made = begin(server, "acme/slower")
    server.wait_for(f"/models/downloads/{made['id']}", lambda one: one["bytes_done"] > MEGA // 2)
    assert begin(server, "acme/slower")["id"] == made["id"], "the same is not begun twice"
    assert server.client.delete(f"/models/downloads/{made['id']}").status_code == 409
    found = server.client.post(f"/models/downloads/{made['id']}/cancel").json()
    assert found["status"] == "cancelled"
    assert not list((snapshot(server, "acme/slower").parent.parent / "blobs").glob("*.incomplete"))
    assert server.client.post(f"/models/downloads/{made['id']}/cancel").status_code == 409


def test_a_stream_tells_each_step(server: ServerProcess) -> None:
    made = begin(server, "acme/slower")
    shares: list[float] = []
    with server.client.stream("GET", "/models/downloads/stream") as stream:
        for line in stream.iter_lines():
            if line.startswith("data: "):
                told = json.loads(line.removeprefix("data: "))
                shares.append(told["share"])
                if told["share"] > 0.05:
                    break
    assert len(set(shares)) >= 2 and shares == sorted(shares) and told["bytes_per_s"] > 0 and told["remaining_s"] > 0
    server.client.post(f"/models/downloads/{made['id']}/cancel")


def test_it_goes_on_after_a_kill_of_the_server_and_of_its_process(hub: Hub, server: ServerProcess) -> None:
    made = begin(server, "acme/slow")
    server.wait_for(f"/models/downloads/{made['id']}", lambda one: one["bytes_done"] > MEGA)
    first = child_of(server, made)
    server.kill()
    assert first.is_running(), "it goes on without the server"
    before = time.monotonic()
    first.send_signal(signal.SIGKILL)
    server.start()
    found = ended(server, made)
    assert found["status"] == "completed", found
    assert time.monotonic() - before < 120
    ranges = [
        one[2] for one in hub.asked if one[1] == f"/acme/slow/resolve/{COMMIT}/model.safetensors" and one[0] == "GET"
    ]
    assert ranges[0] == "" and int(ranges[1].removeprefix("bytes=").rstrip("-")) >= MEGA, ranges


def test_a_server_that_ends_leaves_it_running(hub: Hub, server: ServerProcess) -> None:
    made = begin(server, "acme/slower")
    server.wait_for(f"/models/downloads/{made['id']}", lambda one: one["bytes_done"] > MEGA // 4)
    child = child_of(server, made)
    server.stop()
    server.start()
    assert child.is_running() and child_of(server, made).pid == child.pid, "the same process"
    server.client.post(f"/models/downloads/{made['id']}/cancel")


def test_the_token_goes_to_the_process_alone_and_into_no_file(hub: Hub, tmp_path: Path) -> None:
    home = tmp_path / "home"
    server = ServerProcess(home, environment(hub, home) | {"HF_TOKEN": TOKEN}).start()
    try:
        made = begin(server, "acme/gated")
        command: list[str] = []
        with contextlib.suppress(AssertionError, psutil.Error):
            command = child_of(server, made).cmdline()
        assert ended(server, made)["status"] == "completed"
        assert TOKEN not in " ".join(command)
        for path in home.rglob("*"):
            if path.is_file():
                assert TOKEN.encode() not in path.read_bytes(), path
    finally:
        server.stop()
        server.client.close()
        kill_processes_of(home)


def test_a_hub_that_is_switched_off_says_what_is_at_hand(tmp_path: Path) -> None:
    from fastapi.testclient import TestClient

    from tunesmith.app import create_app
    from tunesmith.settings import Settings

    settings = Settings(home=tmp_path / "home", hub_offline=True)
    settings.make_dirs()
    make_base(settings.models_dir / "acme--here")
    with TestClient(create_app(settings), client=("127.0.0.1", 1), base_url="http://localhost/api/v1") as client:
        answer = client.post("/models/downloads", json={"name": "acme/good"})
    assert answer.status_code == 409 and "TUNESMITH_HUB_OFFLINE" in answer.json()["message"]
    assert "acme/here" in answer.json()["hint"]


def test_the_command_line_says_the_same(server: ServerProcess) -> None:
    def tunesmith(*words: str) -> tuple[int, str]:
        env = {**os.environ, "TUNESMITH_URL": server.url, "COLUMNS": "200"}
        done = subprocess.run([sys.executable, "-m", "tunesmith", *words], env=env, capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr

    code, said = tunesmith("models", "download", "acme/huge", "--revision", "main")
    assert code == 1 and "GB free" in said, said
    code, said = tunesmith("models", "download", "acme/good")
    assert code == 0 and "each compared with the hub's digest" in said
    code, said = tunesmith("--json", "models", "check", "acme/good")
    assert code == 0 and json.loads(said)["is_at_hand"] is True
    code, said = tunesmith("models", "check", "acme/pickled")
    assert code == 0 and "run code" in said
    code, said = tunesmith("models", "recommend", "code", "--limit", "3")
    assert code == 0 and "Coder" in said
    code, said = tunesmith("models", "downloads")
    assert code == 0 and "acme/forged" in said and "failed" in said
    assert tunesmith("models", "collect", "acme/good", "--note", "small")[0] == 0
    assert "small" in tunesmith("models", "collection")[1]
    assert tunesmith("models", "check", "acme/none")[0] == 4
