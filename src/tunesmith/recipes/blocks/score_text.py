"""How a score is shown: its number with a unit, and its place on a line. Needs no numpy: pages and reports share it."""

from __future__ import annotations

NONE = "–"
MOST = {"share": 1.0, "of 100": 100.0, "of 5": 5.0}
"""The highest value of scores that have bounds, by unit. All begin at 0."""


def value_text(value: float | None, unit: str) -> str:
    """`82.5 %`, `340 ms`, `12.34`; a dash for None."""
    if value is None:
        return NONE
    if unit == "share":
        return f"{value * 100:.1f} %"
    if unit == "s":
        return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.2f} s"
    return f"{value:.4g}"


def places(
    value: float | None, low: float | None, high: float | None, unit: str, width: float
) -> dict[str, float] | None:
    """Where `low`, `value` and `high` stand on a line of `width` from 0 to the most that there can be; None where the score
    has no bounds or no interval."""
    most = MOST.get(unit)
    if most is None or value is None or low is None or high is None:
        return None
    ends = {"low": low, "value": value, "high": high}
    return {name: width * min(1.0, max(0.0, end / most)) for name, end in ends.items()}
