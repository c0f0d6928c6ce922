"""Counts and row numbers as people read them, in every sentence that has some."""

from __future__ import annotations

from collections.abc import Sequence

FEW = 5
"""Row numbers that a sentence names before it only counts."""


def plural(count: int, one: str, many: str = "") -> str:
    """`1 row`, `2,000 rows`; `many` where the plural is not `one` with an s."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def rows_named(numbers: Sequence[int], count: int | None = None, *, one: str = "row") -> str:
    """`row 3`, `rows 3 and 9`, `rows 3, 9, 12, 20, 31 and 161 more`. `count`: how many there are when `numbers` are only the
    first of them. Empty when there are none."""
    if not numbers:
        return ""
    count = len(numbers) if count is None else count
    shown = [str(number) for number in numbers[:FEW]]
    more = count - len(shown)
    parts = [*shown, f"{more:,} more"] if more > 0 else shown
    text = parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
    return f"{one if count == 1 else one + 's'} {text}"
