"""Lists of messages as many tools write them → turns with OpenAI's names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from tunesmith.core.errors import BadData
from tunesmith.dataprep.values import decoded, is_missing, text_of, truth

ROLE_NAMES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "customer": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "ai": "assistant",
    "bot": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "tool": "tool",
    "function": "tool",
    "ipython": "tool",
    "observation": "tool",
    "observations": "tool",
    "tool_response": "tool",
    "function_response": "tool",
    "function_call": "call",
    "functioncall": "call",
    "tool_call": "call",
    "tool_calls": "call",
}
"""Others' names of who speaks, without case, blanks and dashes → OpenAI's; `call` is a turn that calls functions."""
TEXT_PARTS = ("text", "input_text", "output_text")
REASONING = ("reasoning_content", "reasoning", "thinking")


class Turn(NamedTuple):
    """One message."""

    role: str
    content: str
    is_learned: bool = True
    """Whether the assistant's turn is to be learned."""
    calls: tuple[Any, ...] = ()
    """Functions that it calls, in OpenAI's form, arguments as an object."""
    name: str = ""
    call_id: str = ""
    """Of a function's answer: the call that it answers."""
    reasoning: str = ""

    def as_message(self) -> dict[str, Any]:
        """As chat templates read it; fields without a value are left out."""
        message: dict[str, Any] = {"role": self.role, "content": self.content}
        given = {
            "reasoning_content": self.reasoning, "tool_calls": list(self.calls), "name": self.name,
            "tool_call_id": self.call_id,
        }  # fmt: skip
        return message | {key: value for key, value in given.items() if value}


def has_something(turn: Turn) -> bool:
    """Whether anything is said or called in it."""
    return bool(turn.content.strip() or turn.calls)


def turns_of(value: Any) -> list[Turn]:
    """Raises `BadData` naming the message that is none."""
    found = decoded(value)
    if not isinstance(found, list) or not found:
        raise BadData("The conversation is empty or not a list of messages.")
    turns = [_turn(number, item) for number, item in enumerate(found, start=1)]
    return _with_answered_calls(turns)


def _turn(number: int, item: Any) -> Turn:
    if not isinstance(item, Mapping):
        raise BadData(f"Message {number} of the conversation is not an object with role and content.")
    said_by = next((item[key] for key in ("role", "from") if not is_missing(item.get(key))), None)
    content = next((item[key] for key in ("content", "value") if not is_missing(item.get(key))), None)
    role = ROLE_NAMES.get(str(said_by).strip().lower().replace("-", "_").replace(" ", "_"))
    if role is None:
        raise BadData(
            f"Message {number} of the conversation is said by {str(said_by)[:40]!r}.",
            hint=f"Use one of: {', '.join(sorted(set(ROLE_NAMES)))}.",
        )
    if role == "call":
        return Turn("assistant", "", _weight(number, item), _calls(number, content))
    text = _content(number, content)
    if role != "assistant":
        return Turn(role, text, name=_word(item, "name"), call_id=_word(item, "tool_call_id"))
    calls = _calls(number, item.get("tool_calls")) + _calls(number, item.get("function_call"))
    if not text and isinstance(item.get("refusal"), str):
        text = item["refusal"]
    reasoning = next((_word(item, key) for key in REASONING if _word(item, key)), "")
    return Turn(role, text, _weight(number, item), calls, _word(item, "name"), "", reasoning)


def _word(item: Mapping[str, Any], key: str) -> str:
    value = item.get(key)
    return value if isinstance(value, str) else ""


def _content(number: int, content: Any) -> str:
    """Parts of text are put together; a part that is no text cannot be learned from here."""
    if not isinstance(content, list) or not content or not all(isinstance(part, str | Mapping) for part in content):
        return text_of(content)
    if not all(isinstance(part, str) or "type" in part for part in content):
        return text_of(content)
    texts = []
    for part in content:
        kind = "text" if isinstance(part, str) else str(part["type"])
        if kind not in TEXT_PARTS:
            raise BadData(
                f"Message {number} of the conversation holds a part of type {kind[:40]!r}; only text is learned.",
                hint="Take such rows out, or the parts out of them.",
            )
        texts.append(part if isinstance(part, str) else text_of(part.get("text")))
    return "".join(texts)


def _weight(number: int, item: Mapping[str, Any]) -> bool:
    """Whether the turn is learned: OpenAI's `weight`, 0 or 1."""
    given = item.get("weight")
    if is_missing(given):
        return True
    found = truth(given)
    if found is None:
        raise BadData(f"Message {number} of the conversation has weight {text_of(given)[:40]}; it can be 0 or 1.")
    return found


def _calls(number: int, value: Any) -> tuple[Any, ...]:
    """Calls in any of the usual forms: a list or one, with the function inside or flat, arguments as object or JSON."""
    found = decoded(value)
    if is_missing(found) or found in ("", [], {}):
        return ()
    calls = []
    for item in found if isinstance(found, list) else [found]:
        item = decoded(item)
        function = item.get("function", item) if isinstance(item, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise BadData(
                f"Message {number} of the conversation calls a function without a name.",
                hint='A call is {"name": "…", "arguments": {…}}.',
            )
        given = function.get("arguments", function.get("parameters"))
        arguments = decoded(given)
        if is_missing(arguments) or arguments == "":
            arguments = {}
        call = {"type": "function", "function": {"name": function["name"], "arguments": arguments}}
        call_id = item.get("id")
        calls.append({"id": call_id, **call} if isinstance(call_id, str) and call_id else call)
    return tuple(calls)


def _with_answered_calls(turns: list[Turn]) -> list[Turn]:
    """Answers of functions have the name of what was called: some templates need it, some files leave it out."""
    names = {call["id"]: call["function"]["name"] for turn in turns for call in turn.calls if "id" in call}
    last = ""
    whole = []
    for turn in turns:
        if turn.calls:
            last = turn.calls[-1]["function"]["name"]
        if turn.role == "tool" and not turn.name:
            turn = turn._replace(name=names.get(turn.call_id, last))
        whole.append(turn)
    return whole
