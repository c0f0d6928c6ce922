"""Rows → tokens and labels: what is learned, what is not, what is refused, and what is kept for the next time."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import datasets
from tests.recipes.ground import Ground, events, params_of
from tests.tiny import make_tokenizer
from tunesmith.core.errors import BadData, JobFailure
from tunesmith.engine.packing import IGNORE, count_supervised
from tunesmith.recipes.blocks.data import load_rows
from tunesmith.recipes.blocks.loading import load_tokenizer
from tunesmith.recipes.blocks.split import split_rows
from tunesmith.recipes.blocks.token_rows import TokenRows, write_rows
from tunesmith.worker.run import Run

TALK = [
    {"role": "user", "content": "first of user"},
    {"role": "assistant", "content": "one"},
    {"role": "user", "content": "second of user"},
    {"role": "assistant", "content": "two"},
]
ONLY_LAST_THINKS = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{% if m.role == 'assistant' and loop.last %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{{ m.content + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""Writes earlier answers in another way than the last one, as Qwen3's template does."""
PROMPT_THINKS = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}"
)
"""Begins a thought in the generation prompt that finished answers do not show, as DeepSeek-R1's does."""
NEEDS_A_MESSAGE = "{{ '[' + messages[0].role[:0] }}" + PROMPT_THINKS.replace("<think>\n", "")
REFUSES = "{{ raise_exception('Conversation roles must alternate') }}"


def load(run: Run, tokenizer: Any = None) -> TokenRows:
    return load_rows(run, run.spec.dataset, tokenizer or load_tokenizer(run.spec.model.path), params_of(run))


def learned(rows: TokenRows, tokenizer: Any, index: int = 0) -> list[str]:
    """The stretches of a row that are learned, as text."""
    ids, labels = rows.row(index)
    stretches: list[list[int]] = []
    for place, (token, label) in enumerate(zip(ids, labels, strict=True)):
        if label != IGNORE:
            if not place or labels[place - 1] == IGNORE:
                stretches.append([])
            stretches[-1].append(token)
    return [tokenizer.decode(stretch) for stretch in stretches]


@pytest.mark.parametrize(("shape", "row", "answer"), [
    ("question_answer", {"question": "why", "answer": "so"}, "so"),
    ("input_output", {"input": "why", "output": "so"}, "so"),
    ("prompt_completion", {"prompt": "why", "completion": "so"}, "so"),
    ("alpaca", {"instruction": "say", "input": "why", "output": "so"}, "so"),
    ("preference", {"prompt": "why", "chosen": "so", "rejected": "no"}, "so"),
    ("messages", {"messages": TALK[:2]}, "one"),
    ("conversations", {"conversations": [{"from": "human", "value": "why"}, {"from": "gpt", "value": "so"}]}, "so"),
])  # fmt: skip
def test_every_shape_learns_the_answer_and_its_end(
    ground: Ground, shape: str, row: dict[str, Any], answer: str
) -> None:
    run = ground.run([row], shape=shape, mapping={role: role for role in row})
    tokenizer = make_tokenizer()
    rows = load(run, tokenizer)
    assert learned(rows, tokenizer) == [f"{answer}<|im_end|>"]
    assert "why" in tokenizer.decode(rows.row(0)[0]) or shape == "messages"
    assert "no" not in tokenizer.decode(rows.row(0)[0])


@pytest.mark.parametrize(("template", "answers"), [
    (None, ["one<|im_end|>", "two<|im_end|>"]),
    (ONLY_LAST_THINKS, ["one<|im_end|>", "<think>\n\n</think>\n\ntwo<|im_end|>"]),
    (PROMPT_THINKS, ["one<|im_end|>", "two<|im_end|>"]),
])  # fmt: skip
def test_a_talk_learns_every_answer_and_no_question(ground: Ground, template: str | None, answers: list[str]) -> None:
    run = ground.run([{"messages": TALK}], shape="messages", mapping={"messages": "messages"})
    tokenizer = make_tokenizer()
    tokenizer.chat_template = template or tokenizer.chat_template
    got = learned(load(run, tokenizer), tokenizer)
    assert got[-1:] == answers[-1:] and set(got) <= set(answers)
    if template is not PROMPT_THINKS:
        assert got == answers


