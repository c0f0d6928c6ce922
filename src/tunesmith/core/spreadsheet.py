"""CSV that people open in a spreadsheet."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "\x00", "＝", "＋", "－", "＠")
"""With the wide forms, which spreadsheets in East Asian languages take for the same."""


def csv_rows(rows: Iterable[Sequence[Any]]) -> str:
    """Lines of CSV; text that a spreadsheet would take for a formula gets a quote (CWE-1236)."""
    text = io.StringIO()
    csv.writer(text).writerows([[_safe(cell) for cell in row] for row in rows])
    return text.getvalue()


def _safe(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA_STARTS) else value
