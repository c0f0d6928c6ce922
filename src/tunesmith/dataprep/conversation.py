"""A stored row of any conversational shape → chat messages. One place decides how each shape is said to a model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tunesmith.core.errors import BadData

ROLE_NAMES = {
    "system": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "bot": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
}
"""ShareGPT's and others' names of who speaks → OpenAI's."""

PAIRS = {
    "input_output": ("input", "output"),
    "prompt_completion": ("prompt", "completion"),
    "question_answer": ("question", "answer"),
    "preference": ("prompt", "chosen"),
}


def to_messages(row: Mapping[str, Any], shape: str, mapping: Mapping[str, str]) -> list[dict[str, str]]:
    """`[{"role", "content"}, …]`, ending with the assistant's answer.

    Raises `BadData` when the row is not of the shape, `ValueError` for shapes that are no conversations.
    """
    if shape in ("messages", "conversations"):
        return _listed(row.get(mapping[shape]))
    if shape == "alpaca":
        question = _text(row, mapping, "instruction")
        more = _text(row, mapping, "input") if "input" in mapping else ""
        return _pair(f"{question}\n\n{more}" if more.strip() else question, _text(row, mapping, "output"))
    if shape == "preference" and isinstance(_decoded(row.get(mapping["chosen"])), list):
        chosen = _listed(row.get(mapping["chosen"]))
        return chosen if chosen[0]["role"] != "assistant" else [*_prompt(row, mapping), *chosen]
    if shape in PAIRS:
        asked, answered = PAIRS[shape]
        return _pair(_text(row, mapping, asked), _text(row, mapping, answered))
    raise ValueError(f"rows of shape {shape!r} are not conversations")


def _prompt(row: Mapping[str, Any], mapping: Mapping[str, str]) -> list[dict[str, str]]:
    prompt = row.get(mapping["prompt"])
    if isinstance(_decoded(prompt), list):
        return _listed(prompt)
    return [{"role": "user", "content": _text(row, mapping, "prompt")}]


def _text(row: Mapping[str, Any], mapping: Mapping[str, str], role: str) -> str:
    value = row.get(mapping[role])
    return "" if value is None else str(value)


def _pair(asked: str, answered: str) -> list[dict[str, str]]:
    if not answered.strip():
        raise BadData("The answer is empty.")
    return [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]


def _decoded(value: Any) -> Any:
    """Lists may be stored as lists or as JSON text."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


def _listed(value: Any) -> list[dict[str, str]]:
    turns = _decoded(value)
    if not isinstance(turns, list) or not turns:
        raise BadData("The conversation is empty or not a list of messages.")
    messages = []
    for number, turn in enumerate(turns, start=1):
        if not isinstance(turn, Mapping):
            raise BadData(f"Message {number} of the conversation is not an object with role and content.")
        said_by = turn.get("role") if turn.get("role") is not None else turn.get("from")
        content = turn.get("content") if turn.get("content") is not None else turn.get("value")
        role = ROLE_NAMES.get(str(said_by).strip().lower())
        if role is None:
            raise BadData(
                f"Message {number} of the conversation is said by {str(said_by)[:40]!r}.",
                hint=f"Use one of: {', '.join(sorted(set(ROLE_NAMES)))}.",
            )
        messages.append({"role": role, "content": "" if content is None else str(content)})
    if not any(m["role"] == "assistant" and m["content"].strip() for m in messages):
        raise BadData("The conversation has no answer of the assistant to learn from.")
    return messages
