"""Every kind of file, compression, encoding and delimiter; told by the content before the name."""

from __future__ import annotations

import datetime
import gzip
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from tests.dataprep.conftest import Child
from tests.dataprep.workbook import workbook

ROWS = [
    {"question": 'Was heißt "naïve"?', "answer": "Einfältig, arglos – 天真"},
    {"question": "Two\nlines, one comma", "answer": "Tab\there; and | there"},
    {"question": "Three", "answer": "3"},
]


def as_csv(delimiter: str = ",", line_end: str = "\n") -> bytes:
    def cell(text: str) -> str:
        return '"' + text.replace('"', '""') + '"'

    lines = [delimiter.join(cell(value) for value in row.values()) for row in ROWS]
    return line_end.join([delimiter.join(ROWS[0]), *lines, ""]).encode()


def as_parquet() -> bytes:
    buffer = io.BytesIO()
    pl.DataFrame(ROWS).write_parquet(buffer)
    return buffer.getvalue()


def as_jsonl() -> bytes:
    return "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS).encode()


KINDS: dict[str, tuple[str, Callable[[], bytes]]] = {
    "rows.csv": ("csv", as_csv),
    "rows.tsv": ("tsv", lambda: as_csv("\t")),
    "semicolons.csv": ("csv", lambda: as_csv(";")),
    "pipes.csv": ("csv", lambda: as_csv("|")),
    "windows.csv": ("csv", lambda: as_csv(line_end="\r\n")),
    "rows.json": ("json", lambda: json.dumps(ROWS).encode()),
    "wrapped.json": ("json", lambda: json.dumps({"version": 1, "data": ROWS}, indent=1).encode()),
    "rows.jsonl": ("jsonl", as_jsonl),
    "lines.json": ("jsonl", as_jsonl),
    "rows.parquet": ("parquet", as_parquet),
    "rows.xlsx": ("xlsx", lambda: workbook([list(ROWS[0]), *[list(row.values()) for row in ROWS]])),
    # The name says nothing, or the wrong thing.
    "no_ending": ("csv", as_csv),
    "json_in.csv.dat": ("json", lambda: json.dumps(ROWS).encode()),
    "really_parquet.csv": ("parquet", as_parquet),
}


@pytest.mark.parametrize("name", KINDS)
def test_each_kind_gives_the_same_rows(ingest: Child, name: str) -> None:
    kind, make = KINDS[name]
    answer = ingest(make(), name)
    assert answer.version["format"] == kind
    assert answer.version["shape"] == "question_answer"
    assert answer.frame.to_dicts() == ROWS


@pytest.mark.parametrize("ending", [".gz", ".zst"])
def test_compressed_files_of_every_kind(ingest: Child, ending: str) -> None:
    squeeze = gzip.compress if ending == ".gz" else zstandard.ZstdCompressor().compress
    for name in ("rows.csv", "rows.jsonl", "rows.parquet"):
        assert ingest(squeeze(KINDS[name][1]()), name + ending).frame.to_dicts() == ROWS
    two_parts = squeeze(as_csv()[:40]) + squeeze(as_csv()[40:])
    assert ingest(two_parts, "name_without_ending").frame.to_dicts() == ROWS


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_unicode_encodings_with_and_without_mark(ingest: Child, encoding: str) -> None:
    for name in ("rows.csv", "rows.jsonl"):
        text = KINDS[name][1]().decode()
        answer = ingest(text.encode(encoding), name)
        assert answer.frame.to_dicts() == ROWS
        assert answer.version["encoding"] == encoding.removesuffix("-sig")[:6].rstrip("-")
        assert "encoding" not in answer.codes()


@pytest.mark.parametrize(("encoding", "text"), [("latin-1", "café à la crème"), ("cp1252", "“naïve” costs 5 €")])
def test_western_encodings_are_read_and_mentioned(ingest: Child, encoding: str, text: str) -> None:
    content = "input,output\n" + f'"{text}","{text}"\n' * 3
    answer = ingest(content.encode(encoding), "western.csv")
    assert answer.frame["output"].to_list() == [text] * 3
    assert answer.version["encoding"] == encoding
    assert encoding in answer.finding("encoding")["message"]


