"""Splits that a file brings itself: which rows are for training, and which are held out."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from tunesmith.core.errors import BadData
from tunesmith.dataprep.shapes import SPLIT, SPLITS, TRAINING_SPLITS, plain
from tunesmith.schemas.datasets import Finding
from tunesmith.schemas.read_options import FileLayout

MAX_SPLITS = 100


def find_splits(data: Path, names: list[str], wanted: str | None, layout: FileLayout, *, must: bool) -> None:
    """Note which column tells the split, where there are rows to train on and others. `wanted`: a column that is said to.

    Raises `BadData` when that column `must` tell and has no rows to train on, or none to hold out.
    """
    layout.split_column, layout.splits, layout.num_held_out = None, {}, 0
    is_named = wanted is not None and wanted in names
    column = wanted if is_named else next((name for name in names if plain(name) == SPLIT), None)
    if column is None:
        return
    word = pl.col(column).cast(pl.String).str.strip_chars().str.to_lowercase().fill_null("").alias("word")
    counts = pl.scan_parquet(data).select(word).group_by("word").len().sort("len", descending=True).head(MAX_SPLITS + 1)
    found = {str(name): int(count) for name, count in counts.collect().iter_rows()}
    has_both = bool(set(found) & TRAINING_SPLITS) and bool(set(found) - TRAINING_SPLITS)
    if must and is_named and not (has_both and len(found) <= MAX_SPLITS):
        raise BadData(
            f"Column {column[:80]!r} does not tell splits: it holds {', '.join(list(found)[:8])}.",
            hint="Rows to train on are called train there; all others are held out.",
        )
    if has_both and (is_named or set(found) <= SPLITS):
        layout.split_column, layout.splits = column, found
        layout.num_held_out = sum(count for name, count in found.items() if name not in TRAINING_SPLITS)


def splits_found(layout: FileLayout) -> Finding:
    """What the report says of them."""
    told = ", ".join(f"{name or 'none'} {count:,}" for name, count in layout.splits.items())
    return Finding(
        level="info", code="splits", column=layout.split_column, message=f"The file has its own splits: {told}",
        hint="A job learns from train and holds the others out, unless its setting “Hold out by” says otherwise.",
    )  # fmt: skip
