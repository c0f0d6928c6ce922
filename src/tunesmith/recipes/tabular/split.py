"""Which rows are held out and which fold each other row is in. A function of the data and the seed; equal rows stay together."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import numpy as np

from tunesmith.core.errors import FailureCode, JobFailure
from tunesmith.core.words import plural

STRATA = 10
"""Ranges of a number to predict that each fold gets alike."""


class Fold(NamedTuple):
    """Places of the rows to learn from, and of those that tell when to stop and how good it is."""

    train: np.ndarray
    valid: np.ndarray
    """Empty for the last fit of a split by time, which learns from all rows."""


class Split(NamedTuple):
    """Of all rows of a table."""

    held_out: np.ndarray
    """Bool: nothing is learned from them or chosen by them."""
    folds: list[Fold]
    is_refitted: bool
    """Whether the folds only measure, and what answers is fitted once more on all rows that are not held out."""
    num_moved: int = 0
    """Rows that have an equal row and so were kept on its side."""


def content_groups(values: dict[str, np.ndarray]) -> np.ndarray:
    """(rows,) int64, equal where all columns that the model sees are equal."""
    import pandas as pd

    hashes = np.zeros(len(next(iter(values.values()))), dtype=np.uint64)
    for name in sorted(values):
        salt = np.uint64(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little") | 1)
        column = values[name]
        filled = (
            column
            if column.dtype != object
            else np.asarray([value if value is not None else "\0" for value in column], dtype=object)
        )
        hashes = hashes * np.uint64(0x9E3779B97F4A7C15) + pd.util.hash_array(filled) * salt
    return np.unique(hashes, return_inverse=True)[1].astype(np.int64)


def strata_of(y: np.ndarray, is_classification: bool) -> np.ndarray:
    """(rows,) int: the class, or the tenth of the values that a number is in."""
    if is_classification:
        return y.astype(np.int64)
    edges = np.unique(np.quantile(y, np.linspace(0, 1, STRATA + 1)[1:-1]))
    return np.searchsorted(edges, y, side="right")


def split_rows(
    y: np.ndarray,
    is_classification: bool,
    *,
    how: str,
    units: np.ndarray,
    times: np.ndarray | None,
    held_out: np.ndarray,
    share: float,
    num_folds: int,
    seed: int,
) -> Split:
    """`units`: rows of the same number stay on one side (equal rows, or groups). `held_out`: what the data itself holds out;
    where that is none, `share` of the rows is drawn, or with `how` time are the latest. Raises `JobFailure` naming what is too few."""
    held_out = held_out.copy()
    if how == "time":
        assert times is not None
        return _by_time(times, held_out, share, num_folds)
    strata = strata_of(y, is_classification)
    rng = np.random.default_rng(seed)
    num_moved = len(units) - len(np.unique(units)) if how == "random" else 0
    if share > 0 and not held_out.any():
        parts = _spread(units, strata, max(2, round(1 / share)) if share <= 0.5 else 2, rng, share)
        held_out = parts == 0
    rest = np.flatnonzero(~held_out)
    num_units = len(np.unique(units[rest]))
    if num_units < num_folds:
        kind = "groups" if how == "group" else "different rows"
        raise JobFailure(
            FailureCode.INVALID_SETTINGS,
            f"{num_units} {kind} are too few for {num_folds} folds.",
            hint="Set folds lower.",
        )
    parts = _spread(units[rest], strata[rest], num_folds, rng)
    folds = [Fold(rest[parts != part], rest[parts == part]) for part in range(num_folds)]
    for place, fold in enumerate(folds, 1):
        if is_classification and len(np.unique(y[fold.train])) < len(np.unique(y[rest])):
            raise JobFailure(
                FailureCode.BAD_DATA,
                f"Fold {place} of {num_folds} would learn from rows without one of the classes, as its rows lie in few groups.",
                hint="Set folds lower, or give more groups with this class.",
            )
        if not len(fold.valid):
            raise JobFailure(FailureCode.INVALID_SETTINGS, f"Fold {place} has no rows.", hint="Set folds lower.")
    return Split(held_out, folds, False, num_moved)


def _spread(
    units: np.ndarray, strata: np.ndarray, num_parts: int, rng: np.random.Generator, first_share: float | None = None
) -> np.ndarray:
    """(rows,) the part of each row; parts have about equal shares of every stratum, and units are whole. With `first_share`
    part 0 gets that share and all others are one."""
    names, first, unit_of, sizes = np.unique(units, return_index=True, return_inverse=True, return_counts=True)
    stratum_of = strata[first]
    shares = np.full(num_parts, 1 / num_parts)
    if first_share is not None:
        num_parts, shares = 2, np.asarray([first_share, 1 - first_share])
    part_of = np.zeros(len(names), dtype=np.int64)
    carried = np.zeros(num_parts)
    for stratum in np.unique(stratum_of):
        mine = rng.permutation(np.flatnonzero(stratum_of == stratum))
        mine = mine[np.argsort(-sizes[mine], kind="stable")]  # the largest first, so that the small ones even out
        total = float(sizes[mine].sum())
        room = shares * total + carried
        for unit in mine:
            part = int(np.argmax(room / shares))
            part_of[unit] = part
            room[part] -= sizes[unit]
        carried = room  # what one stratum owes, the next one pays
    return part_of[unit_of]


def _by_time(times: np.ndarray, held_out: np.ndarray, share: float, num_folds: int) -> Split:
    """Blocks in the order of time, of about equal size, never cut between rows of the same time."""
    order = np.argsort(times, kind="stable")
    if share > 0 and not held_out.any():
        edge = times[order[min(len(order) - 1, max(1, round(len(order) * (1 - share))))]]
        held_out = times >= edge
    rest = order[~held_out[order]]
    if not len(rest):
        raise JobFailure(
            FailureCode.BAD_DATA, "All rows have the same time.", hint="Choose another time_column, or split: random."
        )
    if held_out.any() and times[rest].max() > times[held_out].min():
        raise JobFailure(
            FailureCode.BAD_DATA,
            "The rows that the data holds out are not later than those to learn from.",
            hint="Choose split: random, or hold out the latest rows.",
        )
    edges = [times[rest[round(len(rest) * k / (num_folds + 1))]] for k in range(1, num_folds + 1)]
    block = np.searchsorted(np.asarray(edges), times[rest], side="right")
    if len(np.unique(block)) < num_folds + 1:
        raise JobFailure(
            FailureCode.BAD_DATA,
            f"{plural(len(np.unique(times[rest])), 'different time')} are too few for {num_folds} folds by time.",
            hint="Set folds lower, or choose a finer time_column.",
        )
    folds = [Fold(rest[block < part], rest[block == part]) for part in range(1, num_folds + 1)]
    return Split(held_out, [*folds, Fold(rest, rest[:0])], True)