def test_a_few_broken_bytes_do_not_turn_utf8_into_something_else(ingest: Child) -> None:
    lines = [f"Größe {i},“schön” – 天真".encode() for i in range(50)]
    lines[20] = b"Gr\xff\xfe 20,kaputt"
    answer = ingest(b"input,output\n" + b"\n".join(lines), "mostly.csv")
    assert answer.frame["input"][0] == "Größe 0"
    assert answer.version["encoding"] == "utf-8"
    assert answer.finding("unreadable_characters")["rows"] == [21]


def test_a_tsv_under_another_name_is_told_by_its_tabs(ingest: Child) -> None:
    answer = ingest("question\tanswer\nWho, me?\tYes, you\nWhy, then?\tSo, thus\n", "export.csv")
    assert answer.version["format"] == "tsv"
    assert answer.frame["answer"].to_list() == ["Yes, you", "So, thus"]


def test_lines_in_old_and_mixed_line_ends(ingest: Child) -> None:
    answer = ingest(b"input,output\r\na,b\nc,d\r\n\r\n", "mixed.csv")
    assert answer.frame.rows() == [("a", "b"), ("c", "d")]


def test_header_with_line_break_blank_lines_before_and_odd_names(ingest: Child) -> None:
    content = '\n\n"in\nput",output,output,,"*",^all$,__row,row\na,b,c,d,e,f,g,h\n'
    frame = ingest(content, "odd.csv").frame
    assert frame.rows() == [tuple("abcdefgh")]
    assert len(set(frame.columns)) == 8
    assert frame.columns[:4] == ["in\nput", "output", "output_2", "column_4"]


def test_text_by_lines_and_by_paragraphs(ingest: Child) -> None:
    lines = ingest("One line\nAnother line\nThird\n", "notes.txt")
    assert lines.version["shape"] == "text"
    assert lines.frame["text"].to_list() == ["One line", "Another line", "Third"]
    paragraphs = ingest("One\nstill one\n\n\nTwo, here\n", "book.txt")
    assert paragraphs.frame["text"].to_list() == ["One\nstill one", "Two, here"]


def test_conll_with_blanks_docstart_and_other_endings(ingest: Child) -> None:
    content = "-DOCSTART- -X- O O\n\nEU NNP I-NP B-ORG\nrejects VBZ I-VP O\n\nPeter NNP I-NP B-PER\n"
    for name in ("a.conll", "a.iob", "a.annotated", "nothing"):
        frame = ingest(content, name).frame
        assert [json.loads(cell) for cell in frame["tags"]] == [["B-ORG", "O"], ["B-PER"]]


def test_numbers_booleans_and_nothing_keep_their_kind(ingest: Child) -> None:
    rows = [{"a": 1, "b": 1.5, "c": True, "d": None, "e": "x"}, {"a": 2, "b": 2, "c": False, "e": 7}]
    frame = ingest(json.dumps(rows), "typed.json").frame
    assert frame.schema == {"a": pl.Int64, "b": pl.String, "c": pl.Boolean, "d": pl.String, "e": pl.String}
    assert frame["e"].to_list() == ["x", "7"] and frame["b"].to_list() == ["1.5", "2"]


def test_what_no_number_can_hold_is_kept_as_it_was_written(ingest: Child) -> None:
    content = '{"a": 100000000000000000001, "b": 1.0, "c": true, "d": NaN}\n{"a": 7, "b": 2.5, "c": "no", "d": 1.5}\n'
    frame = ingest(content, "written.jsonl").frame
    assert frame.rows() == [("100000000000000000001", 1.0, "true", None), ("7", 2.5, "no", 1.5)]


