"""One cell → the text that it stands for, as it was written; and what lists and objects are behind a cell's text."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from datetime import date, time
from typing import Any

YES, NO = frozenset({"true", "yes", "1", "1.0"}), frozenset({"false", "no", "0", "0.0"})


def is_missing(value: Any) -> bool:
    """Null, or a number that is none."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def text_of(value: Any) -> str:
    """`true`, `1.0` and large whole numbers as JSON writes them, lists and objects as JSON; nothing of what is missing."""
    if isinstance(value, str):
        return value
    if is_missing(value):
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping) or (isinstance(value, Sequence) and not isinstance(value, bytes)):
        return json.dumps(value, ensure_ascii=False, default=str)
    return value.isoformat() if isinstance(value, date | time) else str(value)


def lines_of(value: Any) -> str:
    """As `text_of`; a list of texts becomes one line for each."""
    items = decoded(value)
    if isinstance(items, list) and items and all(isinstance(item, str) for item in items):
        return "\n".join(items)
    return text_of(value)


def decoded(value: Any) -> Any:
    """Lists and objects may be stored as such or as JSON text; anything else is given back as it is."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def truth(value: Any) -> bool | None:
    """True or false, also when written as a word or a number; None for anything else."""
    said = text_of(value).strip().lower()
    return True if said in YES else False if said in NO else None
