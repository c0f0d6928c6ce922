"""The ways in which known templates write turns: what is learned under each, and what is said of what cannot be."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.rows.chat_templates import TEMPLATES, tokenizer_of
from tests.rows.corpus import says, system, user
from tests.rows.test_corpus import learned
from tunesmith.core.errors import BadData
from tunesmith.dataprep.conversion import convert
from tunesmith.recipes.blocks.chat import Chat, Lesson, Options
from tunesmith.recipes.blocks.templates import Renderer

TWO = [user("Capital of France?"), says("Paris"), user("And Spain?"), says("Madrid")]
THINKS = [user("2+2?"), says("<think>\nadd\n</think>\n\n4"), user("3+3?"), says("<think>\nsum\n</think>\n\n6")]
PLAIN_ENDS = {
    "chatml": "<|im_end|>", "qwen25": "<|im_end|>", "llama3": "<|eot_id|>", "gemma": "<end_of_turn>", "phi3": "<|end|>",
    "phi4": "<|im_end|>", "command_r": "<|END_OF_TURN_TOKEN|>", "deepseek_r1": "<|end_of_sentence|>", "vicuna": "</s>",
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _renderers() -> Iterator[None]:
    yield
    for name in TEMPLATES:
        renderer(name).close()


@cache
def renderer(name: str) -> Renderer:
    """One process for each template, for all tests here."""
    return Renderer(tokenizer_of(name))


def lessons(name: str, messages: list[dict[str, Any]], **options: Any) -> list[Lesson] | BadData:
    chat = Chat(tokenizer_of(name), renderer(name), Options(**options))
    return chat.lessons([convert({"messages": messages}, "messages", {"messages": "messages"})])[0]


def taught(name: str, messages: list[dict[str, Any]], **options: Any) -> list[list[str]]:
    made = lessons(name, messages, **options)
    assert not isinstance(made, BadData), made.message
    return [learned(lesson, tokenizer_of(name)) for lesson in made]


@pytest.mark.parametrize(("name", "answers"), [
    *((name, [f"Paris{end}", f"Madrid{end}"]) for name, end in PLAIN_ENDS.items()),
    *((name, [" Paris</s>", " Madrid</s>"]) for name in ("mistral", "mistral_tools")),
    ("llama2", [" Paris </s>", " Madrid </s>"]),
    ("olmo3", ["Paris<|im_end|>", "Madrid<|endoftext|>"]),
    ("qwen3", ["Paris<|im_end|>", "<think>\n\n</think>\n\nMadrid<|im_end|>"]),
    ("glm4", ["\nParis<|user|>", "\nMadrid<|endoftext|>"]),
    ("no_end", ["Paris", "Madrid</s>"]),
])  # fmt: skip
def test_every_answer_is_learned_with_its_end(name: str, answers: list[str]) -> None:
    # a byte of the blank before an answer belongs to the answer's first token in Vicuna's way of writing
    found = [[text.removeprefix(" ") if name == "vicuna" else text for text in texts] for texts in taught(name, TWO)]
    assert found == [answers]


def test_the_tables_name_every_template() -> None:
    assert set(TEMPLATES) == {*PLAIN_ENDS, "mistral", "mistral_tools", "llama2", "olmo3", "qwen3", "glm4", "no_end"}


def test_system_text_that_moves_is_read_and_not_learned() -> None:
    made = lessons("mistral", [system("Be brief."), *TWO])
    assert not isinstance(made, BadData) and "[INST] Be brief.\n\nAnd Spain?" in made[0].text and not made[0].notes
    assert taught("mistral", [system("Be brief."), *TWO]) == [[" Paris</s>", " Madrid</s>"]]


def test_thoughts_of_earlier_turns_are_learned_in_rows_of_their_own() -> None:
    assert taught("qwen3", THINKS) == [
        ["<think>\nadd\n</think>\n\n4<|im_end|>"],
        ["<think>\nsum\n</think>\n\n6<|im_end|>"],
    ]
    skipped = lessons("qwen3", THINKS, rewritten_turns="skip")
    assert not isinstance(skipped, BadData) and len(skipped) == 1 and "lost_turns" in skipped[0].notes
    assert taught("qwen3", THINKS, rewritten_turns="skip") == [["<think>\nsum\n</think>\n\n6<|im_end|>"]]


def test_thoughts_as_a_field_of_their_own_are_learned_too() -> None:
    apart = [user("2+2?"), says("4", reasoning_content="add"), user("3+3?"), says("6", reasoning_content="sum")]
    assert taught("qwen3", apart) == taught("qwen3", THINKS)


def test_a_thought_that_the_prompt_opens_is_learned_where_the_data_has_one() -> None:
    made = lessons("deepseek_r1", THINKS)
    assert not isinstance(made, BadData)
    assert taught("deepseek_r1", THINKS) == [
        ["add\n</think>\n\n4<|end_of_sentence|>"],
        ["sum\n</think>\n\n6<|end_of_sentence|>"],
    ]
    assert made[1].text.endswith("<|Assistant|><think>\nsum\n</think>\n\n6<|end_of_sentence|>")


def test_an_answer_before_any_question_is_learned_without_the_templates_own_words() -> None:
    first = [says("AI"), user("who?"), says("me")]
    assert taught("qwen25", first) == [["AI<|im_end|>", "me<|im_end|>"]]
    refused = lessons("mistral", first)
    assert isinstance(refused, BadData) and "must alternate" in refused.message


def test_blank_lines_before_an_answer_belong_to_it() -> None:
    assert taught("chatml", [user("Write code"), says("\n\nprint(1)")])[0][0].endswith("\n\nprint(1)<|im_end|>")


def test_the_first_token_after_a_blank_is_learned() -> None:
    assert taught("vicuna", [user("Q"), says("Paris")])[0][0].endswith("Paris</s>")
    tokenizer = tokenizer_of("vicuna")
    made = lessons("vicuna", [user("Q"), says("the question")])
    assert not isinstance(made, BadData)
    assert learned(made[0], tokenizer)[0].lstrip() == "the question</s>"


def test_two_questions_in_a_row_are_joined_where_the_template_refuses_them() -> None:
    twice = [user("Q"), user("R"), says("A")]
    made = lessons("mistral", twice)
    assert not isinstance(made, BadData) and "Q\n\nR" in made[0].text and "joined_turns" in made[0].notes
    assert taught("chatml", twice) == [["A<|im_end|>"]]


def test_a_template_that_leaves_a_message_out_is_named() -> None:
    tokenizer = tokenizer_of("chatml")
    hears = tokenizer.chat_template
    renderer("chatml").close()  # the next one knows the new template
    try:
        tokenizer.chat_template = "{% for m in messages if m.role != 'system' %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
        made = lessons("chatml", [system("Be brief."), *TWO])
    finally:
        tokenizer.chat_template = hears
        renderer("chatml").close()
    assert not isinstance(made, BadData) and "lost_text" in made[0].notes


TEXTS = st.text(alphabet=st.sampled_from("ab Q\n<>é日:{}'\"#/|"), min_size=1, max_size=12).filter(
    lambda text: text.strip()
)
TURNS = st.lists(st.tuples(TEXTS, TEXTS, st.sampled_from([0, 1, None])), min_size=1, max_size=4)


@settings(max_examples=60, deadline=None)
@given(name=st.sampled_from(["chatml", "qwen25", "phi4", "command_r", "gemma"]), pairs=TURNS, has_system=st.booleans())
def test_what_is_learned_is_what_the_assistant_says(name: str, pairs: list[Any], has_system: bool) -> None:
    messages = [system("S")] if has_system and name != "gemma" else []
    for asked, answer, weight in pairs:
        messages += [user(asked), says(answer) if weight is None else says(answer, weight=weight)]
    wanted = [answer for _, answer, weight in pairs if weight != 0]
    if not wanted:
        with pytest.raises(BadData):
            lessons(name, messages)
        return
    made = lessons(name, messages)
    assert not isinstance(made, BadData) and len(made) == 1
    end = PLAIN_ENDS[name]
    found = [made[0].text[begin:stop] for begin, stop in made[0].spans]
    assert [text.removesuffix(end).strip() for text in found] == [answer.strip() for answer in wanted]
    assert all(text.endswith(end) for text in found)
