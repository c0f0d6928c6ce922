"""A stored row of any shape → what a model learns from it. The one place that decides; validation, counting, training,
evaluation and every preview ask here.

A row that cannot be learned from raises `BadData`, which says why. What is unusual but has a defined meaning:

- Two turns of the user in a row stay two turns; a conversation may begin with the assistant or end with the user.
- An empty answer stays in the conversation, is never learned, and is named in `remarks`.
- Answers that stand in a prompt or a history are read, not learned.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import takewhile
from typing import Any, NamedTuple

from tunesmith.core.errors import BadData
from tunesmith.dataprep.shapes import SHAPES
from tunesmith.dataprep.turns import Turn, has_something, turns_of
from tunesmith.dataprep.values import decoded, is_missing, lines_of, text_of, truth

PAIRS = {
    "input_output": ("input", "output"),
    "prompt_completion": ("prompt", "completion"),
    "question_answer": ("question", "answer"),
    "kto": ("prompt", "completion"),
    "alpaca": ("instruction", "output"),
}
"""Shape → the roles of what is asked and of what is answered."""
CONVERSATIONAL = ("messages", "conversations", "preference", *PAIRS)
TEXTS = ("text", "text_label")
ROLE_WORDS = {
    "output": "answer",
    "completion": "answer",
    "chosen": "answer",
    "rejected": "worse answer",
    "input": "question",
}
"""What a role's cell is for a person, where the role's name is not."""
OBJECT = "The answer is an object; it is learned as JSON."
EMPTY = "An empty answer is not learned."
ANSWER_LIST = (
    "Keep the first answer of each list, or make a row of each; or map the columns as input and output to learn the lists as "
    "they are."
)
"""What to do where an answer is a list of texts."""


class Example(NamedTuple):
    """What is learned from one row: a conversation or a plain text."""

    messages: list[dict[str, Any]]
    """In the form that chat templates read: role, content, and where there are some tool_calls, name, tool_call_id."""
    learned: list[bool]
    """For each message whether the model learns to say it; only the assistant's are."""
    tools: list[dict[str, Any]] = []
    """Functions that could be called, in OpenAI's form."""
    remarks: tuple[str, ...] = ()
    """What a person should know of this row."""
    text: str | None = None
    """Of a plain text; then there are no messages."""
    is_good: bool = True
    """False where the row rates its answer as bad."""


def convert(row: Mapping[str, Any], shape: str, mapping: Mapping[str, str]) -> Example:
    """What is learned from `row`. Raises `BadData` when nothing can be, `ValueError` for shapes that no language model
    learns from."""
    cells = {role: row.get(column) for role, column in mapping.items()}
    if shape in TEXTS:
        text = text_of(cells.get("text"))
        if not text.strip():
            raise BadData("The text is empty.")
        return Example([], [], text=text)
    if shape not in CONVERSATIONAL:
        raise ValueError(f"rows of shape {shape!r} are not conversations")
    for role in SHAPES[shape].required:
        if role in cells and role != shape and not text_of(cells[role]).strip():
            raise BadData(f"The {ROLE_WORDS.get(role, role)} is empty.")
    before, turns = _preference(cells) if shape == "preference" else _conversation(cells, shape)
    read = [*_history(cells.get("history")), *before]
    turns = [*[turn._replace(is_learned=False) for turn in read], *turns]
    turns = _with_system(turns, lines_of(cells.get("system")))
    return _example(turns, cells, is_object=isinstance(decoded(cells.get(PAIRS.get(shape, ("", ""))[1])), Mapping))


def _example(turns: list[Turn], cells: Mapping[str, Any], *, is_object: bool) -> Example:
    remarks = [OBJECT] if is_object else []
    learned = []
    for number, turn in enumerate(turns, start=1):
        is_answer = turn.role == "assistant"
        if is_answer and turn.is_learned and not has_something(turn):
            remarks.append(f"{EMPTY[:-1]}: message {number}.")
        learned.append(is_answer and turn.is_learned and has_something(turn))
    if not any(learned):
        raise BadData("The conversation has no answer of the assistant to learn from.")
    is_good = True
    if "label" in cells:
        found = truth(cells["label"])
        if found is None:
            raise BadData(f"The label {text_of(cells['label'])[:40]!r} is neither true nor false.")
        is_good = found
    return Example(
        [turn.as_message() for turn in turns], learned, tools_of(cells.get("tools")), tuple(remarks), None, is_good
    )


