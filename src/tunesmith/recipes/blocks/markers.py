"""Marks around what is said in a conversation, to see where a chat template puts it.

A mark is a few characters of Unicode's private use area. Taken out of the rendered text again they must leave what the
template makes of the conversation without marks; if they do, their places are the places of the contents.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

BEGIN, END, CLOSE = "\ue0f0", "\ue0f1", "\ue0f2"
MARK = re.compile("([\ue0f0\ue0f1])(\\d+)\\.(\\d+)\ue0f2")
THOUGHT_END = "</think>"
THOUGHT = re.compile(r"\A(\s*<think>)?(.*?)(</think>)(.*)\Z", re.DOTALL)


class Region(NamedTuple):
    """Where one message's contents stand in the rendered text."""

    begin: int
    end: int
    is_whole: bool
    """Whether all of its parts are there."""
    lost: frozenset[int]
    """Parts that are not there, by number."""


class Marked(NamedTuple):
    """A conversation with marks."""

    messages: list[dict[str, Any]]
    parts: list[list[str]]
    """For each message, what was marked."""


class Rendered(NamedTuple):
    """A rendered text without its marks, and the places of them."""

    text: str
    places: list[tuple[int, int, bool, int]]
    """`(message, part, whether it begins there, character)` in the order of the text."""

    @property
    def end(self) -> int:
        """Where the last content ends; 0 when there is none."""
        return max((at for *_, is_begin, at in self.places if not is_begin), default=0)

    def region(self, message: int, num_parts: int) -> Region | None:
        """None when no part of the message is there, or when it has none."""
        begins = {part: at for number, part, is_begin, at in self.places if number == message and is_begin}
        ends = {part: at for number, part, is_begin, at in self.places if number == message and not is_begin}
        there = set(begins) & set(ends)
        if not there:
            return None
        lost = frozenset(set(range(num_parts)) - there)
        return Region(min(begins[p] for p in there), max(ends[p] for p in there), not lost, lost)

    def before(self, at: int, message: int) -> int:
        """Where the content of another message that stands last before `at` ends."""
        return max((a for number, _, b, a in self.places if not b and number != message and a <= at), default=0)

    def after(self, at: int, message: int) -> int:
        """Where the content of another message that stands first after `at` begins."""
        places = (a for number, _, b, a in self.places if b and number != message and a >= at)
        return min(places, default=len(self.text))


def mark(messages: Iterable[Mapping[str, Any]], wanted: Callable[[int], bool] = lambda _: True) -> Marked:
    """Every content, thought, and text in a call of those messages that are `wanted`, by number."""
    marked, parts = [], []
    for number, message in enumerate(messages):
        found: list[str] = []

        def put(text: str, number: int = number, found: list[str] = found) -> str:
            core = text.strip()
            if not core:
                return text
            lead = text[: len(text) - len(text.lstrip())]
            part = len(found)
            found.append(core)
            trail = text[len(text.rstrip()) :]
            return f"{lead}{BEGIN}{number}.{part}{CLOSE}{core}{END}{number}.{part}{CLOSE}{trail}"

        marked.append(_marked(message, put) if wanted(number) else dict(message))
        parts.append(found)
    return Marked(marked, parts)


def _marked(message: Mapping[str, Any], put: Callable[[str], str]) -> dict[str, Any]:
    made = dict(message)
    if isinstance(message.get("reasoning_content"), str):
        made["reasoning_content"] = put(message["reasoning_content"])
    thought = THOUGHT.match(message["content"]) if message["role"] == "assistant" else None
    if thought:
        made["content"] = f"{thought[1] or ''}{put(thought[2])}{thought[3]}{put(thought[4])}"
    else:
        made["content"] = put(message["content"])
    if message.get("tool_calls"):
        made["tool_calls"] = [_call(call, put) for call in message["tool_calls"]]
    return made


def _call(call: Mapping[str, Any], put: Callable[[str], str]) -> dict[str, Any]:
    function = call["function"]
    arguments = _leaves(function["arguments"], put)
    return {**call, "function": {**function, "name": put(function["name"]), "arguments": arguments}}


def _leaves(value: Any, put: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return put(value)
    if isinstance(value, dict):
        return {key: _leaves(item, put) for key, item in value.items()}
    return [_leaves(item, put) for item in value] if isinstance(value, list) else value


def has_thought(message: Mapping[str, Any]) -> bool:
    """Whether the first part of the message is what was thought before it was said."""
    thought = THOUGHT.match(message["content"]) if message["role"] == "assistant" else None
    return bool(message.get("reasoning_content", "").strip() or (thought and thought[2].strip()))


def read_marks(text: str) -> Rendered:
    """Take the marks out and tell where they were."""
    places, pieces, last, length = [], [], 0, 0
    for found in MARK.finditer(text):
        pieces.append(text[last : found.start()])
        length += found.start() - last
        places.append((int(found[2]), int(found[3]), found[1] == BEGIN, length))
        last = found.end()
    pieces.append(text[last:])
    return Rendered("".join(pieces), places)