def test_an_answer_may_come_first(ground: Ground) -> None:
    talk = [{"role": "assistant", "content": "one"}, *TALK[2:]]
    run = ground.run([{"messages": talk}], shape="messages", mapping={"messages": "messages"})
    tokenizer = make_tokenizer()
    tokenizer.chat_template = NEEDS_A_MESSAGE
    assert learned(load(run, tokenizer), tokenizer) == ["one<|im_end|>", "two<|im_end|>"]


def test_all_learns_every_token_after_the_first(ground: Ground) -> None:
    run = ground.run([{"question": "why", "answer": "so"}], train_on="all")
    rows = load(run)
    assert rows.num_supervised.tolist() == [rows.lengths[0] - 1]


def test_text_ends_and_opens_as_the_model_expects(ground: Ground) -> None:
    from tokenizers.processors import TemplateProcessing

    run = ground.run([{"text": "of user and"}], shape="text", mapping={"text": "text"})
    tokenizer = make_tokenizer()
    assert tokenizer.decode(load(run, tokenizer).row(0)[0]) == "of user and<|im_end|>"
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", tokenizer.bos_token_id)]
    )
    assert tokenizer.decode(load(run, tokenizer).row(0)[0]) == "<|im_start|>of user and<|im_end|>"


def test_the_system_prompt_stands_where_there_is_none(ground: Ground) -> None:
    own = [{"role": "system", "content": "own words"}, *TALK[:2]]
    run = ground.run(
        [{"messages": own}, {"messages": TALK[:2]}], shape="messages", mapping={"messages": "messages"},
        system_prompt="be kind",
    )  # fmt: skip
    rows, tokenizer = load(run), make_tokenizer()
    first, second = (tokenizer.decode(rows.row(i)[0]) for i in (0, 1))
    assert (
        "own words" in first and "be kind" not in first and second.startswith("<|im_start|>system\nbe kind<|im_end|>")
    )


def test_a_template_that_refuses_names_the_row(ground: Ground) -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = REFUSES
    with pytest.raises(JobFailure) as failure:
        load(ground.run([{"question": "why", "answer": "so"}]), tokenizer)
    assert failure.value.failure == "bad_data" and failure.value.details[0]["row"] == 1
    assert "roles must alternate" in failure.value.message


@pytest.mark.parametrize("content", [None, "{", "{}", '{"version": "1.0", "model": {"type": "X"}}'])
def test_a_model_folder_without_a_tokenizer_is_told(tiny_model: Path, tmp_path: Path, content: str | None) -> None:
    shutil.copytree(tiny_model, folder := tmp_path / "tiny", ignore=shutil.ignore_patterns("tokenizer*", "special*"))
    if content is not None:
        (folder / "tokenizer.json").write_text(content)
    with pytest.raises(JobFailure, match="tiny has no tokenizer that can be read") as failure:
        load_tokenizer(str(folder), offline=True)
    assert failure.value.failure == "model_not_found" and "tokenizer.json" in failure.value.hint


def test_long_rows_are_cut_and_rows_without_answer_left_out(ground: Ground) -> None:
    pairs = [{"question": "of user " * 60, "answer": "so"}, {"question": "why", "answer": "and the answer " * 60},
             {"question": "why", "answer": "so"}]  # fmt: skip
    run = ground.run(pairs, max_length=32)
    rows = load(run)
    assert rows.lengths[0] == 32 and len(rows) == 2 and rows.lengths[1] < 32
    assert {e.code: e.message.split()[0] for e in events(run, "notice")} == {"rows_cut": "2", "rows_left_out": "1"}
    with pytest.raises(JobFailure, match="No row of rows is left") as failure:
        load(ground.run(pairs[:1], max_length=16))
    assert failure.value.failure == "bad_data"


