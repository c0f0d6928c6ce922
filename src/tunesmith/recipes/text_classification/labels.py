"""The labels of texts: read from cells, named, and put into one order that does not depend on that of the rows. Imports no torch."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from tunesmith.core.errors import FailureCode, JobFailure
from tunesmith.dataprep.values import decoded, is_missing, text_of

MOST_LABELS = 10_000
SEPARATORS = ("|", ";", ",")
"""Guessed in this order, where texts may have several labels and cells are neither lists nor is a separator given."""
NUMBER = re.compile(r"-?\d+(\.\d+)?")


class Reading(NamedTuple):
    """How label cells are read."""

    is_multi: bool
    separator: str | None = None
    is_guessed: bool = False
    """Whether the separator is a guess."""


def reading_of(multi_label: bool | str, separator: str | None, cells: Sequence[Any]) -> Reading:
    """From the settings, and where they leave it open from the cells."""
    has_lists = any(isinstance(decoded(cell), list) for cell in cells)
    is_multi = (has_lists or separator is not None) if multi_label == "auto" else bool(multi_label)
    if not is_multi:
        return Reading(False)
    if separator is not None or has_lists:
        return Reading(True, separator)
    texts = [text_of(cell) for cell in cells]
    guess = next((mark for mark in SEPARATORS if any(mark in text for text in texts)), None)
    return Reading(True, guess, guess is not None)


def name_of(value: Any) -> str:
    """`3` of 3, 3.0 and " 3", `true` of True; empty where nothing is said."""
    if is_missing(value):
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return text_of(value).strip()


def names_in(cell: Any, reading: Reading) -> tuple[str, ...] | None:
    """The labels in a cell; None where the cell is missing. A text that may have several may have none: an empty list."""
    if not reading.is_multi:
        return (name,) if (name := name_of(cell)) else None
    value = decoded(cell)
    if isinstance(value, list | tuple):
        return tuple(dict.fromkeys(name for each in value if (name := name_of(each))))
    if not name_of(cell):
        return None
    parts = text_of(cell).split(reading.separator) if reading.separator else [cell]
    return tuple(dict.fromkeys(name for part in parts if (name := name_of(part))))


def order_of(name: str) -> tuple[int, float, str]:
    """Numbers by their value, and before words."""
    return (0, float(name), name) if NUMBER.fullmatch(name) else (1, 0.0, name)


def label_set(labels: Iterable[tuple[str, ...]], dataset: str) -> tuple[str, ...]:
    """All names, each once, in order. Raises `JobFailure` for none to choose from, and for more than labels can be."""
    counts = Counter(name for names in labels for name in names)
    if len(counts) > MOST_LABELS:
        numbers = sum(bool(NUMBER.fullmatch(name)) for name in counts)
        what = "numbers to predict" if numbers > len(counts) / 2 else "free text"
        raise JobFailure(
            FailureCode.BAD_DATA,
            f"{dataset} has {len(counts):,} different labels, more than the {MOST_LABELS:,} that can be learned: probably "
            f"the label column holds {what}.",
            hint="Map another column as the label, or group its values first.",
        )
    return tuple(sorted(counts, key=order_of))
