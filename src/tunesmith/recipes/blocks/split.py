"""Which rows are held out, by the number of the row from 0. Equal rows stay on one side, so that none is asked that was learned."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from tunesmith.core.job_spec import DatasetRef
from tunesmith.dataprep.shapes import TRAINING_SPLITS

SPARE_ROWS = 1.1
"""More rows than a run of few steps needs: some may be left out."""


def split_rows(num_rows: int, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """`(training rows, held-out rows)`, chosen by `seed`; at least one row is left on each side when `share` > 0."""
    order = np.random.default_rng([seed, 0x5EED]).permutation(num_rows)
    held_out = _num_held_out(num_rows, share)
    return np.sort(order[held_out:]), np.sort(order[:held_out])


def split_by_content(contents: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The same where all rows differ. Rows with the same number in `contents`, (rows,), are on the same side; when all have
    the same, none is held out."""
    num_rows = len(contents)
    _, group, sizes = np.unique(contents, return_inverse=True, return_counts=True)
    left = _num_held_out(num_rows, share)
    if len(sizes) == num_rows or not left:
        return split_rows(num_rows, share, seed)
    order = np.random.default_rng([seed, 0x5EED]).permutation(num_rows)
    is_held_out = np.zeros(len(sizes), dtype=bool)
    for row in order:
        its = group[row]
        if not is_held_out[its] and sizes[its] <= left:
            is_held_out[its] = True
            left -= int(sizes[its])
            if not left:
                break
    if not is_held_out.any() and len(sizes) > 1:
        is_held_out[np.argmin(sizes)] = True
    found = is_held_out[group]
    return np.flatnonzero(~found), np.flatnonzero(found)


def split_usable(
    data: DatasetRef, contents: np.ndarray, bad: np.ndarray, share: float, seed: int, *, by: str
) -> tuple[np.ndarray, np.ndarray]:
    """The same of the rows but for those of `bad`, (bad rows,) from 1: they are on neither side and count nowhere. `by`:
    `content`, `rows`, or `file` for the split that the data itself has, by content where it has none."""
    usable = np.setdiff1d(np.arange(len(contents)), bad - 1)
    if by == "file" and (own := split_of_file(data)) is not None:
        return np.intersect1d(own[0], usable), np.intersect1d(own[1], usable)
    split = split_rows(len(usable), share, seed) if by == "rows" else split_by_content(contents[usable], share, seed)
    return usable[split[0]], usable[split[1]]


def _num_held_out(num_rows: int, share: float) -> int:
    return min(max(1, round(num_rows * share)), num_rows - 1) if share > 0 and num_rows > 1 else 0


def split_of_file(data: DatasetRef) -> tuple[np.ndarray, np.ndarray] | None:
    """The same as the data itself says; None where it does not."""
    import polars as pl

    if data.split_column is None:
        return None
    word = pl.col(data.split_column).cast(pl.String).str.strip_chars().str.to_lowercase().fill_null("")
    is_held_out = pl.scan_parquet(data.path).select(~word.is_in(list(TRAINING_SPLITS))).collect().to_series().to_numpy()
    return np.flatnonzero(~is_held_out), np.flatnonzero(is_held_out)


def contents_of(path: str | Path, mapping: Mapping[str, str]) -> np.ndarray:
    """(rows,) uint64: equal where all that is learned from two rows is equal but for blanks around it."""
    import polars as pl

    there = pl.read_parquet_schema(path)
    cells = [
        pl.col(mapping[role]).cast(pl.String).str.strip_chars().fill_null("").alias(role)
        for role in sorted(mapping)
        if mapping[role] in there
    ]
    if not cells:
        return np.arange(int(pl.scan_parquet(path).select(pl.len()).collect().item()), dtype=np.uint64)
    hashes = pl.scan_parquet(path).select(pl.struct(cells).hash(seed=7).alias("content")).collect(engine="streaming")
    return hashes["content"].to_numpy()


def needed_rows(train: np.ndarray, num_wanted: int, seed: int) -> np.ndarray:
    """Those of the training rows that a run of `num_wanted` rows reads; all when that is most of them."""
    most = int(num_wanted * SPARE_ROWS) + 64
    if 2 * most >= len(train):
        return train
    return np.sort(np.random.default_rng([seed, 0xFE3]).choice(train, most, replace=False))
