"""Looking before and after: uploads seen before they are saved, rows anywhere in a large file, media, lists in any order."""

from __future__ import annotations

import io
import json
import time
import zipfile
from pathlib import Path

import polars as pl
import pytest

from tests.conftest import ServerProcess
from tests.datasets.test_api import ROWS, ready, upload

PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010806000000 1f15c4890000000d49444154789c6360f8cfc000000301010018dd8db0"
    "0000000049454e44ae426082".replace(" ", "")
)


def begin(server: ServerProcess, name: str, content: bytes) -> str:
    """The id of an upload whose bytes have all come, in two parts."""
    made = server.client.post("/datasets/uploads", json={"name": name, "size_bytes": len(content)}).json()
    half = len(content) // 2
    for offset, part in ((0, content[:half]), (half, content[half:])):
        answer = server.client.patch(f"/datasets/uploads/{made['id']}", params={"offset": offset}, content=part)
        assert answer.status_code == 200, answer.text
    return str(made["id"])


def test_an_upload_is_looked_at_before_it_is_saved(sqlite_server: ServerProcess) -> None:
    rows = ROWS + b'{"question": "what is 3", "answer": ""}\nno json\n'
    name = begin(sqlite_server, "rows.jsonl", rows)
    url = f"/datasets/uploads/{name}"
    seen = sqlite_server.client.post(f"{url}/preview", json={}).json()
    assert (seen["format"], seen["shape"], seen["num_rows"], seen["whole"]) == ("jsonl", "question_answer", 151, True)
    assert {finding["code"] for finding in seen["report"]["findings"]} >= {"bad_json", "empty_rows"}
    assert len(seen["rows"]) == 20 and seen["statistics"]["columns"]["answer"]["nulls"] == 0
    other = {"shape": "input_output", "mapping": {"input": "answer", "output": "question"}}
    turned = sqlite_server.client.post(f"{url}/preview", json=other).json()
    assert turned["shape"] == "input_output" and turned["mapping"] == other["mapping"]
    wrong = sqlite_server.client.post(f"{url}/preview", json={**other, "mapping": {"input": "none"}})
    assert wrong.status_code == 422 and wrong.json()["details"][0]["loc"] == "mapping.input"
    assert sqlite_server.client.get("/datasets/").json()["total"] == 0, "nothing is saved by looking"
    said = {**other, "name": "turned", "tags": ["b", "a"], "description": "as seen"}
    made = ready(sqlite_server, sqlite_server.client.post(f"{url}/commit", json=said).json()["id"])
    assert (made["name"], made["tags"], made["shape"], made["mapping"]) == (
        "turned", ["a", "b"], "input_output", other["mapping"])  # fmt: skip
    assert not list((sqlite_server.home / "uploads").iterdir())


def test_only_the_first_rows_of_a_large_upload_are_looked_at(sqlite_server: ServerProcess) -> None:
    content = b"question,answer\n" + b"what is this,it is that\n" * 30_000 + b"one cell\n"
    seen = sqlite_server.client.post(
        f"/datasets/uploads/{begin(sqlite_server, 'x.csv', content)}/preview", json={}
    ).json()
    assert (seen["num_rows"], seen["whole"]) == (20_000, False)


@pytest.mark.parametrize(("content", "status", "words"), [
    (b"PAR1 not really", 422, "Parquet"), (b"%PDF-1.4", 415, "PDF"), (b"a,b\n", 422, "no rows"),
])  # fmt: skip
def test_an_upload_that_cannot_be_read_says_why(
    sqlite_server: ServerProcess, content: bytes, status: int, words: str
) -> None:
    name = begin(sqlite_server, "x.csv", content)
    answer = sqlite_server.client.post(f"/datasets/uploads/{name}/preview", json={})
    assert answer.status_code == status and words in answer.json()["message"] and answer.json()["hint"]
    assert sqlite_server.client.delete(f"/datasets/uploads/{name}").status_code == 204
    assert not list((sqlite_server.home / "uploads").iterdir())
    assert sqlite_server.client.post(f"/datasets/uploads/{name}/preview", json={}).status_code == 404


def test_an_upload_that_is_not_whole_is_not_looked_at(sqlite_server: ServerProcess) -> None:
    made = sqlite_server.client.post("/datasets/uploads", json={"name": "x.csv", "size_bytes": 9}).json()
    answer = sqlite_server.client.post(f"/datasets/uploads/{made['id']}/preview", json={})
    assert answer.status_code == 409 and "0 of 9" in answer.json()["message"]


