"""How a file is read: what is detected, what is said of it, and what may be chosen instead."""

from __future__ import annotations

import io
import json
from typing import Any

import pandas as pd
import polars as pl
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from tests.dataprep.conftest import Child
from tests.dataprep.workbook import workbook
from tunesmith.features.datasets.export import export
from tunesmith.schemas.read_options import ReadOptions, as_query, options_among

PAIRS = [(f"What is {n}+1?", f"It is {n + 1}.") for n in range(20)]
ROWS = [{"question": question, "answer": answer} for question, answer in PAIRS]
NO_HEADER = "".join(f"{question},{answer}\n" for question, answer in PAIRS)
FAQ: list[list[object]] = [["FAQ export"], ["of 2025"], ["Frage", "Antwort", "Nr"], *([q, a, n] for n, (q, a) in enumerate(PAIRS))]  # fmt: skip
INSIDE: list[list[object]] = [["Frage", "Antwort"], *(["inside", f"only {n}"] for n in range(5))]


def test_a_first_record_that_is_no_header_is_a_row(ingest: Child) -> None:
    found = ingest(NO_HEADER, "no_header.csv")
    assert found.frame.rows() == PAIRS and found.version["layout"]["header_row"] == 0
    assert "line 1" in found.finding("no_header")["message"] and "columns" in found.finding("no_header")["hint"]
    named = ingest(NO_HEADER, "no_header.csv", options={"header_row": 0, "columns": ["question", "answer"]})
    assert named.version["shape"] == "question_answer" and named.frame.rows() == PAIRS
    assert "no_header" not in named.codes()
    too_many = ingest(NO_HEADER, "a.csv", ok=False, options={"header_row": 0, "columns": ["a", "b", "c"]})
    too_many.refused("3 columns are named")


@pytest.mark.parametrize(
    ("content", "names", "code"),
    [
        ("5.1,3.5,setosa\n4.9,3.0,setosa\n6.9,3.1,virginica\n", ["column_1", "column_2", "column_3"], "no_header"),
        ("great film,positive\nbad film,negative\nfine,positive\n", ["column_1", "column_2"], "no_header"),
        ("Where is it sold?\nWhen is it open?\n", ["text"], "no_header"),
        ("country,2019,2020\nPeru,1.5,3.4\nFrance,3,4\n", ["country", "2019", "2020"], None),
        ("shop,colour\nA,red\nB,blue\n", ["shop", "colour"], "unsure_header"),
        (
            "When?,What do you like?,How old are you?\n2025-01-01,Long walks.,42\n2025-01-02,Tea and cake.,17\n",
            ["When?", "What do you like?", "How old are you?"],
            None,
        ),
        ("user,text\nuser,hello there\n", ["user", "text"], None),
        (",text\n0,hello\n1,you\n", ["column_1", "text"], None),
    ],
)
def test_headers_are_told_from_rows(ingest: Child, content: str, names: list[str], code: str | None) -> None:
    found = ingest(content, "a.csv")
    assert found.frame.columns == names
    assert found.codes() & {"no_header", "unsure_header"} == ({code} if code else set())


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("FAQ export\nof 2025\n\nFrage;Antwort\nWas ist 1?;Das ist 1.\nWas ist 2?;Das ist 2.\n", 4),
        ("FAQ export,,\nof 2025,,\n,,\nFrage,Antwort,Nr\nWas ist 1?,Das ist 1.,1\nWas ist 2?,Das ist 2.,2\n", 4),
        ('"a title\nof two lines"\nFrage,Antwort\nWas ist 1?,Das ist 1.\nWas ist 2?,Das ist 2.\n', 3),
    ],
)
def test_title_lines_above_the_header_are_passed_over_and_named(ingest: Child, content: str, line: int) -> None:
    found = ingest(content, "export.csv")
    assert found.frame["Antwort"].to_list() == ["Das ist 1.", "Das ist 2."]
    assert found.version["layout"]["header_row"] == line and f"line {line}" in found.finding("title_lines")["message"]
    asked = ingest(content, "export.csv", options={"header_row": line})
    assert asked.frame.equals(found.frame) and "title_lines" not in asked.codes()