def _conversation(cells: Mapping[str, Any], shape: str) -> tuple[list[Turn], list[Turn]]:
    """`(turns that are read, turns that may be learned)`."""
    if shape in ("messages", "conversations"):
        return [], turns_of(cells.get(shape))
    asked, answered = PAIRS[shape]
    before = _asked(cells, asked)
    answer = decoded(cells.get(answered))
    if isinstance(answer, list) and answer and all(isinstance(item, Mapping) for item in answer) and _is_chat(answer):
        return before, turns_of(answer)
    text = _answer(answer, cells.get(answered), is_asked_for=shape == "question_answer")
    if not text.strip():
        raise BadData("The answer is empty.")
    return before, [Turn("assistant", text)]


def _asked(cells: Mapping[str, Any], role: str) -> list[Turn]:
    """What the answer answers: a list of turns as it is, else one turn of the user, below its context."""
    found = decoded(cells.get(role))
    if isinstance(found, list) and found and _is_chat(found):
        return turns_of(found)
    parts = [
        lines_of(cells.get("context")),
        lines_of(cells.get(role)),
        lines_of(cells.get("input")) if role != "input" else "",
    ]
    return [Turn("user", "\n\n".join(part for part in parts if part.strip()))]


def _answer(found: Any, cell: Any, *, is_asked_for: bool) -> str:
    """The answer's text. Of the spans that SQuAD has the first; a list of answers has to be decided on by a person."""
    if isinstance(found, Mapping) and isinstance(found.get("text"), list) and "answer_start" in found:
        if not found["text"]:
            raise BadData("The question has no answer: its list of spans is empty.")
        return text_of(found["text"][0])
    if is_asked_for and isinstance(found, list) and found and all(isinstance(item, str) for item in found):
        raise BadData(f"The answer is a list of {len(found)}.", hint=ANSWER_LIST)
    return text_of(cell)


class Pair(NamedTuple):
    """Two answers to the same prompt."""

    chosen: Example
    rejected: Example


def convert_pair(row: Mapping[str, Any], mapping: Mapping[str, str]) -> Pair:
    """What a row of shape `preference` compares: the prompt with the better and with the worse answer. Where both are
    conversations, what they share from the beginning on is the prompt. Raises `BadData` when there is nothing to compare."""
    cells = {role: row.get(column) for role, column in mapping.items()}
    for role in SHAPES["preference"].required:
        if not text_of(cells.get(role)).strip():
            raise BadData(f"The {ROLE_WORDS.get(role, role)} is empty.")
    prompt, *answers = _pair(cells)
    system = lines_of(cells.get("system"))
    read = [turn._replace(is_learned=False) for turn in prompt]
    examples = [_example(_with_system([*read, *answer], system), cells, is_object=False) for answer in answers]
    return Pair(*examples)


def _pair(cells: Mapping[str, Any]) -> tuple[list[Turn], list[Turn], list[Turn]]:
    """`(prompt, better answer, worse answer)`"""
    prompt = _asked(cells, "prompt") if not is_missing(cells.get("prompt")) else []
    found = [decoded(cells.get(role)) for role in ("chosen", "rejected")]
    chats = [turns_of(item) if isinstance(item, list) and item and _is_chat(item) else [] for item in found]
    if not any(chats):
        if not prompt:
            raise BadData("The row has answers but no prompt.", hint="Map the column that holds the prompt.")
        good, bad = ([Turn("assistant", text_of(cells.get(role)))] for role in ("chosen", "rejected"))
        return prompt, good, bad
    if not all(chats):
        before, good = _preference({**cells, "chosen": cells["rejected"]} if not chats[0] else cells)
        texts = [Turn("assistant", text_of(cells.get(role))) for role in ("chosen", "rejected")]
        return (before, [texts[0]], good) if not chats[0] else (before, good, [texts[1]])
    good, bad = chats
    shared = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(good, bad, strict=False))))
    shared = min(shared, len(good) - 1, len(bad) - 1)
    opens = prompt if good[0].role == "assistant" else []
    return [*opens, *good[:shared]], good[shared:], bad[shared:]


