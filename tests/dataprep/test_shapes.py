"""Row shapes: recognised from names and values, chosen by the user, turned into chat messages."""

from __future__ import annotations

import json

import pytest

from tests.dataprep.conftest import Child
from tunesmith.core.errors import BadData
from tunesmith.dataprep.conversion import convert
from tunesmith.dataprep.shapes import SHAPES, recognise

TURNS = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
SAID = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]
ONE_OF_EACH: dict[str, dict[str, object]] = {
    "input_output": {"input": "a", "output": "b"},
    "alpaca": {"instruction": "a", "input": "", "output": "b"},
    "prompt_completion": {"prompt": "a", "completion": "b"},
    "question_answer": {"Question": "a", "ANSWER": "b"},
    "messages": {"messages": TURNS},
    "conversations": {"id": 1, "conversations": SAID},
    "text": {"text": "a"},
    "text_label": {"text": "a", "label": "x"},
    "preference": {"prompt": "a", "chosen": "b", "rejected": "c"},
    "tokens_tags": {"tokens": ["EU", "rejects"], "ner_tags": ["B-ORG", "O"]},
    "tabular": {"sepal": 1.5, "petal": 2},
}
OTHER_NAMES = [
    (["Query", "Response"], "input_output", {"input": "Query", "output": "Response"}),
    (["Instruction", "Output"], "alpaca", {"instruction": "Instruction", "output": "Output"}),
    (["instruction", "context", "response"], "alpaca", {"instruction": "instruction", "input": "context", "output": "response"}),
    (["sentence", "Category"], "text_label", {"text": "sentence", "label": "Category"}),
    (["words", "labels"], "tokens_tags", {"tokens": "words", "tags": "labels"}),
    (["q", "a"], "question_answer", {"question": "q", "answer": "a"}),
    (["Content"], "text", {"text": "Content"}),
    (["dialog"], "messages", {"messages": "dialog"}),
]  # fmt: skip


@pytest.mark.parametrize("shape", ONE_OF_EACH)
def test_each_shape_is_recognised_in_a_file(ingest: Child, shape: str) -> None:
    row = ONE_OF_EACH[shape]
    answer = ingest("\n".join(json.dumps(row) for _ in range(3)), "rows.jsonl")
    assert answer.version["shape"] == shape
    assert set(answer.version["mapping"]) <= set(SHAPES[shape].roles)
    assert set(answer.version["mapping"].values()) <= set(row)
    assert answer.version["type"] == ("tabular" if shape == "tabular" else "text")
    assert answer.report["valid"], answer.report["findings"]


@pytest.mark.parametrize(("columns", "shape", "mapping"), OTHER_NAMES)
def test_other_names_mean_the_same(columns: list[str], shape: str, mapping: dict[str, str]) -> None:
    found = recognise(columns, {})
    assert (found.shape, found.mapping, found.missing) == (shape, mapping, [])


def test_a_column_called_messages_that_holds_numbers_is_none() -> None:
    assert recognise(["messages", "user"], {"messages": 12, "user": "x"}).shape == "tabular"


def test_missing_column_is_said_in_these_words(ingest: Child) -> None:
    answer = ingest("input,extra\nWhat?,1\n", "a.csv")
    finding = answer.finding("missing_column")
    assert finding["message"] == "Missing required 'output' column"
    assert (finding["level"], finding["column"]) == ("error", "output")
    assert not answer.report["valid"]
    assert answer.version["num_errors"] == 1


def test_the_users_mapping_wins_and_is_checked(ingest: Child) -> None:
    content = "frage,antwort,input,output\na,b,c,d\n"
    mapping = {"question": "frage", "answer": "antwort"}
    answer = ingest(content, "a.csv", options={"shape": "question_answer", "mapping": mapping})
    assert (answer.version["shape"], answer.version["mapping"]) == ("question_answer", mapping)
    wrong_column = {"question": "frage", "answer": "nowhere"}
    error = ingest(content, "a.csv", ok=False, options={"shape": "question_answer", "mapping": wrong_column}).refused(
        "'nowhere'"
    )
    assert error["details"] == [{"loc": "mapping.answer", "message": "unknown column"}]
    ingest(content, "a.csv", ok=False, options={"shape": "question_answer", "mapping": {"reply": "frage"}}).refused(
        "'reply'"
    )
    ingest(content, "a.csv", ok=False, options={"shape": "haiku"}).refused("'haiku'")
    half = ingest(content, "a.csv", options={"shape": "question_answer", "mapping": {"question": "frage"}})
    assert half.finding("missing_column")["message"] == "Missing required 'answer' column"


def test_a_new_mapping_makes_a_new_version_of_the_same_rows(child: Child, ingest: Child) -> None:
    first = ingest("q1,q2\na,b\nc,d\n", "a.csv")
    assert first.version["shape"] == "tabular"
    mapping = {"input": "q1", "output": "q2"}
    second = child(action="remap", version_dir=str(first.out), options={"shape": "input_output", "mapping": mapping})
    assert second.code == 0, second.error or second.stderr
    assert second.version["mapping"] == mapping
    assert second.version["digest"] != first.version["digest"]
    assert second.frame.equals(first.frame)


def test_rows_of_every_conversational_shape_become_messages() -> None:
    asked, answered = TURNS[0]["content"], TURNS[1]["content"]
    for shape, row in (
        ("input_output", {"input": asked, "output": answered}),
        ("prompt_completion", {"prompt": asked, "completion": answered}),
        ("question_answer", {"question": asked, "answer": answered}),
        ("preference", {"prompt": asked, "chosen": answered, "rejected": "no"}),
        ("preference", {"prompt": asked, "chosen": json.dumps(TURNS), "rejected": "[]"}),
        ("alpaca", {"instruction": asked, "output": answered}),
        ("messages", {"messages": json.dumps(TURNS)}),
        ("messages", {"messages": TURNS}),
        ("conversations", {"conversations": json.dumps(SAID)}),
    ):
        assert convert(row, shape, {role: role for role in row}).messages == TURNS, shape
    alpaca = convert(
        {"instruction": "Sum", "input": "1 2", "output": "3"},
        "alpaca",
        {r: r for r in ("instruction", "input", "output")},
    )
    assert alpaca.messages[0]["content"] == "Sum\n\n1 2"


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        ("[]", "empty"),
        ("not a list", "not a list"),
        ('["hi"]', "Message 1"),
        ('[{"role": "wizard", "content": "x"}]', "'wizard'"),
        ('[{"role": "user", "content": "x"}]', "no answer"),
        ('[{"role": "assistant", "content": "  "}]', "no answer"),
        (None, "empty"),
    ],
)
def test_what_is_no_conversation_is_bad_data(cell: str | None, words: str) -> None:
    with pytest.raises(BadData, match=words):
        convert({"messages": cell}, "messages", {"messages": "messages"})
