"""Row shapes: which columns a file of examples must have to be learned from, and how they are recognized."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from tunesmith.dataprep.values import truth


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


def _pair(asked: str, answered: str, *more: str) -> Shape:
    """A question and its answer, with columns that may stand beside them."""
    return Shape(f"{asked}_{answered}", (asked, answered, *more), more, asked, answered)


SHAPES: dict[str, Shape] = {
    shape.name: shape
    for shape in (
        Shape("messages", ("messages", "tools", "system"), ("tools", "system")),
        Shape("conversations", ("conversations", "tools", "system"), ("tools", "system")),
        Shape(
            "preference",
            ("prompt", "chosen", "rejected", "tools", "system"),
            ("prompt", "tools", "system"),
            "prompt",
            "chosen",
        ),
        Shape("kto", ("prompt", "completion", "label", "tools", "system"), ("tools", "system"), "prompt", "completion"),
        Shape(
            "alpaca",
            ("instruction", "input", "output", "system", "history"),
            ("input", "system", "history"),
            "instruction",
            "output",
        ),
        _pair("prompt", "completion", "tools", "system", "history", "context"),
        _pair("question", "answer", "system", "history", "context"),
        _pair("input", "output", "system", "history"),
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
    "instruction": ("instruction", "instructions", "anweisung", "instrucción", "instrução", "consigne", "指令", "指示"),
    "input": ("input", "context", "query", "source", "eingabe", "entrée", "entrada", "输入", "入力"),
    "output": ("output", "response", "target", "reply", "ausgabe", "sortie", "salida", "saída", "输出", "出力"),
    "completion": ("completion", "response"),
    "question": (
        "question", "q", "frage", "pregunta", "pergunta", "问题", "問題", "質問", "提问", "user", "human",
    ),
    "answer": (
        "answer", "a", "answers", "antwort", "réponse", "respuesta", "resposta", "答案", "回答", "答え", "assistant", "gpt",
        "response", "reply",
    ),
    "context": ("context", "passage", "document", "kontext", "contexte", "contexto", "上下文", "文脈"),
    "system": ("system", "system_prompt", "system_message", "系统", "システム"),
    "history": ("history", "verlauf", "historique", "historial", "histórico", "历史", "履歴"),
    "tools": ("tools", "functions"),
    "tokens": ("tokens", "words"),
    "tags": ("tags", "ner_tags", "labels"),
    "text": ("text", "sentence", "content", "review", "texte", "texto", "文本", "テキスト"),
    "label": ("label", "category", "class", "intent", "sentiment"),
    "media": ("media", "file_name", "image", "audio", "video", "path"),
}  # fmt: skip
"""Role → column names that mean it, compared without case, accents and kinds of dash; the first found wins."""
MEANINGFUL = frozenset(
    {"label", "weight", "rejected", "chosen", "context", "system", "history", "tools", "functions", "function_call", "tool_calls"}
)  # fmt: skip
"""Columns that change what a row means: one that is not used is worth a word."""

SPLIT = "split"
"""The column that a file's own splits are kept in."""
TRAINING_SPLITS = frozenset({"train", "training"})
SPLITS = TRAINING_SPLITS | {"val", "valid", "validation", "test", "testing", "dev", "eval", "evaluation"}
NEARLY = ("input_output", "prompt_completion", "question_answer", "alpaca", "preference")
"""Shapes of which one column may be missing: more likely an oversight than a table of something else."""
ASKED, ANSWERED = (
    ("frage", "question", "pregunta", "pergunta"),
    ("antwort", "answer", "réponse", "respuesta", "resposta"),
)
"""Words that tell a question and an answer inside longer headings, `Kundenfrage` and `Antwort des Supports`."""
WEAK = frozenset({"user", "human", "assistant", "gpt"})
"""Headings that are a question's or an answer's only when both are there."""
LISTS = ("messages", "conversations", "tokens_tags")
"""Shapes whose columns must hold lists."""


class Recognised(NamedTuple):
    """What a file's rows look like."""

    shape: str
    mapping: dict[str, str]
    missing: list[str]
    """Required roles without a column; empty when the shape is whole."""


def recognise(columns: Sequence[str], first_row: Mapping[str, Any] | None = None) -> Recognised:
    """The shape whose required roles are all there; else the one that is nearly there; else `tabular`."""
    known = {plain(name): name for name in reversed(columns)}
    first_row = first_row or {}
    for shape in SHAPES.values():
        if shape.name in ("image", "audio", "video", "tabular"):
            continue
        mapping = _mapping(shape, known)
        if any(role not in mapping for role in shape.required):
            continue
        if shape.name in LISTS and not _holds_lists(shape, mapping, first_row):
            continue
        if shape.name == "kto" and truth(first_row.get(mapping["label"])) is None:
            continue
        return Recognised(shape.name, mapping, [])
    if (found := _by_words(columns)) is not None:
        return Recognised("question_answer", found, [])
    for name in NEARLY:
        mapping = _mapping(SHAPES[name], known)
        missing = [role for role in SHAPES[name].required if role not in mapping]
        if len(missing) == 1 and not {plain(column) for column in mapping.values()} <= WEAK:
            return Recognised(name, mapping, missing)
    return Recognised("tabular", {}, [])


def unused_columns(columns: Sequence[str], mapping: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """`(those that change what a row means, the others)` of the columns that no role has."""
    used = set(mapping.values())
    left = [name for name in columns if name not in used]
    return [name for name in left if plain(name) in MEANINGFUL], [
        name for name in left if plain(name) not in MEANINGFUL
    ]


def plain(name: str) -> str:
    """A heading without what makes no difference: case, accents, blanks and dashes between words."""
    letters = unicodedata.normalize("NFKD", name.strip().lower())
    return re.sub(r"[\s_-]+", "_", "".join(letter for letter in letters if not unicodedata.combining(letter)))


_PLAIN_ALIASES = {role: tuple(plain(alias) for alias in aliases) for role, aliases in ALIASES.items()}
NAMES = frozenset(alias for aliases in _PLAIN_ALIASES.values() for alias in aliases if alias not in ("a", "q")) | {
    "id", "name", "title", "index", "split", "date", "language", "topic", "url", "nr", "key", "value", "weight",
}  # fmt: skip
"""Words that are names of columns wherever they stand alone in the first line."""


def _mapping(shape: Shape, known: Mapping[str, str]) -> dict[str, str]:
    """Role → column; a column has one role only, and required roles choose first."""
    mapping: dict[str, str] = {}
    for role in (*shape.required, *shape.optional):
        column = next((known[a] for a in _PLAIN_ALIASES[role] if a in known and known[a] not in mapping.values()), None)
        if column is not None:
            mapping[role] = column
    return {role: mapping[role] for role in shape.roles if role in mapping}


def _by_words(columns: Sequence[str]) -> dict[str, str] | None:
    """Question and answer where exactly one heading has a word for each of them."""
    found = []
    for words in (ASKED, ANSWERED):
        wanted = tuple(plain(word) for word in words)
        named = [
            name for name in columns if any(part in wanted or part.endswith(wanted) for part in plain(name).split("_"))
        ]
        if len(named) != 1:
            return None
        found.append(named[0])
    return None if found[0] == found[1] else {"question": found[0], "answer": found[1]}


def _holds_lists(shape: Shape, mapping: Mapping[str, str], first_row: Mapping[str, Any]) -> bool:
    values = [first_row.get(mapping[role]) for role in shape.required]
    return all(value is None or isinstance(value, list) or str(value).lstrip().startswith("[") for value in values)
