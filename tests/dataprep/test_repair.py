"""Repairs make new versions and say what they did; equal content has an equal name."""

from __future__ import annotations

import io
import json

import polars as pl

from tests.dataprep.conftest import Answer, Child

ROWS = [
    {"input": "  What is the size of it?  ", "output": "Rather large"},
    {"input": "GrÃ¶ÃŸe und BlÃ¼te gesucht", "output": "schÃ¶n"},
    {"input": "Is this row a double?", "output": "Yes it is"},
    {"input": "Is this row a double?", "output": "Yes it is"},
    {"input": "Nothing comes after this", "output": "   "},
    {"input": "Short", "output": "An answer"},
    {"input": "A question of good length", "output": "no"},
    {"input": "x" * 2049, "output": "too long a question"},
    {"input": "A question of good length", "output": "y" * 1025},
    {"input": "0123456789", "output": "12345"},
]


def repaired(child: Child, version: Answer, **repairs: object) -> Answer:
    answer = child(action="repair", version_dir=str(version.out), repairs=repairs)
    assert answer.code == 0, answer.error or answer.stderr
    return answer


def as_jsonl(rows: list[dict[str, str]]) -> str:
    return "\n".join(json.dumps(row) for row in rows)


def test_each_repair_says_what_it_changed(child: Child, ingest: Child) -> None:
    version = ingest(as_jsonl(ROWS), "a.jsonl")
    every = {"fix_encoding": True, "strip": True, "drop_empty": True, "drop_duplicates": True, "length_bounds": True}
    answer = repaired(child, version, **every)
    steps = {step["repair"]: step for step in answer.version["changes"]}
    assert list(steps) == list(every)
    assert [steps[name]["rows_changed"] for name in ("fix_encoding", "strip")] == [1, 2]
    assert [steps[name]["rows_dropped"] for name in ("drop_empty", "drop_duplicates", "length_bounds")] == [1, 1, 4]
    assert answer.frame.rows() == [
        ("What is the size of it?", "Rather large"),
        ("Größe und Blüte gesucht", "schön"),
        ("Is this row a double?", "Yes it is"),
        ("0123456789", "12345"),
    ]
    example = steps["fix_encoding"]["examples"][0]
    assert example == {
        "row": 2,
        "before": {"input": "GrÃ¶ÃŸe und BlÃ¼te gesucht", "output": "schÃ¶n"},
        "after": {"input": "Größe und Blüte gesucht", "output": "schön"},
    }
    assert steps["drop_duplicates"]["examples"][0]["row"] == 4
    assert [e["row"] for e in steps["length_bounds"]["examples"]] == [6, 7, 8, 9]
    assert answer.version["digest"] != version.version["digest"]
    assert version.frame.to_dicts() == ROWS, "the older version is as it was"


def test_only_the_chosen_repairs_run_with_the_users_bounds(child: Child, ingest: Child) -> None:
    version = ingest(as_jsonl(ROWS), "a.jsonl")
    answer = repaired(
        child,
        version,
        length_bounds=True,
        min_input_chars=0,
        max_input_chars=5000,
        min_output_chars=0,
        max_output_chars=2000,
    )
    assert answer.version["changes"] == [
        {"repair": "length_bounds", "rows_changed": 0, "rows_dropped": 0, "examples": []}
    ]
    assert answer.frame.to_dicts() == ROWS
    assert answer.version["digest"] == version.version["digest"], "nothing changed, so it is the same version"


def test_repairs_that_would_leave_nothing_are_refused(child: Child, ingest: Child) -> None:
    version = ingest('input,output\n"a",""\n', "a.csv")
    child(action="repair", version_dir=str(version.out), repairs={"drop_empty": True}).refused("no rows")


def test_repairing_a_table_of_numbers(child: Child, ingest: Child) -> None:
    version = ingest('[{"n": 1, "m": 2}, {"n": 1, "m": 2}, {"n": null, "m": null}]', "a.json")
    every = {"fix_encoding": True, "strip": True, "drop_empty": True, "drop_duplicates": True, "length_bounds": True}
    assert repaired(child, version, **every).frame.rows() == [(1, 2)]


def test_equal_content_has_an_equal_name_whatever_the_file(ingest: Child) -> None:
    """CSV, JSON Lines, a spread-out JSON array and Parquet in parts: one content, one digest."""
    rows = [{"input": f"frage {i}, größer", "output": f"antwort {i}"} for i in range(500)]
    parquet = io.BytesIO()
    pl.DataFrame(rows).write_parquet(parquet, row_group_size=37, compression="gzip")
    files: dict[str, bytes] = {
        "a.csv": pl.DataFrame(rows).write_csv().encode(),
        "b.jsonl": as_jsonl(rows).encode(),
        "c.json": json.dumps(rows, indent=2).encode("utf-16"),
        "d.parquet": parquet.getvalue(),
    }
    digests = {ingest(content, name).version["digest"] for name, content in files.items()}
    assert len(digests) == 1
    rows[499]["output"] += "."
    changed = ingest(as_jsonl(rows), "e.jsonl").version["digest"]
    rows[499]["output"] = rows[499]["output"][:-1]
    swapped = ingest(as_jsonl([rows[1], rows[0], *rows[2:]]), "f.jsonl").version["digest"]
    renamed = ingest(as_jsonl([{"input": r["input"], "response": r["output"]} for r in rows]), "g.jsonl").version[
        "digest"
    ]
    assert len(digests | {changed, swapped, renamed}) == 4
