"""Numbers, sizes and times as people read them; the filters of the templates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

from tunesmith.core.clock import utc_now

NONE = "–"
"""What stands where there is no value."""
SIZES = ("B", "kB", "MB", "GB", "TB", "PB")
MODEL_SIZES = {
    "under-500m": "Under 500M",
    "500m-2b": "500M to 2B",
    "2b-5b": "2B to 5B",
    "5b-10b": "5B to 10B",
    "over-10b": "Over 10B",
}
"""Sizes of models, in weights, that one may ask for."""
AGO = ((86400 * 365, "y"), (86400 * 30, "mo"), (86400, "d"), (3600, "h"), (60, "min"))


def size(count: float | None) -> str:
    """`1.2 GB` of bytes; decimal units."""
    if count is None:
        return NONE
    value, unit = float(count), SIZES[0]
    for unit in SIZES:
        if abs(value) < 999.5 or unit == SIZES[-1]:
            break
        value /= 1000
    digits = 0 if unit == "B" or abs(value) >= 99.95 else 1
    return f"{value:.{digits}f} {unit}"


def number(value: float | None) -> str:
    """`12,345`; up to two decimals."""
    if value is None:
        return NONE
    if isinstance(value, int) or float(value).is_integer():
        return f"{int(value):,}"
    return f"{value:,.2f}"


def measured(value: float | None, unit: str = "") -> str:
    """A metric's value: a share in per cent, others to four digits."""
    return f"{100 * value:.1f} %" if unit == "share" and value is not None else signif(value)


def signif(value: float | None, digits: int = 4) -> str:
    """`digits` significant digits, with separators: `0.0002`, `1.234`, `19,340`; powers of ten only where it would be long."""
    if value is None:
        return NONE
    if not math.isfinite(value) or not 1e-8 <= abs(value) < 1e15:
        return f"{value:.{digits}g}"
    return f"{Decimal(f'{value:.{digits}g}'):,f}"


def percent(share: float | None, digits: int = 0) -> str:
    """`42 %` of 0.42."""
    return NONE if share is None else f"{share * 100:.{digits}f} %"


def duration(seconds: float | None) -> str:
    """`2 h 5 min`, `3 min 20 s`, `4.2 s`."""
    if seconds is None:
        return NONE
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    days, hours, minutes = whole // 86400, whole // 3600, whole // 60
    if days:
        return f"{days} d {hours % 24} h"
    if hours:
        return f"{hours} h {minutes % 60} min"
    return f"{minutes} min {whole % 60} s" if minutes else f"{whole} s"


def ago(moment: datetime) -> str:
    """`3 min ago`, `in 2 h`, `just now`."""
    seconds = (utc_now() - moment).total_seconds()
    for unit_s, unit in AGO:
        if abs(seconds) >= unit_s:
            text = f"{int(abs(seconds) // unit_s)} {unit}"
            return f"{text} ago" if seconds > 0 else f"in {text}"
    return "just now"


def exact(moment: datetime) -> str:
    """`2026-01-31 14:05:09 UTC`."""
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def sparkpath(values: Sequence[float | None], width: int = 120, height: int = 28) -> str:
    """The `d` of an SVG path through `values`, left to right; empty with fewer than two finite ones."""
    points = [(x, y) for x, y in enumerate(values) if y is not None and math.isfinite(y)]
    if len(points) < 2:
        return ""
    low, high = min(y for _, y in points), max(y for _, y in points)
    across, down = width / (len(values) - 1), (height - 4) / ((high - low) or 1)
    return "M" + "L".join(f"{x * across:.1f},{2 + (high - y) * down:.1f}" for x, y in points)


def place(detail: Mapping[str, Any]) -> str:
    """`row 12, column answer: is empty` of one detail of an error, whatever it names: a field, a row, or nothing."""
    row, column, loc = detail.get("row"), detail.get("column"), detail.get("loc")
    named = [f"row {row:,}" if isinstance(row, int) else "", f"column {column}" if column else ""]
    where = ", ".join(filter(None, named)) or str(loc or "")
    return ": ".join(filter(None, (where, str(detail.get("message") or ""))))


BROWSERS = (("Edg/", "Edge"), ("OPR/", "Opera"), ("Firefox/", "Firefox"), ("Chrome/", "Chrome"), ("Safari/", "Safari"))
SYSTEMS = (
    ("Windows", "Windows"),
    ("Android", "Android"),
    ("iPhone", "iPhone"),
    ("iPad", "iPad"),
    ("Mac OS", "macOS"),
    ("Linux", "Linux"),
)


def agent(text: str) -> str:
    """`Firefox on Linux` of what a browser calls itself; the first name that fits, for they all claim to be others too."""
    browser = next((name for mark, name in BROWSERS if mark in text), "A browser")
    system = next((name for mark, name in SYSTEMS if mark in text), "")
    return f"{browser} on {system}" if system else browser


FILTERS = {
    "agent": agent,
    "bytes": size,
    "number": number,
    "signif": signif,
    "measured": measured,
    "percent": percent,
    "duration": duration,
    "ago": ago,
    "exact": exact,
    "place": place,
    "sparkpath": sparkpath,
}
