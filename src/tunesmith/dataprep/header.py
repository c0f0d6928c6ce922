"""Where a table begins: title lines above it, its header, or a first row that is none."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from tunesmith.dataprep.shapes import NAMES, plain

LOOKED_AT = 64
"""Records at the beginning of a table that tell."""
MAX_TITLE_ROWS = 30
NUMBER = re.compile(r"[+-]?[.,]?\d[\d.,\u00a0 ]*(?:[%€$£]|[eE][+-]?\d+)?")
DATE = re.compile(r"\d{1,4}[-./]\d{1,2}[-./]\d{1,4}(?:[T ].*)?|\d{1,2}:\d{2}(?::\d{2})?")
YEAR = re.compile(r"(?:19|20|21)\d\d")
SENTENCE_END = re.compile(r"""[.?!…。？！]["'”’»)]?$""")
MAX_NAME_CHARS, MAX_NAME_WORDS = 60, 3
"""Longer texts are no names of columns."""


class Header(NamedTuple):
    """Where a table begins."""

    row: int
    """Index of the header, or of the first row where there is none."""
    is_header: bool
    doubt: str
    """Empty when that is sure; else `info` when nothing tells, `warning` when columns tell different things."""


def find_header(rows: Sequence[Sequence[str]]) -> Header:
    """Look at the first rows of a file or a sheet, cells as text and rows without any left out."""
    start = _first_of_table(rows)
    is_header, doubt = _is_header(rows[start], rows[start + 1 : start + LOOKED_AT])
    return Header(start, is_header, doubt)


def _first_of_table(rows: Sequence[Sequence[str]]) -> int:
    """Rows with few cells above fuller ones are titles: their first cell is filled, and at most half as many as the table has."""
    filled = [sum(bool(cell.strip()) for cell in row) for row in rows]
    usual = Counter(filled[len(filled) // 2 :])
    width = max(usual, key=lambda number: (usual[number], number), default=0)
    for number, row in enumerate(rows[:MAX_TITLE_ROWS]):
        is_title = not filled[number] or (filled[number] <= width / 2 and bool(row[0].strip()))
        if not is_title or number + 1 == len(rows):
            return number
    return 0


def _is_header(cells: Sequence[str], below: Sequence[Sequence[str]]) -> tuple[bool, str]:
    """`(whether these are names, the doubt)`: by names that are known, and by how each differs from what is below it."""
    for_header = for_row = 0
    below = [row for row in below if list(row) != list(cells)]  # files put together repeat their header
    for number, cell in enumerate(cells):
        values = [row[number].strip() for row in below if number < len(row) and row[number].strip()]
        if plain(cell) in NAMES and cell.strip() not in values:
            return True, ""
        vote = _vote(cell.strip(), values)
        for_header, for_row = for_header + (vote > 0), for_row + (vote < 0)
    if for_row > for_header:
        return False, ""
    if for_header:
        return True, "warning" if for_row else ""
    return True, "warning" if for_row or any(map(_is_sentence, cells)) else "info"


def _vote(cell: str, values: list[str]) -> int:
    """1 when the cell is likely a name of what is below it, -1 when it is one more of the same, 0 when that cannot be told."""
    if not cell or not values:
        return 0
    share = sum(_is_figure(value) for value in values) / len(values)
    if _is_figure(cell):
        is_year_above = YEAR.fullmatch(cell) and not any(YEAR.fullmatch(value) for value in values)
        return 1 if is_year_above else -1 if share > 0.5 else 0
    if cell in values:
        return -1
    if _is_sentence(cell):  # forms name their columns by whole questions
        alike = sum(_is_sentence(value) and _is_asked(value) == _is_asked(cell) for value in values) / len(values)
        return -1 if alike > 0.4 else 0 if any(map(_is_sentence, values)) else 1
    if share >= 0.9 or ("_" in cell and cell.isidentifier() and not any("_" in value for value in values)):
        return 1
    is_longer = sum(len(value) > 2 * len(cell) and len(value.split()) > len(cell.split()) for value in values)
    return 1 if is_longer > 0.8 * len(values) else 0


def _is_sentence(text: str) -> bool:
    return bool(SENTENCE_END.search(text)) or len(text) > MAX_NAME_CHARS or len(text.split()) > MAX_NAME_WORDS


def _is_asked(text: str) -> bool:
    return text.endswith(("?", "？"))


def _is_figure(text: str) -> bool:
    return bool(NUMBER.fullmatch(text) or DATE.fullmatch(text))