def test_a_workbook_gives_its_table_and_offers_its_other_sheets(ingest: Child) -> None:
    book = workbook([["Cover"], ["secret"]], FAQ, INSIDE)
    found = ingest(book, "faq.xlsx")
    assert found.frame.columns == ["Frage", "Antwort", "Nr"] and found.version["num_rows"] == 20
    layout = found.version["layout"]
    assert (layout["sheet"], layout["sheets"], layout["header_row"]) == ("S2", ["S1", "S2", "S3"], 3)
    assert found.finding("other_sheets")["message"] == "Sheet S2 was read; there are also S1 (1 row), S3 (5 rows)"
    assert found.finding("title_lines")["message"].startswith("The table begins in row 3")
    for wanted in ("S3", "3"):
        other = ingest(book, "faq.xlsx", options={"sheet": wanted})
        assert other.frame["Frage"].to_list() == ["inside"] * 5 and "other_sheets" not in other.codes()
    ingest(book, "faq.xlsx", ok=False, options={"sheet": "S9"}).refused("no sheet 'S9'")
    rows = ingest(book, "faq.xlsx", options={"sheet": "S1", "header_row": 0, "columns": "line"})
    assert rows.frame.rows() == [("Cover",), ("secret",)]


LAYOUTS: dict[str, Any] = {
    **{orient: pd.DataFrame(ROWS).to_json(orient=orient) for orient in ("records", "split", "index", "columns", "table")},
    "names as index": pd.DataFrame(ROWS, index=[f"row {n}" for n in range(20)]).to_json(orient="split"),
    "lists of columns": json.dumps(pd.DataFrame(ROWS).to_dict("list")),
    "cells with header": json.dumps([["question", "answer"], *PAIRS]),
    "under a key": json.dumps({"version": 1, "data": ROWS}),
    "two keys deep": json.dumps({"result": {"items": ROWS, "total": 20}}),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_json_in_every_layout_gives_the_same_rows(ingest: Child, layout: str) -> None:
    found = ingest(LAYOUTS[layout], "rows.json")
    assert found.version["shape"] == "question_answer" and found.report["valid"]
    assert found.frame.select("question", "answer").rows() == PAIRS
    assert [name for name in found.frame.columns if name not in ("question", "answer")] == (["index"] if layout == "names as index" else [])  # fmt: skip


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl"])
def test_lists_of_cells_have_a_header_or_are_given_one(ingest: Child, name: str) -> None:
    lines = name.endswith("l")
    text = "\n".join(json.dumps(pair) for pair in PAIRS) if lines else json.dumps(PAIRS)
    assert ingest(text, name).frame.rows() == PAIRS and "no_header" in ingest(text, name).codes()
    named = ingest(text, name, options={"header_row": 0, "columns": ["question", "answer"]})
    assert named.version["shape"] == "question_answer"
    with_header = '["question", "answer"]\n' + text if lines else json.dumps([["question", "answer"], *PAIRS])
    assert ingest(with_header, name).frame.columns == ["question", "answer"]
    wide = text + '\n["a", "b", "c"]' if lines else json.dumps([*PAIRS, ["a", "b", "c"]])
    found = ingest(wide, name, options={"header_row": 0, "columns": ["question", "answer"]}, ok=False)
    if lines:
        assert found.finding("bad_json")["lines"] == [21]


def test_one_object_is_one_row_and_two_lists_are_asked_about(ingest: Child) -> None:
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "you"}]
    one = ingest(json.dumps({"messages": turns}), "a.json")
    assert (one.version["shape"], one.version["num_rows"]) == ("messages", 1)
    both = ingest(json.dumps([turns, turns]), "a.json")
    assert (both.version["shape"], both.version["num_rows"]) == ("messages", 2)
    ingest(json.dumps({"a": ROWS, "b": ROWS}), "a.json", ok=False).refused("2 lists of objects")


def test_the_files_own_splits_are_kept(ingest: Child) -> None:
    file = json.dumps({"train": ROWS[:15], "test": ROWS[15:]})
    found = ingest(file, "both.json")
    assert found.frame["split"].to_list() == ["train"] * 15 + ["test"] * 5
    layout = found.version["layout"]
    assert (layout["split_column"], layout["splits"], layout["num_held_out"]) == ("split", {"train": 15, "test": 5}, 5)
    assert found.finding("splits")["message"] == "The file has its own splits: train 15, test 5"
    alone = ingest(file, "both.json", options={"split": "test"})
    assert alone.frame["question"].to_list() == [row["question"] for row in ROWS[15:]]
    assert alone.version["layout"]["split_column"] is None
    assert "It has: test, train." in ingest(file, "both.json", ok=False, options={"split": "dev"}).refused("no split")["hint"]  # fmt: skip
    folds = "question,answer,fold\n" + "".join(f"{q},{a},{'train' if n else 'last'}\n" for n, (q, a) in enumerate(PAIRS))  # fmt: skip
    by_column = ingest(folds, "folds.csv", options={"split": "fold"}).version["layout"]
    assert (by_column["split_column"], by_column["num_held_out"]) == ("fold", 1)
    ingest(folds, "folds.csv", ok=False, options={"split": "answer"}).refused("does not tell splits")


