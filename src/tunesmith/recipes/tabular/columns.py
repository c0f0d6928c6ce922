"""What each column of a table is: its type, what values it takes, and why some are not used. All of it is a guess unless said."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tunesmith.core.errors import FailureCode, JobFailure
from tunesmith.core.words import plural
from tunesmith.recipes.tabular.values import (
    NUMBER,
    ColumnType,
    is_missing_mark,
    read_category,
    read_date,
    read_number,
    read_text,
)

MAX_CATEGORIES = 10_000
"""Kept of one column, the most frequent; a rarer one counts as missing."""
ID_SHARE = 0.98
"""Share of different values from which words or whole numbers look like identifiers."""
ID_NAME = re.compile(r"(^|[_\s.-])(id|uuid|guid|key|index|nr|rownames|row_?id)$|^unnamed", re.IGNORECASE)
NUMBER_SHARE = 0.95
"""Share of the texts that must be numbers for the column to be one; the others count as missing, and are counted."""
TEXT_WORDS, TEXT_SHARE = 3.0, 0.2
"""Words on average, and share of different values, from which a column of words is text."""


@dataclass(frozen=True)
class Column:
    """One column that the model sees. Bounds, choices and counts are those of the rows it learned from."""

    name: str
    type: ColumnType
    choices: tuple[str, ...] = ()
    """Of a category: all names, the most frequent first."""
    low: float | None = None
    high: float | None = None
    is_integer: bool = False
    has_time: bool = False
    """Of a date: whether some have a time of day."""
    num_missing: int = 0

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "choices": list(self.choices)}

    @classmethod
    def of_json(cls, given: Mapping[str, Any]) -> Column:
        """Raises `KeyError` or `TypeError` for what is none."""
        known = {name: given[name] for name in cls.__dataclass_fields__ if name in given}
        return cls(**{**known, "choices": tuple(known.get("choices", ()))})


def is_nested(kind: pa.DataType) -> bool:
    """Lists, objects, bytes and the like: no single value a row."""
    return pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def refuse_nested(schema: pa.Schema, unused: Sequence[str]) -> None:
    """Raises `JobFailure` naming columns with lists or objects that are not left out."""
    found = [field.name for field in schema if is_nested(field.type) and field.name not in unused]
    if found:
        raise JobFailure(
            FailureCode.BAD_DATA,
            f"Columns with lists or objects cannot be used here: {', '.join(found)}.",
            hint="Name them in exclude_columns, or turn them into columns of single values.",
            details=[{"column": name, "message": "holds lists or objects"} for name in found],
        )


def encoded(array: pa.ChunkedArray) -> tuple[list[Any], np.ndarray]:
    """`(different values, place of each row's value)`; a missing value has place -1."""
    if pa.types.is_dictionary(array.type):
        array = pc.cast(array, array.type.value_type)
    whole = pc.dictionary_encode(array).combine_chunks()
    whole = whole if isinstance(whole, pa.DictionaryArray) else whole.chunk(0)
    places = whole.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    return whole.dictionary.to_pylist(), places


def read_column(array: pa.ChunkedArray, kind: ColumnType) -> tuple[np.ndarray, np.ndarray]:
    """`(values, places of the rows that could not be read)`: float64 for numbers and dates (NaN where missing or unreadable),
    objects (a text or None) for categories and texts."""
    if kind == "number" and (pa.types.is_integer(array.type) or pa.types.is_floating(array.type)):
        values = pc.cast(array, pa.float64(), safe=False).to_numpy(zero_copy_only=False).astype(np.float64)
        bad = np.flatnonzero(np.isinf(values))
        values = np.where(np.isinf(values), np.nan, values)
        return values, bad
    uniques, places = encoded(array)
    is_float = kind in ("number", "date")
    reader = {"number": read_number, "date": read_date, "category": read_category, "text": read_text}[kind]
    table = np.empty(len(uniques) + 1, dtype=np.float64 if is_float else object)
    table[-1] = np.nan if is_float else None
    unread = np.zeros(len(uniques) + 1, dtype=bool)
    for place, value in enumerate(uniques):
        try:
            table[place] = reader(_plain(value) if kind != "date" else value)
        except ValueError:
            table[place], unread[place] = (np.nan if is_float else None), True
    return table[places], np.flatnonzero(unread[places])


def _plain(value: Any) -> Any:
    """Decimals as floats, dates as text."""
    if value is None or isinstance(value, str | bool | int | float):
        return value
    try:
        return float(value)
    except (TypeError, ValueError):
        return str(value)


class Guess:
    """What one column looks like, found by its values."""

    def __init__(self, name: str, array: pa.ChunkedArray) -> None:
        self.name, self.num_rows = name, len(array)
        self.uniques, self.places = encoded(array)
        self.is_text = (
            pa.types.is_string(array.type) or pa.types.is_large_string(array.type) or pa.types.is_dictionary(array.type)
        )
        self.arrow = array.type
        self.counts = np.bincount(self.places[self.places >= 0], minlength=len(self.uniques))
        if self.is_text:
            there = np.asarray([not is_missing_mark(value) for value in self.uniques], dtype=bool)
        else:
            there = np.asarray([value == value for value in self.uniques], dtype=bool)
        self.there = there
        self.num_there = int(self.counts[there].sum()) if len(there) else 0
        self.num_unique = int(there.sum())

    @property
    def is_constant(self) -> bool:
        return self.num_unique <= 1

    def type(self) -> ColumnType:
        """The likeliest type of the values."""
        if pa.types.is_boolean(self.arrow):
            return "category"
        if (
            pa.types.is_temporal(self.arrow)
            and not pa.types.is_time(self.arrow)
            and not pa.types.is_duration(self.arrow)
        ):
            return "date"
        if not self.is_text:
            return "number"
        words = [value for value, there in zip(self.uniques, self.there, strict=True) if there]
        if not words:
            return "category"
        counts = self.counts[self.there]
        if self._share(words, counts, lambda text: bool(NUMBER.fullmatch(text.strip()))) >= NUMBER_SHARE:
            return "number"
        if (
            self._share(words[:50], counts[:50], _is_date) == 1.0
            and self._share(words, counts, _is_date) >= NUMBER_SHARE
        ):
            return "date"
        length = float(np.average([len(text.split()) for text in words], weights=counts))
        if length >= TEXT_WORDS and self.num_unique / self.num_there >= TEXT_SHARE and self.num_unique > 20:
            return "text"
        return "category"

    @staticmethod
    def _share(words: Sequence[str], counts: np.ndarray, is_one: Any) -> float:
        return float(np.average([is_one(text) for text in words], weights=counts))

    def looks_like_id(self, kind: ColumnType) -> bool:
        """Whether nearly each row has a value of its own that says nothing: names and running numbers, not measurements."""
        if self.num_there < 20 or self.num_unique / self.num_there < ID_SHARE or kind in ("text", "date"):
            return False
        if kind == "category":
            return True
        numbers = np.asarray(
            [read_number(_plain(v)) for v, there in zip(self.uniques, self.there, strict=True) if there and _reads(v)]
        )
        if not len(numbers) or not np.all(numbers == np.round(numbers)):
            return False
        runs = numbers.max() - numbers.min() < 1.1 * len(numbers)
        return bool(runs or ID_NAME.search(self.name))


def _reads(value: Any) -> bool:
    try:
        read_number(_plain(value))
    except ValueError:
        return False
    return True


def _is_date(text: str) -> bool:
    try:
        read_date(text)
    except ValueError:
        return False
    return True


def describe_column(name: str, kind: ColumnType, values: np.ndarray) -> Column:
    """What `values` (of the rows to learn from) say about a column."""
    if kind in ("number", "date"):
        there = values[~np.isnan(values)]
        return Column(
            name=name, type=kind,
            low=float(there.min()) if len(there) else None, high=float(there.max()) if len(there) else None,
            is_integer=kind == "number" and bool(len(there)) and bool(np.all(there == np.round(there))),
            has_time=kind == "date" and bool(np.any(np.mod(there, 86400) != 0)),
            num_missing=len(values) - len(there),
        )  # fmt: skip
    num_missing = sum(value is None for value in values)
    if kind == "text":
        return Column(name=name, type=kind, num_missing=num_missing)
    counts = Counter(value for value in values if value is not None)
    names = sorted(counts, key=lambda value: (-counts[value], value))[:MAX_CATEGORIES]
    return Column(name=name, type=kind, choices=tuple(names), num_missing=num_missing)


def unreadable(name: str, kind: ColumnType, rows: np.ndarray, is_asked: bool) -> str:
    """The sentence about values that are not of the column's type."""
    why = "as you asked" if is_asked else "a guess from its values"
    return f"{plural(len(rows), 'value')} of {name} cannot be read as {kind} ({why}) and count as missing."
