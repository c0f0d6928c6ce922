"""Before a job starts: true lengths, what becomes of the rows, what is refused, and the rows as the model reads them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import ServerProcess
from tests.ui.ground import TINY, add_tiny_model, upload
from tunesmith.core.errors import BadData, InvalidInput
from tunesmith.core.job_spec import DatasetRef, ModelRef
from tunesmith.recipes.inspection import ALL_UP_TO, Request, carry_out, sample_numbers
from tunesmith.recipes.row_check import RowFacts, checks, remarks

JAPANESE = [
    {"question": f"日本の首都はどこですか？第{n}問", "answer": f"日本の首都は東京です。番号{n}。"} for n in range(30)
]
PAIR = {"question": "question", "answer": "answer"}


def data_of(
    rows: list[dict[str, Any]], folder: Path, shape: str = "question_answer", mapping: dict[str, str] = PAIR
) -> DatasetRef:
    path = folder / "data.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=500)
    return DatasetRef(name="rows", path=str(path), digest="0" * 64, shape=shape, mapping=mapping, num_rows=len(rows))


def ask(action: str, data: DatasetRef, model: Path, folder: Path, **more: Any) -> Any:
    ref = ModelRef(name="tiny", path=str(model))
    carry_out(Request(action=action, data=data, model=ref, out_dir=str(folder / "out"), **more))
    return json.loads((folder / "out" / f"{action}.json").read_bytes())


def test_lengths_are_those_of_the_tokens(tiny_model: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    facts = RowFacts.model_validate(ask("facts", data_of(JAPANESE, tmp_path), tiny_model, tmp_path))
    talks = [
        [{"role": "user", "content": r["question"]}, {"role": "assistant", "content": r["answer"]}] for r in JAPANESE
    ]
    assert facts.lengths == [len(tokenizer.apply_chat_template(talk, return_dict=False)) for talk in talks]
    assert facts.is_whole and facts.end_marks == ["<|im_end|>"] and facts.num_bad == 0
    lengths = facts.row_lengths()
    assert (
        lengths is not None
        and lengths.is_counted
        and lengths.longest == max(facts.lengths)
        and lengths.whose == "30 rows"
    )


def test_of_many_rows_some_and_the_longest_are_looked_at(tiny_model: Path, tmp_path: Path) -> None:
    rows = [{"question": f"why {n}", "answer": "so " * (400 if n == 1777 else 2)} for n in range(ALL_UP_TO + 1000)]
    data = data_of(rows, tmp_path)
    numbers = sample_numbers(data, len(rows))
    assert 1777 in numbers and len(numbers) < 1500 and numbers.tolist() == sorted(set(numbers.tolist()))
    facts = RowFacts.model_validate(ask("facts", data, tiny_model, tmp_path))
    assert not facts.is_whole and facts.numbers == [n + 1 for n in numbers.tolist()]
    assert facts.row_lengths().longest > 400 and "that were looked at" in facts.row_lengths().whose
    assert "that were looked at (of 3,000)" in checks(facts, {"max_length": 64, "allow_truncation": False})[0].message


def test_what_a_length_costs_is_said_and_refused_above_a_few_per_cent() -> None:
    lengths = [40] * 90 + [70] * 10
    facts = RowFacts(num_rows=100, looked_at=100, numbers=list(range(1, 101)), lengths=lengths, firsts=[20] * 100,
                     ends=[n - 1 for n in lengths], notes={"no_end_mark": [3]}, bad=[], num_bad=0)  # fmt: skip
    cut, no_end = checks(facts, {"max_length": 64, "allow_truncation": False})
    assert (
        cut.is_refused
        and cut.message.startswith("10 of 100 rows are longer than max_length=64")
        and "10 lose their end" in cut.message
    )
    assert (
        "max_length to 128" in cut.hint
        and cut.rows[:2] == [91, 92]
        and no_end.code == "no_end_mark"
        and not no_end.is_refused
    )
    assert not checks(facts, {"max_length": 64, "allow_truncation": True})[0].is_refused
    assert not checks(facts.model_copy(update={"notes": {}}), {"max_length": 70, "allow_truncation": False})
    left_out = next(each for each in remarks(facts.tally(16), 16) if each.code == "rows_left_out")
    assert left_out.is_refused and left_out.message.startswith("100 of 100")


def test_rows_are_shown_token_by_token(tiny_model: Path, tmp_path: Path) -> None:
    rows = [{**row, "label": "x", "note": 1} for row in JAPANESE]
    found = ask("tokens", data_of(rows, tmp_path), tiny_model, tmp_path, rows=[2, 30], max_length=40)
    assert [row["row"] for row in found["rows"]] == [2, 30] and found["num_rows"] == 30
    assert found["used_columns"] == PAIR and found["unused_columns"] == ["label", "note"]
    (text,) = found["rows"][0]["texts"]
    assert "".join(token["text"] for token in text["tokens"]).startswith("<|im_start|>user\n日本の首都は")
    kinds = [token["kind"] for token in text["tokens"]]
    assert kinds[0] == "masked" and kinds[40:] == ["cut"] * (text["num_tokens"] - 40) and text["loses_end"]
    assert text["tokens"][0]["special"] and not text["tokens"][1]["special"]
    with pytest.raises(InvalidInput, match="no row 31"):
        ask("tokens", data_of(rows, tmp_path), tiny_model, tmp_path, rows=[31])


def test_a_template_that_cannot_say_calls_is_refused_with_a_choice(tiny_model: Path, tmp_path: Path) -> None:
    calls = json.dumps(
        [
            {"role": "user", "content": "W?"},
            {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]},
        ]
    )
    data = data_of([{"messages": calls}], tmp_path, "messages", {"messages": "messages"})
    facts = RowFacts.model_validate(ask("facts", data, tiny_model, tmp_path, options={"tool_calls": "template"}))
    (refused,) = checks(facts, {"max_length": 64, "allow_truncation": True})
    assert refused.is_refused and "no place for functions" in refused.message and "tool_calls: ready" in refused.hint
    facts = RowFacts.model_validate(ask("facts", data, tiny_model, tmp_path, options={"tool_calls": "ready"}))
    assert not facts.bad and facts.lengths


def test_a_model_without_a_tokenizer_is_bad_data(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    from tunesmith.core.errors import JobFailure

    with pytest.raises((JobFailure, BadData), match="no tokenizer"):
        ask("facts", data_of(JAPANESE, tmp_path), tmp_path / "empty", tmp_path)


def test_the_plan_tells_and_refuses(start_server: Callable[..., ServerProcess], tiny_model: Path) -> None:
    server = start_server()
    add_tiny_model(server.home, tiny_model)
    japanese = upload(server, "j.jsonl", "japanese", "\n".join(json.dumps(row) for row in JAPANESE))
    body = {"model": TINY, "dataset_id": japanese, "method": "lora"}
    plan = server.client.post("/jobs/plan", json=body).json()
    shown = server.client.get(f"/datasets/{japanese}/tokens", params={"model": TINY, "rows": [1, 30]}).json()["rows"]
    longest = max(row["texts"][0]["num_tokens"] for row in shown)
    assert (
        plan["hyperparameters"]["max_length"] >= longest
        and "the longest of 30 rows has" in plan["reasons"]["max_length"]
    )
    assert plan["checks"] == []
    short = {**body, "hyperparameters": {"max_length": 32}}
    for path in ("/jobs/plan", "/jobs/"):
        refused = server.client.post(path, json=short)
        assert refused.status_code == 422 and "30 of 30 rows are longer" in refused.json()["details"][0]["message"]
        assert "allow_truncation: true" in refused.json()["hint"]
    short["hyperparameters"]["allow_truncation"] = True
    told = server.client.post("/jobs/plan", json=short).json()["checks"]
    assert {check["code"] for check in told} >= {"rows_cut"}
    pairs = "\n".join(json.dumps({"prompt": f"q{n}", "chosen": "a", "rejected": "b"}) for n in range(12))
    preference = {**body, "dataset_id": upload(server, "p.jsonl", "pairs", pairs)}
    refused = server.client.post("/jobs/plan", json=preference).json()
    assert "a better and a worse answer" in refused["details"][0]["message"] and "rated_rows: good" in refused["hint"]
    preference["hyperparameters"] = {"rated_rows": "good"}
    assert server.client.post("/jobs/plan", json=preference).status_code == 200
    assert server.client.get(f"/datasets/{japanese}/tokens", params={"model": "no/where"}).status_code == 404
    assert server.client.get(f"/datasets/{japanese}/tokens", params={"model": TINY, "rows": 99}).status_code == 422
