"""Row shapes: which columns a file of examples must have to be learnt from, and how they are recognised."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple


@dataclass(frozen=True)
class Shape:
    """One way to lay out examples. `roles` are what a mapping maps to columns."""

    name: str
    roles: tuple[str, ...]
    optional: tuple[str, ...] = ()
    input_role: str | None = None
    """The role whose length bounds are those of the input."""
    output_role: str | None = None

    @property
    def required(self) -> tuple[str, ...]:
        return tuple(role for role in self.roles if role not in self.optional)


SHAPES: dict[str, Shape] = {
    shape.name: shape
    for shape in (
        Shape("messages", ("messages",)),
        Shape("conversations", ("conversations",)),
        Shape("preference", ("prompt", "chosen", "rejected"), (), "prompt", "chosen"),
        Shape("alpaca", ("instruction", "input", "output"), ("input",), "instruction", "output"),
        Shape("prompt_completion", ("prompt", "completion"), (), "prompt", "completion"),
        Shape("question_answer", ("question", "answer"), (), "question", "answer"),
        Shape("input_output", ("input", "output"), (), "input", "output"),
        Shape("tokens_tags", ("tokens", "tags")),
        Shape("text_label", ("text", "label"), (), "text", None),
        Shape("text", ("text",), (), "text", None),
        Shape("image", ("media", "label"), ("label",)),
        Shape("audio", ("media", "label"), ("label",)),
        Shape("video", ("media", "label"), ("label",)),
        Shape("tabular", ()),
    )
}
"""In the order in which they are tried: the more particular first."""

ALIASES: dict[str, tuple[str, ...]] = {
    "messages": ("messages", "chat", "dialog", "dialogue"),
    "conversations": ("conversations", "conversation"),
    "prompt": ("prompt",),
    "chosen": ("chosen", "preferred"),
    "rejected": ("rejected", "dispreferred"),
    "instruction": ("instruction", "instructions"),
    "input": ("input", "context", "query", "source"),
    "output": ("output", "response", "target", "reply"),
    "completion": ("completion",),
    "question": ("question", "q"),
    "answer": ("answer", "a"),
    "tokens": ("tokens", "words"),
    "tags": ("tags", "ner_tags", "labels"),
    "text": ("text", "sentence", "content", "review"),
    "label": ("label", "category", "class", "intent", "sentiment"),
    "media": ("media", "file_name", "image", "audio", "video", "path"),
}
"""Role → column names that mean it, compared without case; the first found wins."""


NEARLY = ("input_output", "prompt_completion", "question_answer", "alpaca", "preference")
"""Shapes of which one column may be missing: more likely an oversight than a table of something else."""


class Recognised(NamedTuple):
    """What a file's rows look like."""

    shape: str
    mapping: dict[str, str]
    missing: list[str]
    """Required roles without a column; empty when the shape is whole."""


def recognise(columns: Sequence[str], first_row: Mapping[str, Any] | None = None) -> Recognised:
    """The shape whose required roles are all there; else the one that is nearly there; else `tabular`."""
    lower = {name.strip().lower(): name for name in reversed(columns)}
    first_row = first_row or {}
    for shape in SHAPES.values():
        if shape.name in ("image", "audio", "video", "tabular"):
            continue
        mapping = _mapping(shape, lower)
        if any(role not in mapping for role in shape.required):
            continue
        if shape.name in ("messages", "conversations", "tokens_tags") and not _holds_lists(shape, mapping, first_row):
            continue
        return Recognised(shape.name, mapping, [])
    for name in NEARLY:
        mapping = _mapping(SHAPES[name], lower)
        missing = [role for role in SHAPES[name].required if role not in mapping]
        if len(missing) == 1:
            return Recognised(name, mapping, missing)
    return Recognised("tabular", {}, [])


def _mapping(shape: Shape, lower: Mapping[str, str]) -> dict[str, str]:
    return {role: column for role in shape.roles if (column := _column(role, lower)) is not None}


def _column(role: str, lower: Mapping[str, str]) -> str | None:
    return next((lower[alias] for alias in ALIASES[role] if alias in lower), None)


def _holds_lists(shape: Shape, mapping: Mapping[str, str], first_row: Mapping[str, Any]) -> bool:
    values = [first_row.get(mapping[role]) for role in shape.required]
    return all(value is None or isinstance(value, list) or str(value).lstrip().startswith("[") for value in values)
