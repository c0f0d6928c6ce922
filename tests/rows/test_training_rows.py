"""Which rows a job tokenizes, holds out and names, and what its model learns to stop with."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.recipes.ground import Ground, events, params_of, train
from tests.rows.chat_templates import CHATML, NO_END
from tests.tiny import make_tokenizer
from tunesmith.core.errors import JobFailure
from tunesmith.dataprep.repair import repair
from tunesmith.recipes.blocks.chat import learned_end_ids
from tunesmith.recipes.blocks.data import load_rows
from tunesmith.recipes.blocks.endings import ends_in
from tunesmith.recipes.blocks.held_out import load_split
from tunesmith.recipes.blocks.loading import load_tokenizer
from tunesmith.recipes.blocks.split import contents_of, needed_rows, split_by_content, split_rows
from tunesmith.schemas.datasets import RepairRequest


@pytest.fixture
def ground(tmp_path: Path, tiny_model: Path) -> Ground:
    return Ground(tmp_path, tiny_model)


@given(st.lists(st.integers(0, 12), min_size=1, max_size=80), st.sampled_from([0.05, 0.1, 0.3, 0.6]), st.integers(0, 9))
def test_equal_rows_stay_on_one_side(contents: list[int], share: float, seed: int) -> None:
    ours = np.array(contents, dtype=np.uint64)
    kept, held_out = split_by_content(ours, share, seed)
    assert sorted([*kept, *held_out]) == list(range(len(contents)))
    assert not set(ours[kept]) & set(ours[held_out]) and len(kept)
    assert bool(len(held_out)) == (len(set(contents)) > 1)
    if len(set(contents)) == len(contents):
        assert held_out.tolist() == split_rows(len(contents), share, seed)[1].tolist()


DOUBLES = [{"question": f"of user {n % 20}", "answer": f"the answer {n % 20}"} for n in range(100)]


def split_of(ground: Ground, rows: list[dict[str, Any]], **params: Any) -> tuple[Any, Any, Any]:
    """`(run, (rows, training places), (rows, held-out places))`"""
    run = ground.run(rows, **params)
    tokens, training, held_out, _ = load_split(run, params_of(run), load_tokenizer(run.spec.model.path), load_rows)
    return run, (tokens, training), held_out


def test_held_out_rows_are_not_learned_unless_it_is_said(ground: Ground) -> None:
    run, (rows, training), (_, held_out) = split_of(ground, DOUBLES, split_by="content", max_length=64)
    learned = {rows.row(int(place))[0].tobytes() for place in training}
    assert len(held_out) == 10 and not [p for p in held_out if rows.row(int(p))[0].tobytes() in learned]
    assert not [e for e in events(run, "notice") if e.code == "held_out_in_training"]
    run, _, (_, held_out) = split_of(ground, DOUBLES, split_by="rows", max_length=64)
    (notice,) = [e for e in events(run, "notice") if e.code == "held_out_in_training"]
    assert notice.message.startswith("10 of 10 held-out rows are trained on too") and "split_by: content" in notice.hint


def test_what_the_data_itself_holds_out_is_held_out(ground: Ground) -> None:
    rows = [
        {"question": f"of user {n}", "answer": "the answer", "split": "test" if n % 4 == 0 else "train"}
        for n in range(40)
    ]
    run = ground.run(rows, max_length=64, split_by="file")
    data = run.spec.dataset
    assert data is not None
    told = data.model_copy(update={"split_column": "split", "num_held_out": 10})
    run.spec = run.spec.model_copy(update={"dataset": told})
    tokens, training, (_, held_out), _ = load_split(run, params_of(run), load_tokenizer(run.spec.model.path), load_rows)
    assert tokens.numbers[held_out].tolist() == list(range(0, 40, 4)) and len(training) == 30
    run.spec = run.spec.model_copy(update={"params": {**run.spec.params, "split_by": "content"}})
    _, training, (_, held_out), _ = load_split(run, params_of(run), load_tokenizer(run.spec.model.path), load_rows)
    assert len(held_out) == 4, "a tenth, when that is asked for"


def test_a_job_of_before_splits_as_it_did(ground: Ground) -> None:
    _, (rows, training), (_, held_out) = split_of(ground, DOUBLES, max_length=64, seed=3)
    expected = split_rows(len(rows), 0.1, 3)
    assert training.tolist() == expected[0].tolist() and held_out.tolist() == expected[1].tolist()


def test_few_steps_tokenize_few_rows(ground: Ground) -> None:
    rows = [{"question": f"of user {n}", "answer": f"the answer {n}"} for n in range(4000)]
    _, (tokens, training), (_, held_out) = split_of(
        ground, rows, split_by="content", max_steps=5, batch_size=4, validation_split=0.005, max_length=64
    )
    assert len(held_out) == 20 and 20 <= len(training) < 120 and len(tokens) == len(training) + len(held_out)
    assert tokens.numbers[held_out].tolist() == split_rows(4000, 0.005, 42)[1].tolist()
    assert needed_rows(np.arange(50), 20, 1).tolist() == list(range(50))


def test_rows_that_lose_their_end_stop_a_job_that_does_not_allow_it(ground: Ground) -> None:
    rows = [{"question": "why", "answer": "the answer " * 30}] * 20
    with pytest.raises(JobFailure, match="20 of 20 rows are longer than max_length=32") as failure:
        split_of(ground, rows, allow_truncation=False, max_length=32)
    assert failure.value.failure == "bad_data" and "allow_truncation: true" in failure.value.hint
    run, *_ = split_of(ground, rows, allow_truncation=True, max_length=32)
    assert {e.code for e in events(run, "notice")} == {"rows_cut"}


def test_unused_columns_that_mean_something_are_named(ground: Ground) -> None:
    rows = [{"question": f"q {n}", "answer": "a", "weight": n, "note": "x"} for n in range(9)]
    run, *_ = split_of(ground, rows, max_length=64)
    (notice,) = [e for e in events(run, "notice") if e.code == "unused_columns"]
    assert "weight" in notice.message and "note" not in notice.message


def test_bad_answers_are_left_out_and_counted(ground: Ground) -> None:
    rows = [{"prompt": f"q {n}", "completion": "the answer", "label": n % 2 == 0} for n in range(20)]
    roles = {role: role for role in rows[0]}
    run, (tokens, _), _ = split_of(ground, rows, shape="kto", mapping=roles, max_length=64)
    assert (tokens.numbers % 2 == 0).all() and len(tokens) == 10
    assert next(e for e in events(run, "notice") if e.code == "rated_bad").message.startswith("10 of 20")


def test_the_learned_end_mark_joins_what_stops_the_model(tmp_path: Path, tiny_model: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_model, base)
    tokenizer = make_tokenizer()
    tokenizer.eos_token = "<|endoftext|>"  # of the base; the template ends turns with another
    tokenizer.chat_template = CHATML
    tokenizer.save_pretrained(base)
    config = json.loads((base / "generation_config.json").read_text())
    (base / "generation_config.json").write_text(json.dumps({**config, "eos_token_id": 0}))
    run = Ground(tmp_path, base).run(
        max_steps=1, batch_size=2, max_length=64, validation_split=0.0, eval_steps=1, save_steps=1
    )
    assert train(run) == "completed"
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert ends_in(run.dir.artifacts / "lora_model") == {0, end}
    tokenizer.chat_template = NO_END
    assert learned_end_ids(tokenizer) == [tokenizer.eos_token_id]


@pytest.mark.parametrize(("which", "answers"), [("first", ["H", "x"]), ("each", ["H", "hydrogen", "x"])])
def test_lists_of_answers_become_one_answer_a_row(tmp_path: Path, which: Any, answers: list[str]) -> None:
    table = pa.table({"question": ["q", "r"], "answer": ['["H", "hydrogen"]', "x"]})
    pq.write_table(table, tmp_path / "data.parquet")
    mapping = {"question": "question", "answer": "answer"}
    frame, (step,) = repair(tmp_path / "data.parquet", "question_answer", mapping, RepairRequest(answer_lists=which))
    assert frame["answer"].to_list() == answers and step.rows_changed == 1 and step.examples[0]["row"] == 1


def test_contents_are_of_what_is_learned(tmp_path: Path) -> None:
    table = pa.table({"question": ["q", " q ", "q"], "answer": ["a", "a", "b"], "note": ["1", "2", "3"]})
    pq.write_table(table, tmp_path / "data.parquet")
    found = contents_of(tmp_path / "data.parquet", {"question": "question", "answer": "answer"})
    assert found[0] == found[1] != found[2]
