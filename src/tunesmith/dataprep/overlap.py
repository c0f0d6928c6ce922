"""Rows that a training set shares with a held-out one, exactly or nearly: they make a score look better than it is."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import polars as pl

from tunesmith.dataprep.tables import MAX_ROWS_NAMED
from tunesmith.schemas.datasets import Finding

MAX_COMPARED = 20_000
"""Rows of each side that are compared by shingles; the other two comparisons cover all."""
MAX_CHARS = 10_000
"""Of a row, for the comparison by shingles."""
NUM_HASHES, ROWS_PER_BAND = 32, 4
SHINGLE_WORDS = 3
SIMILAR = 0.8
PRIME = np.uint64((1 << 61) - 1)


def folded(column: str, *, digits: bool) -> pl.Expr:
    """Lower case; punctuation and blanks, with `digits` numbers too, are one blank."""
    ignored = r"[\W\d_]+" if digits else r"[\W_]+"
    return pl.col(column).cast(pl.String).str.to_lowercase().str.replace_all(ignored, " ").str.strip_chars()


def overlap(train: Path, held_out: Path, columns: list[str]) -> list[Finding]:
    """Findings on rows of `held_out` that `train` has too. `columns` are those of both."""
    text = pl.concat_str([folded(column, digits=False) for column in columns], separator=" ", ignore_nulls=True)
    ours, theirs = (
        pl.scan_parquet(path).with_row_index("__row", offset=1).select("__row", text.alias("text"))
        for path in (train, held_out)
    )
    our_keys, their_keys = (rows.filter(pl.col("text").str.len_bytes() > 0).select(*_keys()) for rows in (ours, theirs))
    known = our_keys.collect(engine="streaming")
    marked = their_keys.with_columns(
        pl.col("same").is_in(known["same"].unique().implode()),
        pl.col("but_numbers").is_in(known["but_numbers"].unique().implode()),
    ).collect(engine="streaming")
    same = marked.filter("same")["__row"].sort().to_list()
    but_numbers = marked.filter(~pl.col("same") & pl.col("but_numbers"))["__row"]
    seen = pl.concat([marked.filter("same")["__row"], but_numbers])
    rest = theirs.filter(~pl.col("__row").is_in(seen.implode())).head(MAX_COMPARED).collect()
    near = sorted({*but_numbers, *_near(ours.head(MAX_COMPARED).collect()["text"].to_list(), rest)})
    findings = []
    if same:
        findings.append(
            Finding(
                level="warning", code="held_out_in_training", count=len(same), rows=same[:MAX_ROWS_NAMED],
                message=f"{len(same)} held-out rows are in the training rows too", hint="Take them out of one side.",
            )
        )  # fmt: skip
    if near:
        findings.append(
            Finding(
                level="warning", code="held_out_nearly_in_training", count=len(near), rows=near[:MAX_ROWS_NAMED],
                message=f"{len(near)} held-out rows are nearly the same as a training row", hint="Look at them in the preview.",
            )
        )  # fmt: skip
    return findings


def _keys() -> list[pl.Expr]:
    """`__row`, and of `text` two hashes: `same` of all, `but_numbers` of what is no number (null when nothing is)."""
    words = pl.col("text").str.replace_all(r"[\d ]+", " ").str.strip_chars()
    but_numbers = pl.when(words.str.len_bytes() > 0).then(words.hash(seed=7))
    return [pl.col("__row"), pl.col("text").hash(seed=7).alias("same"), but_numbers.alias("but_numbers")]


def _near(train_texts: list[str | None], held_out: pl.DataFrame) -> list[int]:
    """MinHash with banding (Broder 1997), candidates checked by their real Jaccard similarity."""
    ours = [_shingles(text or "") for text in train_texts]
    bands: dict[tuple[int, bytes], list[int]] = {}
    for index, shingles in enumerate(ours):
        for band in _bands(shingles):
            bands.setdefault(band, []).append(index)
    found = []
    for row, text in held_out.select("__row", "text").iter_rows():
        shingles = _shingles(text or "")
        candidates = {index for band in _bands(shingles) for index in bands.get(band, ())[:50]}
        if any(_similarity(shingles, ours[index]) >= SIMILAR for index in candidates):
            found.append(row)
    return found


def _shingles(text: str) -> frozenset[int]:
    """By a hash that is the same in every process, so that the same data give the same findings."""
    words = text[:MAX_CHARS].split()
    return frozenset(
        zlib.crc32(" ".join(words[i : i + SHINGLE_WORDS]).encode()) & 0x7FFFFFFF
        for i in range(max(1, len(words) - SHINGLE_WORDS + 1))
    )


_RNG = np.random.default_rng(7)
_A = _RNG.integers(1, 1 << 31, NUM_HASHES, dtype=np.uint64)[:, None]
_B = _RNG.integers(0, 1 << 31, NUM_HASHES, dtype=np.uint64)[:, None]


def _bands(shingles: frozenset[int]) -> list[tuple[int, bytes]]:
    values = np.fromiter(shingles, dtype=np.uint64)
    signature = ((values[None, :] * _A + _B) % PRIME).min(axis=1)
    return [
        (start, signature[start : start + ROWS_PER_BAND].tobytes()) for start in range(0, NUM_HASHES, ROWS_PER_BAND)
    ]


def _similarity(a: frozenset[int], b: frozenset[int]) -> float:
    return len(a & b) / max(1, len(a | b))
