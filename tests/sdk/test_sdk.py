"""The SDK against a real server: uploads, pages, errors, and what happens when the server goes away in the middle."""

from __future__ import annotations

import http.server
import json
import os
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import ServerProcess, free_port
from tunesmith import Client
from tunesmith.core.errors import BadData, Conflict, InvalidInput, NotFound
from tunesmith.sdk.connection import NotTunesmith, ServerUnreachable

SCRIPT = """
import json, os, sys, time
told = json.load(open(sys.argv[1]))
for step in range(1, told["config"]["steps"] + 1):
    print(json.dumps({"step": step, "total_steps": told["config"]["steps"], "loss": 1.0 / step}))
    time.sleep(0.1)
with open(os.path.join(told["output_dir"], "weights.dat"), "wb") as file:
    file.write(os.urandom(told["config"]["size_bytes"]))
"""
MEGABYTE = 1024 * 1024

Start = Callable[..., ServerProcess]


@pytest.fixture
def server(start_server: Start) -> ServerProcess:
    return start_server(TUNESMITH_CUSTOM_SCRIPTS="1")


@pytest.fixture
def client(server: ServerProcess) -> Iterator[Client]:
    with Client(server.url) as made:
        yield made


def script(steps: int, size_bytes: int = 1) -> dict[str, object]:
    return {"script": SCRIPT, "config": {"steps": steps, "size_bytes": size_bytes}}


def test_uploads_pages_and_errors(client: Client, tmp_path: Path) -> None:
    big = tmp_path / "big.jsonl"
    row = json.dumps({"question": "what is it " * 40, "answer": "it is this " * 40}) + "\n"
    big.write_text(row * 3000)
    told: list[tuple[int, int]] = []
    dataset = client.datasets.upload(big, "a name", progress=lambda done, total: told.append((done, total)))
    assert (dataset.name, dataset.status, dataset.num_rows) == ("a name", "ready", 3000)
    size_bytes = big.stat().st_size
    assert [done for done, _ in told] == [*range(MEGABYTE, size_bytes, MEGABYTE), size_bytes]
    assert {total for _, total in told} == {size_bytes}

    small = tmp_path / "small.jsonl"
    small.write_text(row)
    ids = [dataset.id, *(client.datasets.upload(small, wait=False).id for _ in range(2))]
    assert [found.id for found in client.datasets.list(limit=1)] == ids[::-1], "three pages, newest first"

    with pytest.raises(NotFound) as absent:
        client.jobs.get(99)
    assert absent.value.status == 404
    with pytest.raises(InvalidInput) as wrong:
        client.jobs.create(method="custom", hyperparameters={**script(1), "cpu_seconds": "many"})
    assert "hyperparameters.cpu_seconds" in [detail["loc"] for detail in wrong.value.details]
    with pytest.raises(InvalidInput, match="cannot be sent"):
        client.jobs.create(method="custom", hyperparameters={"config": {"rate": float("nan")}})
    (tmp_path / "broken.json").write_text('[{"question": "what"')
    with pytest.raises(BadData):
        client.datasets.upload(tmp_path / "broken.json")
    saved = client.jobs.create(method="custom", hyperparameters=script(1), start="manual")
    with pytest.raises(Conflict):
        saved.download(tmp_path / "model.tar.gz")
    for target in (tmp_path, tmp_path / "none" / "model.tar.gz"):
        with pytest.raises(InvalidInput):
            saved.download(target)
    assert not list(tmp_path.glob("*.tar.gz")) and not list(tmp_path.glob(".*"))


def test_following_goes_on_over_a_restart(client: Client, server: ServerProcess) -> None:
    job = client.jobs.create(method="custom", hyperparameters=script(30))
    seen = []
    restarting = threading.Timer(1.5, server.start)
    for item in job.follow():
        seen.append(item)
        if item.event["type"] == "step" and item.event["step"] == 5:
            server.kill()
            restarting.start()
    restarting.join()
    assert [item.seq for item in seen] == list(range(1, len(seen) + 1))
    assert [item.event["step"] for item in seen if item.event["type"] == "step"] == list(range(1, 31))
    assert seen[-1].event["new"] == "completed" == job.info.status, "the job went on without the server"


def test_a_download_is_whole_or_not_there(client: Client, server: ServerProcess, tmp_path: Path) -> None:
    job = client.jobs.create(method="custom", hyperparameters=script(1, 24 * MEGABYTE))
    assert job.wait().status == "completed"
    target = tmp_path / "downloads" / "model.tar.gz"
    target.parent.mkdir()

    def once(action: Callable[[], object]) -> Callable[[int, int], None]:
        left = [action]
        return lambda done, _total: left.pop()() if left and done >= MEGABYTE else None  # type: ignore[func-returns-value]

    assert job.download(target, progress=once(lambda: (server.kill(), server.start()))) == target
    with tarfile.open(target) as archive:
        sizes = {Path(member.name).name: member.size for member in archive.getmembers()}
    assert sizes["weights.dat"] == 24 * MEGABYTE, "it began again after the restart"

    target.write_text("the old one")
    with pytest.raises(ServerUnreachable):
        job.download(target, progress=once(server.kill))
    assert target.read_text() == "the old one" and os.listdir(target.parent) == ["model.tar.gz"]


def test_no_server_and_another_server() -> None:
    with (
        Client(f"http://127.0.0.1:{free_port()}") as client,
        pytest.raises(ServerUnreachable, match="No Tunesmith server"),
    ):
        client.system.health()
    with pytest.raises(InvalidInput):
        Client("ftp://somewhere")
    other = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
    threading.Thread(target=other.serve_forever, daemon=True).start()
    try:
        with Client(f"http://127.0.0.1:{other.server_port}") as client:
            for ask in (client.system.health, lambda: client.jobs.create(model="a/b", dataset_id=1)):
                with pytest.raises(NotTunesmith):
                    ask()
    finally:
        other.shutdown()
        other.server_close()