def _preference(cells: Mapping[str, Any]) -> tuple[list[Turn], list[Turn]]:
    """The better answer. Where it is a conversation, what it shares with the worse one is the prompt."""
    prompt = _asked(cells, "prompt") if not is_missing(cells.get("prompt")) else []
    chosen, rejected = decoded(cells.get("chosen")), decoded(cells.get("rejected"))
    if not (isinstance(chosen, list) and chosen and _is_chat(chosen)):
        text = text_of(cells.get("chosen"))
        if not text.strip():
            raise BadData("The answer is empty.")
        if not prompt:
            raise BadData("The row has answers but no prompt.", hint="Map the column that holds the prompt.")
        return prompt, [Turn("assistant", text)]
    good = turns_of(chosen)
    bad = turns_of(rejected) if isinstance(rejected, list) and rejected and _is_chat(rejected) else []
    shared = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(good, bad, strict=False))))
    shared = min(shared, len(good) - 1)
    if good[0].role == "assistant" and prompt:
        return [*prompt, *good[:shared]], good[shared:]
    if not bad:
        shared = max(number for number, turn in enumerate(good) if turn.role == "assistant" or number == 0)
    return good[:shared], good[shared:]


def last_said(cell: Any) -> str:
    """What a text says, or the last turn of a conversation."""
    found = decoded(cell)
    return turns_of(found)[-1].content if isinstance(found, list) and found and _is_chat(found) else text_of(cell)


def _is_chat(items: list[Any]) -> bool:
    return all(isinstance(item, Mapping) and ({"role", "from"} & set(item)) for item in items)


def _history(cell: Any) -> list[Turn]:
    """Earlier questions and answers: pairs, or a list of turns."""
    found = decoded(cell)
    if is_missing(found) or found in ("", []):
        return []
    if not isinstance(found, list):
        raise BadData(
            "The history is not a list of questions and answers.", hint='Write it as [["question", "answer"], …].'
        )
    if _is_chat(found):
        return turns_of(found)
    turns = []
    for number, pair in enumerate(found, start=1):
        if not isinstance(pair, list) or len(pair) != 2:
            raise BadData(f"Entry {number} of the history is not a question and an answer.")
        turns += [Turn("user", text_of(pair[0])), Turn("assistant", text_of(pair[1]))]
    return turns


def _with_system(turns: list[Turn], system: str) -> list[Turn]:
    """With the text of the system column: before the conversation's own system message, when it has another one."""
    if not system.strip():
        return turns
    if turns and turns[0].role == "system":
        own = turns[0]
        text = own.content if system.strip() in own.content else f"{system}\n\n{own.content}"
        return [own._replace(content=text), *turns[1:]]
    return [Turn("system", system), *turns]


def tools_of(cell: Any) -> list[dict[str, Any]]:
    """The functions in OpenAI's form. Raises `BadData` for what are none."""
    found = decoded(cell)
    if is_missing(found) or found in ("", [], {}):
        return []
    items = found if isinstance(found, list) else [found]
    tools = []
    for number, item in enumerate(items, start=1):
        item = decoded(item)
        function = item.get("function", item) if isinstance(item, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise BadData(
                f"Tool {number} has no name.",
                hint='Write tools as [{"type": "function", "function": {"name": "…", "parameters": {…}}}].',
            )
        described = {"name": function["name"], "description": function.get("description") or ""}
        parameters = decoded(function.get("parameters")) or {"type": "object", "properties": {}}
        rest = {
            key: value for key, value in function.items() if key not in (*described, "parameters") and value is not None
        }
        tools.append({"type": "function", "function": {**described, "parameters": parameters, **rest}})
    return tools