def test_nothing_is_refused_for_one_odd_byte_number_or_many_columns(ingest: Child) -> None:
    nul = "".join(f"{q},{a}\n" for q, a in PAIRS)
    found = ingest(("question,answer\n" + nul.replace("It is 3.", "It is\0 3.")).encode(), "nul.csv")
    assert found.frame["answer"][2] == "It is 3." and found.version["num_rows"] == 20
    assert found.finding("nul_bytes")["lines"] == [4] and "line 4" in found.finding("nul_bytes")["message"]
    far = ingest(b"question,answer\n" + b"what is this,it is that\n" * 30_000 + b"a\0,b\n", "far.csv")
    assert far.finding("nul_bytes")["lines"] == [30_002] and far.frame["question"][-1] == "a"
    digits = ingest('[{"question": "q", "answer": ' + "9" * 10_000 + '}, {"question": "r", "answer": 7}]', "a.json")
    assert digits.frame["answer"].to_list() == ["9" * 10_000, "7"]
    names = [*(f"c{n}" for n in range(5_000)), "question", "answer"]
    wide = ",".join(names) + "\n" + ",".join("1" for _ in names[:-2]) + ",q?,a\n"
    assert ingest(wide, "wide.csv").version["mapping"] == {"question": "question", "answer": "answer"}
    wider = wide.replace("c0,", ",".join(f"d{n}" for n in range(20_000)) + ",c0,").replace("\n1,", "\n" + "1," * 20_001)
    ingest(wider, "wider.csv", ok=False).refused("25002 columns")
    few = ingest(wider, "wider.csv", options={"columns": "question,answer"})
    assert few.frame.rows() == [("q?", "a")]


def test_columns_of_one_name_are_named(ingest: Child) -> None:
    found = ingest("question,answer,answer\nq,a,b\n", "twice.csv")
    assert found.frame.columns == ["question", "answer", "answer_2"]
    assert found.finding("duplicate_columns")["message"] == "The header has 'answer' 2 times, called answer, answer_2"
    chosen = ingest("question,answer,answer\nq,a,b\n", "twice.csv", options={"columns": ["question", "answer_2"]})
    assert chosen.frame.rows() == [("q", "b")]
    assert chosen.version["layout"]["columns"] == ["question", "answer", "answer_2"]
    wrong = ingest("question,answer\nq,a\n", "a.csv", ok=False, options={"columns": ["nothing"]})
    assert wrong.refused("no column 'nothing'")["hint"] == "The columns are: question, answer."


def test_encoding_and_delimiter_as_they_are_asked_for(ingest: Child) -> None:
    text = "question;answer\nGröße, bitte?;ß\n"
    assert ingest(text.encode("cp850"), "a.csv", options={"encoding": "cp850"}).frame.rows() == [("Größe, bitte?", "ß")]
    wrong = ingest(text.encode("cp850"), "a.csv", options={"encoding": "utf-8"})
    assert "not valid utf-8" in wrong.finding("encoding")["message"]
    assert ingest("a b\n1 2\n", "a.txt", options={"delimiter": "space"}).frame.rows() == [("1", "2")]
    for options, name in (({"sheet": "x"}, "a.csv"), ({"delimiter": ","}, "a.parquet"), ({"header_row": 2}, "a.txt")):
        buffer = io.BytesIO()
        pl.DataFrame({"a": [1]}).write_parquet(buffer)
        content = buffer.getvalue() if name == "a.parquet" else "a\nb\n"
        ingest(content, name, ok=False, options=options).refused("says nothing of a")


def test_a_spreadsheets_unicode_text(ingest: Child) -> None:
    found = ingest("question\tanswer\r\nGröße, 0\tÜber 0\r\n".encode("utf-16"), "unicode.csv")
    assert found.frame.rows() == [("Größe, 0", "Über 0")] and found.version["layout"]["delimiter"] == "\t"


def test_findings_name_the_lines_of_the_file(ingest: Child) -> None:
    rows = [f"{q},{a}" for q, a in PAIRS]
    rows[3], rows[6], rows[9] = '"two\nlines",a', "alone", "no answer,"
    found = ingest("A title\n\nquestion,answer\n" + "\n".join(rows) + "\n", "rows.csv")
    assert found.finding("ragged_lines")["lines"] == [11]
    empty = found.finding("empty_rows")
    assert (empty["rows"], empty["lines"]) == ([9], [14])
    lines = ['{"question": "a", "answer": "b"}', "", "nope", '{"question": "", "answer": "b"}']
    assert ingest("\n".join(lines), "rows.jsonl").finding("empty_rows")["lines"] == [4]
    book = ingest(workbook([["title"], ["question", "answer"], ["q", "a"], [None, None], ["q", None]]), "b.xlsx")
    assert book.finding("empty_rows")["lines"] == [5]


