"""One conversation on its way to a chat template, and other ways of saying the same to one that refuses it."""

from __future__ import annotations

import json
from typing import Any, Literal, NamedTuple

Note = Literal["no_end_mark", "rewritten_turns", "lost_turns", "lost_text", "doubled_marks", "joined_turns"]
"""What a person should know of a text: see `row_check.remarks`."""


class Talk(NamedTuple):
    """One conversation on its way to the template."""

    messages: list[dict[str, Any]]
    learned: list[bool]
    tools: list[dict[str, Any]]
    notes: frozenset[Note] = frozenset()


def other_ways(talk: Talk) -> list[Talk]:
    """The same conversation for templates that refuse it: with user turns in a row joined, with short numbers for calls, and
    with a call's arguments as text."""
    joined = _joined(talk)
    found = [joined] if joined else []
    if any("tool_calls" in message for message in talk.messages):
        numbered = _with_short_ids(joined or talk)
        found += [numbered, _with_written_arguments(joined or talk), _with_written_arguments(numbered)]
    return found


def _joined(talk: Talk) -> Talk | None:
    """None when no turns of the user follow one another."""
    messages: list[dict[str, Any]] = []
    learned: list[bool] = []
    for message, is_learned in zip(talk.messages, talk.learned, strict=True):
        if messages and message["role"] == "user" == messages[-1]["role"]:
            messages[-1] = {**messages[-1], "content": f"{messages[-1]['content']}\n\n{message['content']}"}
            continue
        messages.append(message)
        learned.append(is_learned)
    if len(messages) == len(talk.messages):
        return None
    return Talk(messages, learned, talk.tools, talk.notes | {"joined_turns"})


def _with_short_ids(talk: Talk) -> Talk:
    """Mistral's templates want numbers of nine letters and digits for calls and their answers."""
    ids: dict[str, str] = {}
    waiting: list[str] = []
    messages = []
    for message in talk.messages:
        message = dict(message)
        if "tool_calls" in message:
            calls = []
            for call in message["tool_calls"]:
                short = f"call{len(ids) + 1:05d}"
                ids[call.get("id") or short] = short
                waiting.append(short)
                calls.append({**call, "id": short})
            message["tool_calls"] = calls
        elif message["role"] == "tool":
            short = ids.get(message.get("tool_call_id", "")) or (waiting[0] if waiting else "call00001")
            waiting = [other for other in waiting if other != short]
            message["tool_call_id"] = short
        messages.append(message)
    return talk._replace(messages=messages)


def _with_written_arguments(talk: Talk) -> Talk:
    """Some templates take a call's arguments as JSON text."""
    messages = []
    for message in talk.messages:
        if "tool_calls" in message:
            message = {**message, "tool_calls": [written(call) for call in message["tool_calls"]]}
        messages.append(message)
    return talk._replace(messages=messages)


def written(call: dict[str, Any]) -> dict[str, Any]:
    arguments = call["function"]["arguments"]
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return {**call, "function": {**call["function"], "arguments": text}}
