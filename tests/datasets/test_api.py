"""Datasets over HTTP, on both databases: uploads of any size, versions, repairs, and what is refused."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest

from tests.conftest import ServerProcess

ROWS = b"".join(b'{"question": "what is %d", "answer": "it is %d"}\n' % (n, n) for n in range(150))


def upload(server: ServerProcess, content: Any = ROWS, file_name: str = "rows.jsonl", **params: str) -> dict[str, Any]:
    answer = server.client.put("/datasets/upload", params={"file_name": file_name, **params}, content=content)
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


def ready(server: ServerProcess, dataset_id: int, timeout_s: float = 90) -> dict[str, Any]:
    return dict(server.wait_for(f"/datasets/{dataset_id}", lambda d: d["status"] != "processing", timeout_s))


def test_from_a_file_to_versions(server: ServerProcess) -> None:
    first = ready(server, upload(server)["id"])
    assert (first["status"], first["shape"], first["num_rows"], first["type"]) == (
        "ready",
        "question_answer",
        150,
        "text",
    )
    again = upload(server)
    assert again["name"] == "rows (2)" and ready(server, again["id"])["version"] == first["version"], (
        "equal content, equal name"
    )
    url = f"/datasets/{first['id']}"
    preview = server.client.get(f"{url}/preview", params={"offset": 148, "limit": 10}).json()
    assert [row["row"] for row in preview["rows"]] == [149, 150] and preview["total_rows"] == 150
    statistics = server.client.get(f"{url}/statistics").json()
    assert (statistics["total_rows"], statistics["total_columns"]) == (150, 2) and statistics["columns"]["answer"][
        "unique"
    ] == 150
    changed = server.client.patch(url, json={"tags": ["a", "ü"], "description": "d", "shape": "input_output",
                                             "mapping": {"input": "answer", "output": "question"}}).json()  # fmt: skip
    assert changed["status"] == "processing"
    second = ready(server, first["id"])
    assert second["shape"] == "input_output" and second["version"] != first["version"]
    versions = server.client.get(f"{url}/versions").json()
    assert [(v["number"], v["origin"]) for v in versions] == [(2, "mapping"), (1, "upload")]
    assert server.client.get("/datasets/", params={"tag": "ü"}).json()["total"] == 1
    assert server.client.get("/datasets/", params={"q": "rows", "limit": 1}).json()["next_cursor"] == again["id"]
    assert server.client.get(f"{url}/download").content == ROWS
    exported = server.client.get(f"{url}/download", params={"format": "jsonl"}).text.splitlines()
    assert [json.loads(line) for line in exported] == [json.loads(line) for line in ROWS.splitlines()]


def test_repairs_make_a_new_version_and_say_what_they_did(server: ServerProcess) -> None:
    rows = (
        ROWS
        + b'{"question": "  what is 3 ", "answer": ""}\n'
        + ROWS.splitlines()[0]
        + b'\n{"question": "caf\xc3\x83\xc2\xa9 or tea", "answer": "coffee then"}\n'
    )
    first = ready(server, upload(server, rows)["id"])
    url = f"/datasets/{first['id']}"
    findings = {f["code"]: f for f in server.client.get(f"{url}/validation").json()["findings"]}
    assert findings["empty_rows"]["rows"] == [151] and findings["empty_rows"]["message"] == "1 empty row"
    assert findings["duplicates"]["rows"] == [152]
    repairs = {"drop_empty": True, "drop_duplicates": True, "strip": True, "fix_encoding": True}
    assert server.client.post(f"{url}/repair", json=repairs).status_code == 202
    assert ready(server, first["id"])["num_rows"] == 151
    newest, oldest = server.client.get(f"{url}/versions").json()
    assert {c["repair"]: (c["rows_changed"], c["rows_dropped"]) for c in newest["changes"]} == {
        "fix_encoding": (1, 0), "strip": (1, 0), "drop_empty": (0, 1), "drop_duplicates": (0, 1)}  # fmt: skip
    assert oldest["num_rows"] == 153, "the old version stays as it was"
    assert server.client.post(f"{url}/repair", json={}).status_code == 422


def test_many_files_in_one_request_and_a_bad_one_spoils_no_other(sqlite_server: ServerProcess) -> None:
    files = [
        ("file", ("a.jsonl", ROWS)),
        ("file", ("empty.csv", b"")),
        ("file", ("../../b.csv", b"text,label\nhello there,x\n" * 120)),
    ]
    answer = sqlite_server.client.post("/datasets/", files=files)
    assert answer.status_code == 207
    items = answer.json()["items"]
    assert [bool(item["error"]) for item in items] == [False, True, False] and items[2]["dataset"]["name"] == "b"
    assert ready(sqlite_server, items[2]["dataset"]["id"])["status"] == "ready"


def test_rows_that_a_held_out_dataset_shares(start_server: Callable[..., ServerProcess]) -> None:
    """Found in a child process: one that has too little memory is an answer with a remedy, and the server stays."""
    server = start_server()
    lines = [
        *ROWS.splitlines()[:2],
        b'{"question": "What is 3?", "answer": "it is 3!"}',
        b'{"question": "who", "answer": "no one"}',
    ]
    lines.append(b'{"question": "what is 7000", "answer": "it is 7000"}')
    made = [upload(server), upload(server, b"\n".join(lines)), upload(server, b"height,width\n1,2\n" * 9, "t.csv")]
    train, held_out, table = (ready(server, dataset["id"])["id"] for dataset in made)
    url, params = f"/datasets/{train}/overlap", {"held_out": held_out}
    answer = server.client.get(url, params=params).json()
    rows = {finding["code"]: finding["rows"] for finding in answer["findings"]}
    assert rows == {"held_out_in_training": [1, 2, 3], "held_out_nearly_in_training": [5]}
    refused = server.client.get(url, params={"held_out": table})
    assert refused.status_code == 422 and "share no column" in refused.json()["message"] and refused.json()["hint"]
    assert server.client.get(url, params={"held_out": 10**6}).status_code == 404

    server.stop()
    server.env["TUNESMITH_DATASET_MEMORY_BYTES"] = str(64 * 1024**2)
    server.start()
    assert server.client.get(url, params=params).json() == answer, "versions never change: the answer was kept"
    blown = server.client.get(f"/datasets/{held_out}/overlap", params={"held_out": train})
    assert blown.status_code in (413, 503) and blown.json()["hint"], blown.text
    assert server.client.get("/system/health").status_code == 200


def test_a_file_that_cannot_be_read_fails_with_the_place_and_the_remedy(sqlite_server: ServerProcess) -> None:
    failed = ready(sqlite_server, upload(sqlite_server, b"PAR1 not really", "x.parquet")["id"])
    assert failed["status"] == "failed" and failed["error"]["message"] and failed["error"]["hint"]
    half = ready(sqlite_server, upload(sqlite_server, b"input\nhello\n" * 200, "half.csv")["id"])
    messages = [f["message"] for f in sqlite_server.client.get(f"/datasets/{half['id']}/validation").json()["findings"]]
    assert "Missing required 'output' column" in messages


@pytest.mark.parametrize(("change", "status"), [
    ({"mapping": {"nonsense": "question"}}, 422), ({"mapping": {"question": "none"}}, 422), ({"shape": "none"}, 422),
    ({"name": ""}, 422), ({"surprise": 1}, 422), ({"name": "\x00"}, 422),
])  # fmt: skip
def test_changes_that_cannot_be(sqlite_server: ServerProcess, change: dict[str, Any], status: int) -> None:
    made = ready(sqlite_server, upload(sqlite_server)["id"])
    answer = sqlite_server.client.patch(f"/datasets/{made['id']}", json=change)
    assert answer.status_code == status and answer.json()["message"]


def test_a_dataset_in_use_is_not_deleted(start_server: Callable[..., ServerProcess]) -> None:
    server = start_server()
    made = ready(server, upload(server)["id"])
    (server.home / "models" / "tests--x").mkdir(parents=True)
    job = server.client.post("/jobs/", json={"model": "a/b", "dataset_id": made["id"], "start": "manual"})
    if job.status_code != 201:  # the hub is switched off, so an unknown model is refused: any local one will do
        from tests.tiny import make_tiny_model

        make_tiny_model(server.home / "models" / "tests--y")
        job = server.client.post("/jobs/", json={"model": "tests/y", "dataset_id": made["id"], "start": "manual"})
    assert job.status_code == 201, job.text
    refused = server.client.delete(f"/datasets/{made['id']}")
    assert refused.status_code == 409 and f"job {job.json()['id']}" in refused.json()["message"]
    server.client.post(f"/jobs/{job.json()['id']}/stop")
    assert server.client.delete(f"/datasets/{made['id']}").status_code == 204
    assert not (server.home / "datasets" / str(made["id"])).exists()


def test_limits_are_named(start_server: Callable[..., ServerProcess]) -> None:
    server = start_server(TUNESMITH_MAX_UPLOAD_BYTES=str(50 * 1024**2))

    def much() -> Iterator[bytes]:
        for _ in range(60):
            yield b"x" * 1024**2

    answer = server.client.put("/datasets/upload", params={"file_name": "x.txt"}, content=much())
    assert answer.status_code == 413 and answer.json()["message"] == "File exceeds 50MB limit"
    assert not list((server.home / "uploads").iterdir())


def test_a_restart_while_processing_takes_it_up_again(start_server: Callable[..., ServerProcess]) -> None:
    server = start_server()
    made = upload(server, b"question,answer\n" + b"what is this,it is that\n" * 400_000, "large.csv")
    server.kill()
    server.start()
    assert ready(server, made["id"])["num_rows"] == 400_000
    assert len(server.client.get(f"/datasets/{made['id']}/versions").json()) == 1


@pytest.mark.parametrize("megabytes", [200, pytest.param(2048, marks=pytest.mark.soak)])
def test_an_upload_of_any_size_needs_little_memory(start_server: Callable[..., ServerProcess], megabytes: int) -> None:
    """2 GB through under 300 MB (a tenth of it here)."""
    server = start_server(TUNESMITH_DATASET_WORKERS="0")
    assert server.process
    process, peak = psutil.Process(server.process.pid), 0
    line = os.urandom(512).hex().encode() * 1024 + b"\n"

    def much() -> Iterator[bytes]:
        nonlocal peak
        for _ in range(megabytes):
            yield line
            peak = max(peak, process.memory_info().rss)

    made = upload(server, much(), "large.txt")
    print(f"peak of the server: {peak / 1024**2:.0f} MB")
    assert made["size_bytes"] == len(line) * megabytes and peak < 300 * 1024**2
