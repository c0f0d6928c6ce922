"""Human ratings: kept, changed, withdrawn, counted, and given out without danger to spreadsheets."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.conftest import lay_database
from tunesmith.app import create_app
from tunesmith.features.chat import repository
from tunesmith.settings import Settings

ASKED = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello?"}]


@pytest.fixture
def client(tmp_path: Path, database_url: str | None) -> Iterator[TestClient]:
    settings = Settings(home=tmp_path / "home", database_url=database_url, hub_offline=True, cpu_slots=0)
    if database_url is None:
        lay_database(settings.home)
    with TestClient(create_app(settings), client=("127.0.0.1", 1), base_url="http://localhost/api/v1") as client:
        yield client


def rate(client: TestClient, **fields: Any) -> dict[str, Any]:
    body = {"model": "job:1", "messages": ASKED, "answer": "Hi", "verdict": "up", **fields}
    answer = client.post("/ratings/", json=body)
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


def test_a_rating_lives_its_life(client: TestClient) -> None:
    made = rate(client, note="good", sampling={"temperature": 0.2})
    assert made["messages"] == ASKED and made["sampling"] == {"temperature": 0.2} and made["verdict"] == "up"
    other = rate(client, model="org/base", verdict="down", answer="I have 100 % no idea")
    rate(client, verdict="down")
    assert [r["id"] for r in client.get("/ratings/", params={"q": "100 %"}).json()["items"]] == [other["id"]]
    first = client.get("/ratings/", params={"limit": 2}).json()
    rest = client.get("/ratings/", params={"limit": 2, "cursor": first["next_cursor"]}).json()
    assert [len(first["items"]), len(rest["items"])] == [2, 1] and rest["items"] == [made]
    counts = client.get("/ratings/summary").json()
    assert counts == [
        {"model": "job:1", "up": 1, "down": 1, "share_up": 0.5}, {"model": "org/base", "up": 0, "down": 1, "share_up": 0.0},
    ]  # fmt: skip
    changed = client.patch(f"/ratings/{made['id']}", json={"verdict": "down", "note": ""}).json()
    assert changed["verdict"] == "down" and changed["note"] == "" and changed["answer"] == "Hi"
    assert client.delete(f"/ratings/{made['id']}").status_code == 204
    for method in ("GET", "DELETE"):
        assert client.request(method, f"/ratings/{made['id']}").status_code == 404
    assert client.get("/ratings/summary", params={"model": "job:1"}).json()[0]["down"] == 1


@pytest.mark.parametrize("wrong", [
    {"verdict": "sideways"}, {"model": "../etc"}, {"messages": []}, {"answer": "a\0b"}, {"extra": 1},
    {"messages": [{"role": "robot", "content": ""}]}, {"sampling": {"x": float("1e400")}},
])  # fmt: skip
def test_what_is_no_rating_is_refused(client: TestClient, wrong: dict[str, Any]) -> None:
    body = {"model": "job:1", "messages": ASKED, "answer": "Hi", "verdict": "up", **wrong}
    answer = client.post("/ratings/", content=json.dumps(body), headers={"Content-Type": "application/json"})
    assert answer.status_code == 422 and answer.json()["details"]
    made = rate(client)
    assert client.patch(f"/ratings/{made['id']}", json={"verdict": None}).status_code == 422


def test_the_export_holds_all_and_starts_no_formula(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repository, "EXPORT_ROWS", 2)
    answers = ["=1+1", "+1", "-1", "@x", "\tx", 'plain, with "quotes"\nand lines', "grün 鶴"]
    for answer in answers:
        rate(client, answer=answer)
    rate(client, model="org/base", verdict="down")
    exact = client.get("/ratings/export", params={"model": "job:1"})
    assert "attachment" in exact.headers["content-disposition"]
    assert [json.loads(line)["answer"] for line in exact.text.splitlines()] == answers
    table = client.get("/ratings/export", params={"format": "csv"})
    assert table.headers["content-type"].startswith("text/csv")
    rows = list(csv.DictReader(io.StringIO(table.text)))
    assert [row["answer"] for row in rows] == [*(f"'{a}" for a in answers[:5]), *answers[5:], "Hi"]
    assert rows[0]["prompt"] == "Hello?" and json.loads(rows[0]["messages"]) == ASKED
    assert not [cell for row in rows for cell in row.values() if cell.startswith(("=", "+", "-", "@", "\t"))]
    assert client.get("/ratings/export", params={"verdict": "down"}).text.count("\n") == 1
