"""Downloads whose process, or whose server, is killed at any moment: taken up by range, whole, and never half to be seen.

A tenth of the kills in `make test`; TUNESMITH_SOAK=10 (`make soak`) does all 100 and 20.
"""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.catalog.downloading import COMMIT, Hub, Repository, file_hub, files_of, git_id, is_large
from tests.catalog.ground import make_base
from tests.catalog.test_downloads import begin, child_of, ended, environment, snapshot
from tests.conftest import ServerProcess, kill_processes_of
from tests.forked import FORKING
from tests.reliability.ground import TIMES
from tunesmith.core.job_dir import read_model
from tunesmith.features.catalog import downloads, fetching
from tunesmith.features.catalog.fetching import End, Request, WantedFile
from tunesmith.settings import Settings

MEGA = 1024 * 1024
WANTED = ("README.md", "config.json", "model.safetensors", "tokenizer.json")


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    folder = make_base(tmp_path_factory.mktemp("repository") / "m")
    files = files_of(folder, 2 * MEGA)
    with file_hub(
        acme__fast=Repository(files, bytes_per_s=4 * MEGA), acme__slow=Repository(files, bytes_per_s=MEGA)
    ) as hub:
        yield hub


def content(hub: Hub, name: str) -> dict[str, bytes]:
    return {path: hub.repositories[name].files[path] for path in WANTED}


def fetch(folder: str) -> None:
    """In a process of its own: what `python -m tunesmith.features.catalog.fetching` does."""
    from huggingface_hub import constants

    constants.HF_HUB_OFFLINE = False
    fetching.main(Path(folder))


def test_a_process_killed_at_any_moment_loses_no_byte_and_shows_none_too_early(
    hub: Hub, tmp_path: Path, record_property: Callable[[str, Any], None]
) -> None:
    """Ten kills, each of a process that fetches one of several models."""
    rng, kills, rounds = random.Random(11), 0, 0
    settings = Settings(home=tmp_path / "home")
    settings.make_dirs()
    while kills < 10 * TIMES:
        rounds += 1
        cache = tmp_path / f"cache-{rounds}"
        request = wanted(hub, "acme/fast", cache)
        number = downloads._queue(settings, request).id
        kills += kill_until_it_is_there(hub, settings.home / "downloads" / str(number), request, rng)
        check_whole(request, content(hub, "acme/fast"))
    record_property("figures", f"downloads: {kills} kills of the fetching process in {rounds} downloads")


def wanted(hub: Hub, name: str, cache: Path) -> Request:
    files = [
        WantedFile(
            path=path, size_bytes=len(data), git_id=git_id(data),
            sha256=hashlib.sha256(data).hexdigest() if is_large(path) else None,
        )
        for path, data in content(hub, name).items()
    ]  # fmt: skip
    return Request(name=name, commit=COMMIT, endpoint=hub.url, cache=str(cache), files=files, created_at=time.time())


def kill_until_it_is_there(hub: Hub, folder: Path, request: Request, rng: random.Random) -> int:
    kills = 0
    while not (folder / "end.json").exists():
        part = next(request.repository.glob("blobs/*.incomplete"), None)
        have, asked = part.stat().st_size if part else 0, len(hub.asked)
        process = FORKING.Process(target=fetch, args=(str(folder),), daemon=True)
        process.start()
        in_transfer = rng.random() < 0.8
        while in_transfer and process.is_alive() and len(hub.asked) == asked:
            time.sleep(0.02)  # mostly it is killed while bytes come
        process.join(rng.uniform(0, 0.5))
        if process.is_alive():
            process.kill()
            process.join()
            kills += 1
        check_not_half(request)
        large = [one for one in hub.asked[asked:] if one[0] == "GET" and one[1].endswith(".safetensors")]
        assert not large or large[0][2] == (f"bytes={have}-" if have else ""), (
            "bytes that are here were asked for again"
        )
    end = read_model(folder / "end.json", End)
    assert end and end.status == "completed", end
    assert [path.name for path in folder.glob(".*")] == [], "half-written files stay"
    return kills


def check_not_half(request: Request) -> None:
    """What has its name has its bytes, and a folder that passes for a model has all of its files."""
    for file in request.files:
        blob = request.repository / "blobs" / file.digest
        assert not blob.exists() or fetching._is(blob, file)
    shown = request.repository / "snapshots" / COMMIT
    if (shown / "config.json").exists():
        assert all((shown / file.path).is_file() for file in request.files)


def check_whole(request: Request, files: dict[str, bytes]) -> None:
    """All of it, and nothing besides."""
    shown = request.repository / "snapshots" / COMMIT
    assert {path.name: path.read_bytes() for path in shown.iterdir()} == files
    assert {path.name for path in (request.repository / "blobs").iterdir()} == {file.digest for file in request.files}
    assert [path.name for path in (request.repository / "refs").iterdir()] == ["main"]


def test_server_and_process_killed_in_turn_lose_nothing(
    hub: Hub, tmp_path: Path, record_property: Callable[[str, Any], None]
) -> None:
    """Through the API: two kills of either, at random."""
    rng, home = random.Random(12), tmp_path / "home"
    server = ServerProcess(home, environment(hub, home)).start()
    kills = 0
    try:
        for _ in range(TIMES):
            made = begin(server, "acme/slow")
            for victim in ("server", "process"):
                time.sleep(rng.uniform(0, 0.5))
                if server.client.get(f"/models/downloads/{made['id']}").json()["ended_at"]:
                    break
                assert server.client.get("/models/acme/slow").status_code == 404, "half a model is listed"
                kills += kill(server, made, victim)
            assert ended(server, made)["status"] == "completed"
            shown = snapshot(server, "acme/slow")
            assert {path.name: path.read_bytes() for path in shown.iterdir()} == content(hub, "acme/slow")
            assert server.client.get("/models/acme/slow").status_code == 200
            assert not list((shown.parent.parent / "blobs").glob("*.incomplete"))
            for path in (shown.parent.parent / "blobs").iterdir():
                path.unlink()
            for path in shown.iterdir():
                path.unlink()
            shown.rmdir()
    finally:
        server.stop()
        server.client.close()
        kill_processes_of(home)
    assert kills >= TIMES
    record_property("figures", f"downloads: {kills} kills of the server or of the process that it has started")


def kill(server: ServerProcess, download: dict[str, Any], victim: str) -> int:
    if victim == "server":
        server.kill()
        server.start()
        return 1
    try:
        child_of(server, download).kill()
    except (psutil.NoSuchProcess, AssertionError):
        return 0  # it has just ended
    return 1
