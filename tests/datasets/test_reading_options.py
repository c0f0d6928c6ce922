"""The same reading options on every way in: in one request, in a form, in parts, by PATCH, in the SDK and on the command line."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.cli.command import tunesmith
from tests.conftest import ServerProcess
from tests.dataprep.test_reading import FAQ, INSIDE, NO_HEADER, PAIRS
from tests.dataprep.workbook import workbook
from tests.datasets.test_api import ready, upload
from tests.datasets.test_looking import begin
from tunesmith import Client
from tunesmith.core.errors import BadData, InvalidInput

BOOK = workbook(FAQ, INSIDE)
NAMED: dict[str, Any] = {"header_row": 0, "columns": ["question", "answer"], "encoding": "latin-1"}


def rows_of(server: ServerProcess, dataset_id: int) -> list[tuple[Any, ...]]:
    text = server.client.get(f"/datasets/{dataset_id}/download", params={"format": "jsonl"}).text
    return [tuple(json.loads(line).values()) for line in text.splitlines()]


def test_every_way_in_takes_them(sqlite_server: ServerProcess) -> None:
    server, text = sqlite_server, NO_HEADER.encode()
    query = {"header_row": "0", "columns": "question,answer", "encoding": "latin-1"}
    ways = [upload(server, text, "a.csv", **query)["id"]]
    form = server.client.post("/datasets/", data=query, files=[("file", ("b.csv", text)), ("file", ("c.csv", text))])
    ways += [item["dataset"]["id"] for item in form.json()["items"]]
    url = f"/datasets/uploads/{begin(server, 'd.csv', text)}"
    seen = server.client.post(f"{url}/preview", json=NAMED).json()
    assert seen["columns"] == NAMED["columns"] and seen["layout"]["header_row"] == 0 and seen["encoding"] == "iso8859-1"
    ways.append(server.client.post(f"{url}/commit", json=NAMED).json()["id"])
    for dataset_id in ways:
        made = ready(server, dataset_id)
        assert (made["shape"], made["error"]) == ("question_answer", None)
        chosen = {name: value for name, value in made["reading"].items() if value is not None}
        assert chosen == {**NAMED, "encoding": "iso8859-1"}
        assert rows_of(server, dataset_id) == PAIRS


def test_another_reading_is_another_version(sqlite_server: ServerProcess) -> None:
    server = sqlite_server
    url = f"/datasets/{ready(server, upload(server, BOOK, 'faq.xlsx')['id'])['id']}"
    with Client(server.url) as client:
        number = int(url.rpartition("/")[2])
        assert client.datasets.get(number).layout.sheets == ["S1", "S2"]
        inside = client.datasets.update(number, sheet="S2")
        assert (inside.num_rows, inside.reading.sheet, inside.status) == (5, "S2", "ready")
        client.datasets.edit(number, [{"row": 1, "column": "Frage", "value": "changed"}])
        assert client.datasets.update(number, columns=["Frage"]).columns == ["Frage"]
        back = client.datasets.update(number, sheet=None, columns=None, name="both")
        assert (back.name, back.num_rows, back.columns) == ("both", 20, ["Frage", "Antwort", "Nr"])
        with pytest.raises(BadData, match="no sheet 'S9'"):
            client.datasets.update(number, sheet="S9")
        assert client.datasets.get(number).version == back.version
        with pytest.raises(InvalidInput, match="header_row must be a whole number"):
            client.datasets.upload(__file__, header_row="first")
    origins = [version["origin"] for version in server.client.get(f"{url}/versions").json()]
    assert origins == ["reading", "edit", "reading", "upload"], "what is read as at first is the first version"
    for wrong in ({"encoding": "nothing"}, {"delimiter": "ab"}, {"header_row": -1}, {"columns": []}, {"mapping": "x"}):
        assert server.client.patch(url, json=wrong).status_code == 422, wrong
    assert server.client.put("/datasets/upload?file_name=a.csv&header_row=x", content=b"a").status_code == 422


def test_one_that_could_not_be_read_is_read_again(sqlite_server: ServerProcess) -> None:
    made = ready(sqlite_server, upload(sqlite_server, BOOK, "faq.xlsx", sheet="S9", header_row=0)["id"])
    assert made["status"] == "failed" and made["error"]["hint"] == "Its sheets are: S1, S2."
    assert sqlite_server.client.patch(f"/datasets/{made['id']}", json={"sheet": "S1"}).status_code == 200
    found = ready(sqlite_server, made["id"])
    assert (found["num_rows"], found["reading"]["header_row"], found["error"]) == (23, 0, None)


def test_changes_wait_until_the_processing_is_over(sqlite_server: ServerProcess) -> None:
    many = b"question,answer\n" + b"".join(b"what is %d,it is\n" % number for number in range(60_000))
    with Client(sqlite_server.url) as client:
        made = upload(sqlite_server, many, "many.csv")
        assert made["status"] == "processing"
        early = sqlite_server.client.patch(f"/datasets/{made['id']}", json={"columns": ["question"]})
        assert early.status_code == 409
        turned = client.datasets.update(
            made["id"], shape="input_output", mapping={"input": "answer", "output": "question"}
        )
        assert (turned.shape, turned.status) == ("input_output", "ready")
        edited = client.datasets.edit(upload(sqlite_server, many, "other.csv")["id"], drop_rows=[1])
        assert edited.num_rows == 59_999


def test_the_command_line_has_them_all(sqlite_server: ServerProcess, tmp_path: Path) -> None:
    at = {"TUNESMITH_URL": sqlite_server.url}
    (tmp_path / "faq.xlsx").write_bytes(BOOK)
    (tmp_path / "no_header.csv").write_text(NO_HEADER)
    says = tunesmith(tmp_path, "--json", "datasets", "upload", str(tmp_path / "faq.xlsx"), "--sheet", "2", "--shape", "question_answer",
                     "--mapping", "question=Antwort,answer=Frage", **at)  # fmt: skip
    made = json.loads(says.stdout)[0]
    assert made["num_rows"] == 5 and made["mapping"] == {"question": "Antwort", "answer": "Frage"}
    says = tunesmith(
        tmp_path, "--json", "datasets", "update", str(made["id"]), "--detect", "sheet", "--header-row", "3", **at
    )
    assert json.loads(says.stdout)["num_rows"] == 20
    wrong = tunesmith(tmp_path, "datasets", "upload", str(tmp_path / "no_header.csv"), "--header-row", "x", "--delimiter", "ab", **at)  # fmt: skip
    assert (
        wrong.returncode == 2
        and "--header-row: must be a whole number" in wrong.stderr
        and "--delimiter" in wrong.stderr
    )


def test_exports_give_values_back(sqlite_server: ServerProcess) -> None:
    turns = [{"role": "user", "content": "of user"}, {"role": "assistant", "content": "the answer"}]
    rows = [{"messages": turns, "id": 10**20 + number} for number in range(1200)]
    made = ready(sqlite_server, upload(sqlite_server, "\n".join(map(json.dumps, rows)).encode(), "chat.jsonl")["id"])
    assert rows_of(sqlite_server, made["id"]) == [tuple(row.values()) for row in rows]
    tidy = sqlite_server.client.post(f"/datasets/{made['id']}/edit", json={"drop_rows": [1]})
    assert tidy.status_code == 202 and ready(sqlite_server, made["id"])["num_rows"] == 1199
    answer = sqlite_server.client.get(f"/datasets/{made['id']}/download", params={"format": "parquet"})
    table = pq.read_table(io.BytesIO(answer.content))
    assert table["messages"].to_pylist() == [turns] * 1199, "also of a version that was edited"
