"""One cell of a table as a number, a category, a text or a date: the same in training, in answers and in CSV files."""

from __future__ import annotations

import math
import re
from datetime import UTC, date, datetime
from typing import Any, Literal

ColumnType = Literal["number", "category", "text", "date"]

MISSING_MARKS = frozenset({"", "na", "n/a", "nan", "null", "none", "?", "-", "--"})
"""Words that stand for a value that is not there, in columns of numbers and dates; compared without case."""
NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")
DATE_FORMATS = (
    "%Y/%m/%d",
    "%Y/%m/%d %H:%M:%S",
    "%d.%m.%Y",
    "%d.%m.%Y %H:%M",
    "%b %d %Y",
    "%B %d, %Y",
    "%d-%b-%Y",
    "%d %b %Y",
)
"""Besides ISO 8601. Dates such as 03/04/2024 are not read: nobody knows which number is the month."""
EXAMPLES: dict[ColumnType, str] = {
    "number": "12.5",
    "category": '"red"',
    "text": '"a few words"',
    "date": '"2026-11-30"',
}


def is_missing_mark(text: str) -> bool:
    """Whether a cell's text says that there is no value."""
    return text.strip().lower() in MISSING_MARKS


def read_number(value: Any) -> float:
    """A float, NaN for a missing value. Raises `ValueError` for what is no finite number."""
    if value is None:
        return math.nan
    if isinstance(value, str):
        text = value.strip()
        if is_missing_mark(text):
            return math.nan
        if not NUMBER.fullmatch(text):
            raise ValueError(f"{_shown(value)} is not a number")
        found = float(text)
    elif isinstance(value, bool | int | float):
        found = float(value)
    else:
        raise ValueError(f"{_shown(value)} is not a number")
    if math.isinf(found):
        raise ValueError(f"{_shown(value)} is not a finite number")
    return found


def read_category(value: Any) -> str | None:
    """The category's name, None for a missing value. Numbers and truth values have the names that they have in a CSV file."""
    if value is None:
        return None
    if isinstance(value, str):
        return value.strip() or None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        if math.isnan(value):
            return None
        return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
    raise ValueError(f"{_shown(value)} is not a single value")


def read_text(value: Any) -> str | None:
    """The text, None for a missing or empty one."""
    if value is None or isinstance(value, str):
        return value if value and value.strip() else None
    return read_category(value)


def read_date(value: Any) -> float:
    """Seconds since 1970 (UTC where no zone is named), NaN for a missing value. Raises `ValueError` for what is no date."""
    if value is None:
        return math.nan
    if isinstance(value, datetime):
        return _seconds(value)
    if isinstance(value, date):
        return _seconds(datetime(value.year, value.month, value.day, tzinfo=UTC))
    if not isinstance(value, str):
        raise ValueError(f"{_shown(value)} is not a date")
    text = value.strip()
    if is_missing_mark(text):
        return math.nan
    if not text.isdigit():  # 20260101 is a number
        try:
            return _seconds(datetime.fromisoformat(text))
        except ValueError:
            pass
        for form in DATE_FORMATS:
            try:
                return _seconds(datetime.strptime(text, form).replace(tzinfo=UTC))
            except ValueError:
                continue
    raise ValueError(f"{_shown(value)} is not a date")


def _seconds(moment: datetime) -> float:
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def read_value(value: Any, kind: ColumnType) -> Any:
    """A cell as a column of that type holds it. Raises `ValueError` saying what is wrong with it."""
    if kind == "number":
        return read_number(value)
    if kind == "date":
        return read_date(value)
    return read_category(value) if kind == "category" else read_text(value)


def _shown(value: Any) -> str:
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