def test_tokens_are_made_once_for_the_same_everything(ground: Ground) -> None:
    pairs = [{"question": f"why {i}", "answer": "so"} for i in range(5)]
    tokenizer, other = make_tokenizer(), make_tokenizer()
    other.chat_template = PROMPT_THINKS
    begins, marked = make_tokenizer(), make_tokenizer()
    begins.bos_token = "<|endoftext|>"
    marked.unk_token = "<|endoftext|>"

    def phases(tokenizer: Any, **params: Any) -> int:
        run = ground.run(pairs, **params)
        load(run, tokenizer)
        return sum(event.phase == "tokenizing" for event in events(run, "phase"))

    assert [phases(tokenizer), phases(tokenizer, learning_rate=1e-5)] == [1, 0]
    assert [phases(other), phases(tokenizer, max_length=64), phases(tokenizer, train_on="all")] == [1, 1, 1]
    assert phases(tokenizer, system_prompt="x") == 1 and phases(tokenizer) == 0
    assert [phases(begins), phases(marked), phases(begins), phases(tokenizer)] == [1, 1, 0, 0]


def test_several_processes_may_want_the_same_rows_at_once(ground: Ground) -> None:
    runs = [ground.run([{"question": f"why {i}", "answer": "so"} for i in range(200)]) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda run: load(run, make_tokenizer()), runs))
    assert all(rows.table.equals(found[0].table) and len(rows) == 200 for rows in found)
    assert not [path for path in (ground.folder / "cache" / "tokens").iterdir() if path.name.startswith(".")]


@given(num_rows=st.integers(1, 300), share=st.floats(0, 0.99), seed=st.integers(0, 2**32 - 1))
def test_every_row_is_on_one_side_of_the_split(num_rows: int, share: float, seed: int) -> None:
    train, held_out = split_rows(num_rows, share, seed)
    assert sorted([*train, *held_out]) == list(range(num_rows)) and len(train)
    assert bool(len(held_out)) == (share > 0 and num_rows > 1)
    again = split_rows(num_rows, share, seed)
    assert (again[0] == train).all() and (again[1] == held_out).all()


@given(st.lists(st.lists(st.lists(st.booleans(), min_size=1, max_size=9), max_size=4), min_size=1, max_size=4))
def test_rows_are_read_as_they_were_written(tmp_path_factory: pytest.TempPathFactory, batches: list[Any]) -> None:
    counter, path = itertools.count(3, 2), tmp_path_factory.getbasetemp() / "rows.arrow"
    written = [[(next(counter), np.arange(len(m), dtype=np.int32), np.array(m)) for m in masks] for masks in batches]
    write_rows(path, written)
    rows, expected = TokenRows.open(path), list(itertools.chain(*written))
    assert len(rows) == len(expected) and rows.numbers.tolist() == [number for number, _, _ in expected]
    for index, (_, ids, learn) in enumerate(expected):
        got_ids, labels = rows.row(index)
        assert got_ids.tolist() == ids.tolist() and labels.tolist() == np.where(learn, ids, IGNORE).tolist()
        assert rows.lengths[index] == len(ids) and rows.num_supervised[index] == count_supervised(labels)


def test_a_file_of_rows_is_whole_or_not_there(tmp_path: Path) -> None:
    def break_off() -> Iterator[list[Any]]:
        yield [(0, np.arange(3, dtype=np.int32), np.ones(3, bool))]
        raise BadData("the next row is no good")

    with pytest.raises(BadData):
        write_rows(tmp_path / "rows.arrow", break_off())
    assert list(tmp_path.iterdir()) == []


def test_datasets_reads_the_cache(ground: Ground) -> None:
    rows = load(ground.run([{"question": "why", "answer": "so"}]))
    (path,) = (ground.folder / "cache" / "tokens").glob("*.arrow")
    read = datasets.Dataset.from_file(str(path))
    assert read[0]["input_ids"] == rows.row(0)[0].tolist() and read.num_rows == 1