def test_lists_and_objects_in_cells_are_kept(ingest: Child) -> None:
    nested = {"deep": [{"list": [1, {"of": "things"}]}], "ünï": None}
    from_json = ingest(json.dumps([{"id": 1, "extra": nested}]), "nested.json")
    assert json.loads(from_json.frame["extra"][0]) == nested
    assert from_json.statistics["columns"]["extra"]["type"] == "json"
    buffer = io.BytesIO()
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    pq.write_table(pa.table({"messages": [turns], "tags": [["a", "b"]]}), buffer)
    from_parquet = ingest(buffer.getvalue(), "nested.parquet")
    assert from_parquet.version["shape"] == "messages"
    assert json.loads(from_parquet.frame["messages"][0]) == turns
    assert from_parquet.report["valid"]


def test_parquet_of_every_type(ingest: Child) -> None:
    table = pa.table(
        {
            "half": pa.array([1.5, None], pa.float16()),
            "decimal": pa.array([None, 1], pa.decimal128(20, 4)),
            "when": pa.array(
                [datetime.datetime(2024, 5, 1, tzinfo=datetime.UTC), None], pa.timestamp("us", tz="Europe/Berlin")
            ),
            "day": pa.array([datetime.date(2024, 5, 1), None]),
            "clock": pa.array([datetime.time(12, 30), None], pa.time64("us")),
            "lasts": pa.array([datetime.timedelta(seconds=3), None], pa.duration("s")),
            "raw": pa.array([b"\xff\x00", None]),
            "kind": pa.array(["x", "y"]).dictionary_encode(),
            "nothing": pa.nulls(2),
            "wide": pa.array([2**63 + 5, None], pa.uint64()),
            "odd": pa.array([float("nan"), float("inf")]),
            "map": pa.array([[("k", 1)], None], pa.map_(pa.string(), pa.int64())),
        }
    )
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    answer = ingest(buffer.getvalue(), "types.parquet")
    assert answer.version["num_rows"] == 2
    assert answer.frame["kind"].to_list() == ["x", "y"]
    assert "2024-05-01" in str(answer.frame["when"][0])
    # What goes over the wire is JSON, which has no NaN.
    json.loads((answer.out / "statistics.json").read_text(), parse_constant=lambda name: pytest.fail(name))


def test_workbook_cells_formulas_dates_and_second_sheet(ingest: Child) -> None:
    rows: list[list[object]] = [
        ["question", "n", "sum"],
        ["Größe?", 3, "=1+2"],
        [None, None, None],
        ["x & <y>", 2.5, "=2*2"],
    ]
    answer = ingest(workbook([], rows), "book.xlsx")
    assert answer.frame["question"].to_list() == ["Größe?", "x & <y>"]
    assert answer.frame["n"].to_list() == [3.0, 2.5]
    assert answer.frame["sum"].to_list() == [3, 4]


def test_archive_with_metadata_file(ingest: Child, tmp_path: Path) -> None:
    for name, content in (
        ("metadata.csv", 'file_name,label,caption\ncat.png,cat,"A cat, sitting"\ndogs/rex.png,dog,Rex\n'),
        (
            "metadata.jsonl",
            '{"file_name": "cat.png", "label": "cat", "caption": "A cat, sitting"}\n{"file_name": "dogs/rex.png", "label": "dog", "caption": "Rex"}\n',
        ),
    ):
        path = tmp_path / "images.zip"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("cat.png", b"\x89PNG cat")
            archive.writestr("dogs/rex.png", b"\x89PNG dog")
            archive.writestr(name, content)
        answer = ingest(path)
        assert answer.version["mapping"] == {"media": "media", "label": "label"}
        assert answer.frame.select("file_name", "label", "caption").rows() == [
            ("cat.png", "cat", "A cat, sitting"),
            ("dogs/rex.png", "dog", "Rex"),
        ]
        assert (answer.media / answer.frame["media"][1]).read_bytes() == b"\x89PNG dog"


def test_archive_of_films(ingest: Child, tmp_path: Path) -> None:
    path = tmp_path / "films.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("train/run/a.mp4", b"film a")
        archive.writestr("train/walk/b.mp4", b"film b")
    answer = ingest(path)
    assert (answer.version["type"], answer.version["shape"]) == ("video", "video")
    assert answer.report["class_balance"] == {"run": 1, "walk": 1}