def test_any_rows_of_a_million_come_at_once(sqlite_server: ServerProcess, tmp_path: Path) -> None:
    path = tmp_path / "large.parquet"
    count = 1_000_000
    numbers = pl.int_range(count, eager=True)
    words = pl.DataFrame({"question": "what is " + numbers.cast(pl.String), "answer": ["it is so " * 6] * count,
                          "row": [float("nan")] * count})  # fmt: skip
    words.write_parquet(path)
    made = ready(sqlite_server, upload(sqlite_server, path.read_bytes(), "large.parquet")["id"], 240)
    url = f"/datasets/{made['id']}/preview"
    took_s = []
    for offset in (0, 500_123, 8_190, 999_950, 765_432):
        began = time.perf_counter()
        page = sqlite_server.client.get(url, params={"offset": offset, "limit": 50, "max_chars": 9}).json()
        took_s.append(time.perf_counter() - began)
        assert page["numbers"] == list(range(offset + 1, offset + 51))
        assert page["rows"][49]["question"] == f"what is {offset + 49}"[:9] + "…"
        assert page["rows"][0]["row"] is None and page["next_offset"] == (offset + 50 if offset + 50 < count else None)
    print(f"a range of rows in {[round(s * 1000) for s in took_s]} ms")
    assert sorted(took_s)[2] < 0.1
    named = sqlite_server.client.get(url, params={"row": [999_999, 3, 10**9]}).json()
    assert [row["question"] for row in named["rows"]] == ["what is 2", "what is 999998"]
    found, offset = [], 0
    while offset is not None:
        page = sqlite_server.client.get(url, params={"q": "IS 99999", "offset": offset}).json()
        found += page["numbers"]
        offset = page["next_offset"]
    assert found == [100_000, *range(999_991, 1_000_001)]


def test_media_are_served_in_parts_and_never_run(sqlite_server: ServerProcess) -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("cats/a.png", PNG)
        file.writestr("cats/page.png", b"<script>alert(1)</script>")
        file.writestr("dogs/x.svg", b"<svg onload='alert(1)'/>")
    made = ready(sqlite_server, upload(sqlite_server, archive.getvalue(), "pets.zip")["id"])
    url = f"/datasets/{made['id']}"
    names = [row["media"] for row in sqlite_server.client.get(f"{url}/preview").json()["rows"]]
    part = sqlite_server.client.get(f"{url}/media/{names[0]}", headers={"Range": "bytes=0-3"})
    assert (part.status_code, part.content, part.headers["content-type"]) == (206, PNG[:4], "image/png")
    page = sqlite_server.client.get(f"{url}/media/{names[1]}")
    assert page.headers["content-type"] == "image/png" and page.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in page.headers["content-security-policy"]
    for name in ("0000009.png", "..%2foriginal", "original", "0000001.svg"):
        assert sqlite_server.client.get(f"{url}/media/{name}").status_code == 404


def test_lists_in_any_order_page_by_page(server: ServerProcess) -> None:
    for name, count in (("beta", 3), ("Alpha", 30), ("gamma", 3), ("delta", 12)):
        ready(server, upload(server, b"".join(ROWS.splitlines(keepends=True)[:count]), name=name)["id"])

    def names(**params: str) -> list[str]:
        found: list[str] = []
        cursor = None
        while True:
            page = server.client.get(
                "/datasets/", params={**params, "limit": 3, **({"cursor": cursor} if cursor else {})}
            )
            found += [item["name"] for item in page.json()["items"]]
            cursor = page.json()["next_cursor"]
            if cursor is None:
                return found

    assert names() == ["delta", "gamma", "Alpha", "beta"] and names(order="asc") == names()[::-1]
    assert names(sort="name") == ["Alpha", "beta", "delta", "gamma"]
    assert names(sort="rows") == names(sort="size") == ["Alpha", "delta", "gamma", "beta"]
    assert names(sort="rows", order="asc") == ["beta", "gamma", "delta", "Alpha"]
    gone = server.client.get("/datasets/", params={"sort": "name", "cursor": 99})
    assert gone.status_code == 400 and gone.json()["hint"]