NESTED: list[dict[str, Any]] = [
    {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "[b]"}], "id": 10**20, "code": "007", "ok": True, "n": 1.0, "mixed": 7, "text": "[1]"},
    {"messages": [{"role": "user", "content": "ü"}, {"role": "assistant", "content": "1.0"}], "id": 5, "code": "1", "ok": False, "n": 2.5, "mixed": "seven", "text": "{}"},
    {"messages": [{"role": "user", "content": "c"}], "id": 6, "code": "x", "ok": None, "n": None, "mixed": ["s", 1], "text": "null"},
]  # fmt: skip


def test_what_comes_out_is_what_went_in(ingest: Child) -> None:
    found = ingest("\n".join(json.dumps(row) for row in NESTED), "nested.jsonl")
    data, json_columns = found.out / "data.parquet", found.version["json_columns"]
    text = b"".join(export(data, "jsonl", json_columns)).decode()
    assert [json.loads(line) for line in text.splitlines()] == NESTED
    assert '"id": 100000000000000000000' in text and '"n": 1.0' in text and '"ok": true' in text
    again = ingest(text, "again.jsonl")
    assert again.frame.equals(found.frame)
    table = pq.read_table(io.BytesIO(b"".join(export(data, "parquet", json_columns))))
    assert table["messages"].to_pylist() == [row["messages"] for row in NESTED]
    assert table["mixed"].to_pylist() == ["7", "seven", '["s", 1]'], "no type of Parquet holds all three"
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    assert ingest(buffer.getvalue(), "back.parquet").frame["messages"].equals(found.frame["messages"])


def test_options_mean_the_same_in_every_form() -> None:
    options = ReadOptions(
        shape="question_answer", mapping={"question": 'a,"b', "answer": "c=d"}, columns=['a,"b', "c=d"], header_row=2, delimiter="tab",
    )  # fmt: skip
    assert ReadOptions.model_validate(options_among(as_query(options).items())) == options
    repeated = [("columns", "a"), ("columns", "b"), ("mapping", "question=a"), ("mapping", "answer=b"), ("name", "x")]
    found = ReadOptions.model_validate(options_among(repeated))
    assert (found.columns, found.mapping) == (["a", "b"], {"question": "a", "answer": "b"})


@pytest.mark.parametrize(
    "text", ["a\rb", 'a"\nb', "{" * 100_000, '{"a": "\\ud800"}', '{"question": "a\\u0000"}', "x" * 200_000]
)
def test_a_mapping_that_cannot_be_read_is_refused_with_its_place(text: str) -> None:
    with pytest.raises(ValidationError) as caught:
        ReadOptions.model_validate({"mapping": text})
    assert [problem["loc"] for problem in caught.value.errors()] == [("mapping",)]


@pytest.mark.parametrize("odd", [
    {"columns": None, "index": [], "data": [["q", "a"]]},
    {"columns": 5, "data": [["q"]]},
    {"columns": ["q"], "index": None, "data": [["x"]]},
])  # fmt: skip
def test_json_that_is_nearly_what_pandas_writes_is_read_or_refused(ingest: Child, odd: dict[str, Any]) -> None:
    found = ingest(json.dumps(odd), "x.json", ok=False)
    assert found.code in (0, 2) and "Traceback" not in found.stderr


def test_title_lines_of_a_list_are_named(ingest: Child) -> None:
    found = ingest(json.dumps([["My data", None], ["question", "answer"], *PAIRS]), "x.json")
    assert found.finding("title_lines") and found.frame.rows() == PAIRS


def test_rows_without_a_split_are_counted_together(ingest: Child) -> None:
    words = ["train"] * 16 + ["", None, "", None]
    rows = [{**row, "fold": word} for row, word in zip(ROWS, words, strict=True)]
    layout = ingest(json.dumps(rows), "x.json", options={"split": "fold"}).version["layout"]
    assert (layout["splits"], layout["num_held_out"]) == ({"train": 16, "": 4}, 4)


@pytest.mark.parametrize("name", ["unicode_escape", "raw-unicode-escape", "idna", "punycode"])
def test_what_is_no_encoding_of_files_is_refused(name: str) -> None:
    with pytest.raises(ValidationError, match="there is no encoding"):
        ReadOptions.model_validate({"encoding": name})
