"""Rows that cannot be used: named, repaired, or skipped on every side of a job."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.worker.job import Job, wait_until
from tunesmith.core.errors import BadData
from tunesmith.core.job_dir import write_atomic
from tunesmith.core.job_spec import Control, DatasetRef
from tunesmith.core.words import plural, rows_named
from tunesmith.dataprep.bad_rows import bad_rows, bad_rows_of
from tunesmith.dataprep.conversion import convert
from tunesmith.dataprep.repair import repair
from tunesmith.recipes.blocks.split import split_by_content, split_usable
from tunesmith.recipes.row_check import known_bad_rows
from tunesmith.schemas.datasets import RepairRequest

PAIR = {"question": "question", "answer": "answer"}
BAD = [3, 9, 10, 21]
PARAMS = {"max_steps": 6, "batch_size": 4, "learning_rate": 1e-2, "bf16": False, "validation_split": 0.25, "lora_r": 4,
          "split_by": "content", "save_steps": 100, "eval_steps": 100, "skip_bad_rows": True}  # fmt: skip


def rows_with_bad() -> dict[str, list[str | None]]:
    """24 rows: one without an answer, one of blanks, one without a question, one whose answer is a list."""
    asked: list[str | None] = [f"what is {n}" for n in range(1, 25)]
    said: list[str | None] = [f"it is {n * 3} of user" for n in range(1, 25)]
    said[2], said[8], asked[9], said[20] = None, "  ", None, '["one", "two"]'
    return {"question": asked, "answer": said}


def write(path: Path, columns: dict[str, list[Any]]) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


@pytest.fixture
def make_job(tmp_path: Path, tiny_model: Path) -> Callable[..., Job]:
    def make(name: str, columns: dict[str, list[Any]], digest: str, **params: Any) -> Job:
        path = write(tmp_path / f"{name}.parquet", columns)
        return Job(
            tmp_path / name, recipe="lora", params={**PARAMS, **params}, model={"name": "tiny", "path": str(tiny_model)},
            dataset={"name": "support", "path": str(path), "digest": digest * 32, "shape": "question_answer",
                     "mapping": PAIR, "num_rows": len(columns["question"])},
        )  # fmt: skip

    return make


def test_bad_rows_are_those_that_conversion_refuses(tmp_path: Path) -> None:
    columns = rows_with_bad()
    path = write(tmp_path / "data.parquet", columns)
    refused = []
    for number, row in enumerate(pl.DataFrame(columns).iter_rows(named=True), start=1):
        try:
            convert(row, "question_answer", PAIR)
        except BadData:
            refused.append(number)
    assert refused == BAD and bad_rows(path, "question_answer", PAIR).tolist() == BAD
    assert (np.flatnonzero(bad_rows_of(pl.DataFrame(columns), "question_answer", PAIR)) + 1).tolist() == BAD
    frame, steps = repair(path, "question_answer", PAIR, RepairRequest(drop_bad_rows=True))
    assert steps[0].rows_dropped == 4 and [e["row"] for e in steps[0].examples] == BAD
    assert bad_rows_of(frame, "question_answer", PAIR).sum() == 0 and frame.height == 20


def test_nulls_inside_a_conversation_are_repairable(tmp_path: Path) -> None:
    talk = [{"role": "user", "content": "Symbol of Helium?"}, {"role": "assistant", "content": "He"}]
    nothing = [talk[0], {"role": "assistant", "content": None}]
    path = write(tmp_path / "data.parquet", {"messages": [None, nothing, talk, json.dumps(talk)][:3]})
    mapping = {"messages": "messages"}
    assert bad_rows(path, "messages", mapping).tolist() == [1, 2]
    frame, _ = repair(path, "messages", mapping, RepairRequest(drop_empty=True))
    assert bad_rows_of(frame, "messages", mapping).sum() == 1, "dropping empty rows is not enough"
    frame, _ = repair(path, "messages", mapping, RepairRequest(drop_bad_rows=True))
    assert frame.height == 1 and bad_rows_of(frame, "messages", mapping).sum() == 0


def test_bad_rows_are_on_neither_side_of_the_split() -> None:
    contents = np.array([7, 1, 2, 3, 1, 4, 5, 6, 8, 9], dtype=np.uint64)
    data = DatasetRef(name="numbers", path="", digest="", shape="text", mapping={}, num_rows=len(contents))
    train, held_out = split_usable(data, contents, np.array([1, 4]), 0.25, 3, by="content")
    assert sorted([*train, *held_out]) == [1, 2, 4, 5, 6, 7, 8, 9] and len(held_out) == 2
    same = split_usable(data, contents, np.zeros(0, dtype=np.int64), 0.25, 3, by="content")
    assert all(np.array_equal(a, b) for a, b in zip(same, split_by_content(contents, 0.25, 3), strict=True))


def test_a_job_skips_them_as_if_they_were_not_there_and_resumes_to_the_last_digit(make_job: Callable[..., Job]) -> None:
    columns = rows_with_bad()
    clean = {name: [cell for n, cell in enumerate(cells, start=1) if n not in BAD] for name, cells in columns.items()}
    skipping = make_job("skipping", columns, "ab")
    assert skipping.run() == 0, skipping.log()
    (notice,) = [event for event in skipping.events("notice") if event.code == "rows_skipped"]
    assert notice.rows == BAD and notice.message == (
        "Skipped 4 rows of support that cannot be used for training: rows 3, 9, 10 and 21."
    )
    assert skipping.exit().metrics["rows_skipped"] == 4.0
    assert notice.message in (skipping.dir.artifacts / "report" / "report.html").read_text()

    plain = make_job("clean", clean, "ab", skip_bad_rows=False)
    assert plain.run() == 0, plain.log()
    losses = [event.loss for event in plain.events("step")]
    assert [event.loss for event in skipping.events("step")] == losses
    assert [e.loss for e in skipping.events("evaluation")] == [e.loss for e in plain.events("evaluation")] != []

    broken = make_job("broken", columns, "ab")
    process = broken.start()
    wait_until(lambda: broken.events("step"))
    write_atomic(broken.dir.control, Control(pause=True))
    assert process.wait(60) == 0 and broken.exit().outcome == "paused"
    write_atomic(broken.dir.control, Control())
    broken.launch(2)
    assert broken.run(2) == 0, broken.log()
    assert [event.loss for event in broken.events("step")] == losses
    assert broken.exit().metrics["rows_skipped"] == 4.0


def test_a_job_that_may_not_skip_them_names_them_with_the_remedy(make_job: Callable[..., Job]) -> None:
    job = make_job("strict", rows_with_bad(), "ef", skip_bad_rows=False)
    assert job.run() == 1
    failure = job.exit().failure
    assert failure.code == "bad_data" and [detail["row"] for detail in failure.details] == BAD
    assert failure.message.startswith(
        "4 rows of support cannot be used for training (rows 3, 9, 10 and 21). Row 3: The answer"
    )
    assert "skip_bad_rows: true" in failure.hint


def test_counts_are_spelled_as_people_do() -> None:
    assert (plural(1, "row"), plural(2000, "row"), plural(2, "entry", "entries")) == (
        "1 row",
        "2,000 rows",
        "2 entries",
    )
    assert rows_named([4]) == "row 4" and rows_named([4, 9]) == "rows 4 and 9"
    assert rows_named(range(1, 8)) == "rows 1, 2, 3, 4, 5 and 2 more" and rows_named([4], 166) == "rows 4 and 165 more"


@pytest.mark.parametrize(("lines", "named"), [([4], "line 4 of the file"), ([], "line 3 of the file")])
def test_lines_that_became_no_rows_are_named_alone(lines: list[int], named: str) -> None:
    finding = {
        "level": "error",
        "code": "bad_json",
        "message": "1 line was left out",
        "rows": [3],
        "lines": lines,
        "count": 1,
    }
    found = known_bad_rows([finding])
    assert found is not None and found.count == 0
    assert found.problem("x") == found.skipped("x") == f"1 line was left out ({named})."
    assert rows_named([]) == ""


@pytest.mark.parametrize("blank", ["\x1f", " \u3000\x1c ", ""])
def test_what_is_blank_for_training_is_blank_for_the_report(tmp_path: Path, blank: str) -> None:
    path = write(tmp_path / "x.parquet", {"question": ["q", blank, "q"], "answer": ["a", "b", "c"]})
    assert bad_rows(path, "question_answer", PAIR).tolist() == [2]