def test_many_at_once_each_with_its_result(server: ServerProcess) -> None:
    ids = [ready(server, upload(server, name=f"n{n}")["id"])["id"] for n in range(3)]
    answer = server.client.post("/datasets/bulk", json={"action": "tag", "ids": [*ids, 999], "tags": ["new", " ü "]})
    assert answer.status_code == 207
    assert [(item["id"], bool(item["error"])) for item in answer.json()["items"]] == [
        *((i, False) for i in ids),
        (999, True),
    ]
    server.client.post("/datasets/bulk", json={"action": "untag", "ids": ids[:1], "tags": ["new"]})
    assert server.client.get("/datasets/tags").json() == [
        {"tag": "ü", "num_datasets": 3}, {"tag": "new", "num_datasets": 2}]  # fmt: skip
    gone = server.client.post("/datasets/bulk", json={"action": "delete", "ids": ids[:2]})
    assert gone.status_code == 200 and server.client.get("/datasets/").json()["total"] == 1
    assert server.client.post("/datasets/bulk", json={"action": "tag", "ids": ids}).status_code == 400


def test_an_edit_is_a_new_version_and_can_be_undone(server: ServerProcess) -> None:
    lines = [{"question": f"what is {n}", "answer": f"it is {n}", "score": n / 2, "good": n > 3} for n in range(120)]
    made = ready(server, upload(server, "".join(json.dumps(line) + "\n" for line in lines).encode())["id"])
    url = f"/datasets/{made['id']}"
    cells = [{"row": 2, "column": "answer", "value": "42"}, {"row": 2, "column": "score", "value": "7.5"},
             {"row": 1, "column": "good", "value": "true"}, {"row": 3, "column": "score", "value": None}]  # fmt: skip
    wrong = server.client.post(f"{url}/edit", json={"cells": [{"row": 999, "column": "answer", "value": ""}]})
    assert wrong.status_code == 422 and wrong.json()["details"][0]["loc"] == "cells.0"
    assert server.client.post(f"{url}/edit", json={}).status_code == 422
    assert server.client.post(f"{url}/edit", json={"cells": cells, "drop_rows": [120, 1]}).status_code == 202
    edited = ready(server, made["id"])
    assert edited["num_rows"] == 118 and edited["error"] is None
    first, second = server.client.get(f"{url}/preview", params={"limit": 2}).json()["rows"]
    assert (first["answer"], first["score"], second["score"]) == ("42", 7.5, None)
    newest, oldest = server.client.get(f"{url}/versions").json()
    assert newest["origin"] == "edit" and newest["base"] == oldest["digest"]
    assert newest["changes"][0]["examples"][0] == {"row": 2, "before": {"answer": "it is 1"}, "after": {"answer": "42"}}
    assert newest["changes"][1]["rows_dropped"] == 2
    odd = {"cells": [{"row": 1, "column": "score", "value": "many"}]}
    server.client.post(f"{url}/edit", json=odd)
    kept = ready(server, made["id"])
    assert "'many' does not fit column 'score'" in kept["error"]["message"] and kept["version"] == edited["version"]
    back = server.client.post(f"{url}/versions/{oldest['digest']}/restore").json()
    assert (back["version"], back["num_rows"], back["error"]) == (oldest["digest"], 120, None)
    assert len(server.client.get(f"{url}/versions").json()) == 2


def test_repairs_are_seen_before_they_are_made(sqlite_server: ServerProcess) -> None:
    rows = ROWS + b'{"question": "  what is 3 ", "answer": ""}\n' + ROWS.splitlines()[0] + b"\n"
    made = ready(sqlite_server, upload(sqlite_server, rows)["id"])
    url = f"/datasets/{made['id']}"
    chosen = {"strip": True, "drop_empty": True, "drop_duplicates": True}
    tried = sqlite_server.client.post(f"{url}/repair/preview", json=chosen).json()
    assert (tried["num_rows_before"], tried["num_rows"]) == (152, 150)
    assert tried["steps"][0]["examples"] == [
        {"row": 151, "before": {"question": "  what is 3 "}, "after": {"question": "what is 3"}}]  # fmt: skip
    assert ready(sqlite_server, made["id"])["version"] == made["version"], "nothing is changed by trying"
    sqlite_server.client.post(f"{url}/repair", json=chosen)
    assert ready(sqlite_server, made["id"])["num_rows"] == tried["num_rows"]
    assert sqlite_server.client.post(f"{url}/repair/preview", json={}).status_code == 422
