"""What a file says is what the model learns: every row of the corpus, through the reader, under three templates."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from tests.rows.chat_templates import tokenizer_of
from tests.rows.corpus import CASES, TOOL_ROWS, Case
from tunesmith.core.errors import BadData
from tunesmith.dataprep.conversion import Example, convert
from tunesmith.dataprep.json_files import read_jsonl
from tunesmith.dataprep.shapes import recognise
from tunesmith.dataprep.tables import FileReading
from tunesmith.recipes.blocks.chat import Chat, Lesson, Options
from tunesmith.recipes.blocks.lessons import encode
from tunesmith.recipes.blocks.templates import Renderer
from tunesmith.recipes.blocks.tool_text import with_tools

ENDS = {"qwen25": "<|im_end|>", "llama3": "<|eot_id|>", "vicuna": "</s>"}
"""Templates of the corpus, with their end marks; the last has no place for functions."""


@pytest.fixture(scope="module", params=list(ENDS))
def chat(request: pytest.FixtureRequest) -> Iterator[tuple[str, Any, Chat]]:
    tokenizer = tokenizer_of(request.param)
    with Renderer(tokenizer) as template:
        yield request.param, tokenizer, Chat(tokenizer, template, Options())


def stored(row: dict[str, Any], folder: Path) -> tuple[str, Example]:
    """The row as it comes out of a file: its shape, and what is learned from it. Raises `BadData`."""
    path = folder / "rows.jsonl"
    path.write_text(json.dumps(row, ensure_ascii=False) + "\n")
    tables = list(read_jsonl(path, FileReading()))
    frame = pl.DataFrame(pl.from_arrow(tables[0]))
    cells = frame.row(0, named=True)
    found = recognise(frame.columns, cells)
    assert not found.missing
    return found.shape, convert(cells, found.shape, found.mapping)


def learned(lesson: Lesson, tokenizer: Any) -> list[str]:
    """The stretches of tokens that are learned, as text."""
    (tokens,) = encode([lesson], tokenizer)
    cuts = np.flatnonzero(np.diff(np.concatenate([[False], tokens.learn, [False]]).astype(int)))
    return [tokenizer.decode(tokens.ids[a:b]) for a, b in zip(cuts[::2], cuts[1::2], strict=True)]


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_a_row_teaches_its_answers_and_nothing_else(case: Case, chat: tuple[str, Any, Chat], tmp_path: Path) -> None:
    name, tokenizer, made = chat
    if case.learned is None:
        with pytest.raises(BadData):
            stored(case.row, tmp_path)
        return
    shape, example = stored(case.row, tmp_path)
    assert shape == case.shape
    (lessons,) = made.lessons([example])
    assert not isinstance(lessons, BadData) and len(lessons) == 1
    # the blank that Vicuna's prompt ends with may be part of an answer's first token, which is learned whole
    found = [text.removeprefix(" ") if name == "vicuna" else text for text in learned(lessons[0], tokenizer)]
    assert found == [answer + ENDS[name] for answer in case.learned]
    (tokens,) = encode(lessons, tokenizer)
    plain = tokenizer.apply_chat_template(example.messages, tokenize=True, return_dict=False)
    assert tokens.ids.tolist() == list(plain)
    assert all(text in lessons[0].text for text in case.read)
    assert not [text for text in case.absent if text in lessons[0].text]


@pytest.mark.parametrize("name", TOOL_ROWS)
@pytest.mark.parametrize(("template", "call", "end"), [
    ("qwen25", '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>', "<|im_end|>"),
    ("llama3", '{"name": "weather", "parameters": {"city": "Rome"}}', "<|eot_id|>"),
    ("mistral_tools", '[TOOL_CALLS] [{"name": "weather", "arguments": {"city": "Rome"}, "id": "call00001"}]', "</s>"),
])  # fmt: skip
def test_calls_are_learned_and_what_functions_say_is_not(
    name: str, template: str, call: str, end: str, tmp_path: Path
) -> None:
    tokenizer = tokenizer_of(template)
    _, example = stored(TOOL_ROWS[name], tmp_path)
    with Renderer(tokenizer) as renderer:
        (lessons,) = Chat(tokenizer, renderer, Options(tool_calls="template")).lessons([example])
    assert not isinstance(lessons, BadData)
    answers = [call, "Sunny."] if len(example.messages) > 2 else [call]
    # the newline before Qwen's call is what the prompt ends with
    assert [text.strip() for text in learned(lessons[0], tokenizer)] == [answer + end for answer in answers]
    assert ("weather" in lessons[0].text.partition("W?")[0]) == bool(example.tools)
    assert "sunny" in lessons[0].text or name == "ends in a call"
    if template == "mistral_tools":
        return  # its own way of saying the same is not what is in the file
    (tokens,) = encode(lessons, tokenizer)
    told = {"tools": example.tools} if example.tools else {}
    assert tokens.ids.tolist() == list(
        tokenizer.apply_chat_template(example.messages, tokenize=True, return_dict=False, **told)
    )


@pytest.mark.parametrize("name", TOOL_ROWS)
def test_a_template_without_a_place_for_functions_is_refused_or_helped(name: str, tmp_path: Path) -> None:
    tokenizer = tokenizer_of("vicuna")
    _, example = stored(TOOL_ROWS[name], tmp_path)
    with Renderer(tokenizer) as renderer:
        (refused,) = Chat(tokenizer, renderer, Options(tool_calls="template")).lessons([example])
        (lessons,) = Chat(tokenizer, renderer, Options(tool_calls="text")).lessons([example])
    assert (
        isinstance(refused, BadData)
        and "no place for functions" in refused.message
        and "tool_calls: ready" in refused.hint
    )
    assert not isinstance(lessons, BadData)
    call = '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call></s>'
    assert learned(lessons[0], tokenizer)[0].lstrip() == call
    ready = tokenizer.apply_chat_template(
        example.messages, tools=example.tools or None, tokenize=False, chat_template=with_tools(tokenizer.chat_template)
    )
    assert ready == lessons[0].text


def test_a_bad_rating_is_told(tmp_path: Path) -> None:
    for label in (False, "false", 0):
        shape, example = stored({"prompt": "Q", "completion": "A", "label": label}, tmp_path)
        assert shape == "kto" and not example.is_good
    _, example = stored({"question": "q", "answer": {"n": 1}}, tmp_path)
    assert example.remarks == ("The answer is an object; it is learned as JSON.",)


def test_texts_carry_their_marks_once(chat: tuple[str, Any, Chat]) -> None:
    _, tokenizer, made = chat
    start, end = tokenizer.bos_token, tokenizer.eos_token
    plain, doubled = made.lessons([Example([], [], text="positive"), Example([], [], text=f"positive{end}")])
    assert plain[0].text == doubled[0].text and doubled[0].notes == {"doubled_marks"}
    said = [{"role": "user", "content": f"{start}Q"}, {"role": "assistant", "content": f"A{made.end_marks[0]}"}]
    clean = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
    twice, once = made.lessons([Example(said, [False, True]), Example(clean, [False, True])])
    assert twice[0].text == once[0].text and "doubled_marks" in twice[0].notes
