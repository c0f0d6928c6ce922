"""Rows that nothing can be learned from: which they are, by the very function that training asks. The one place that says so;
validation, repair, and jobs that skip such rows ask here. Rows count from 1."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq

from tunesmith.core.errors import BadData
from tunesmith.dataprep.conversion import CONVERSATIONAL, PAIRS, TEXTS, Example, convert
from tunesmith.dataprep.shapes import SHAPES
from tunesmith.dataprep.values import decoded

MARK = "__mark"
BLANKS = "".join(letter for letter in map(chr, range(0x10000)) if letter.isspace())
"""What Python strips; polars strips a few less."""


def blank(column: str, kind: pl.DataType) -> pl.Expr:
    """Null, or text of nothing but blanks; lists and objects are blank when they are null."""
    if kind.is_nested():
        return pl.col(column).is_null()
    return pl.col(column).is_null() | (pl.col(column).cast(pl.String).str.strip_chars(BLANKS).str.len_bytes() == 0)


def required_columns(shape: str, mapping: dict[str, str]) -> list[str]:
    return [mapping[role] for role in SHAPES[shape].required if role in mapping]


def empty(schema: pl.Schema, required: list[str]) -> pl.Expr:
    """Rows that lack what is required of them; of a plain table nothing is, but that a row is not blank throughout."""
    if required:
        return pl.any_horizontal([blank(column, schema[column]) for column in required])
    return pl.all_horizontal([blank(column, kind) for column, kind in schema.items()])


def _may_mean_more(schema: pl.Schema, shape: str, mapping: dict[str, str]) -> pl.Expr:
    """False for rows that are texts and nothing else, of which `convert` makes what they say."""
    if shape in TEXTS:
        return pl.lit(value=False)
    if shape in PAIRS and not {"label", "tools", "history"} & set(mapping):
        texts = [column for column in mapping.values() if schema[column] == pl.String]
        return pl.any_horizontal(pl.lit(value=False), *[pl.col(c).str.contains(r"^\s*[\[{]") for c in texts])
    return pl.lit(value=True)


def read_unusual(data: Path | str, shape: str, mapping: dict[str, str]) -> Iterator[tuple[int, Example | BadData]]:
    """Each row that has to be looked at one by one, with what is learned from it or why nothing is. Left out are those that
    `empty` finds, and rows of plain texts."""
    schema = pl.Schema(pl.read_parquet_schema(data))
    wanted = ~empty(schema, required_columns(shape, mapping)) & _may_mean_more(schema, shape, mapping)
    marks = pl.scan_parquet(data).select(pl.first().is_null().alias("_"), wanted.fill_null(value=False).alias("wanted"))
    looked_at = marks.collect(engine="streaming")["wanted"].to_numpy()
    first = 0
    with pq.ParquetFile(data) as file:
        for batch in file.iter_batches(columns=list(dict.fromkeys(mapping.values()))):
            places = np.flatnonzero(looked_at[first : first + batch.num_rows])
            first += batch.num_rows
            if len(places):
                rows = batch.take(places).to_pylist()
                yield from _read(zip(places + first - batch.num_rows + 1, rows, strict=True), shape, mapping)


def _read(rows: Any, shape: str, mapping: dict[str, str]) -> Iterator[tuple[int, Example | BadData]]:
    for number, row in rows:
        try:
            yield int(number), convert(row, shape, mapping)
        except BadData as error:
            yield int(number), error


def bad_rows(
    data: Path | str, shape: str, mapping: dict[str, str], looked_at: Callable[[int], None] | None = None
) -> np.ndarray:
    """(bad rows,) int64, ascending: those that lack something required, or that `convert` refuses. `looked_at` is told now and
    then which row has been reached."""
    schema = pl.Schema(pl.read_parquet_schema(data))
    there = {role: column for role, column in mapping.items() if column in schema}
    found = pl.scan_parquet(data).select(empty(schema, required_columns(shape, there)).alias("empty"))
    numbers = (np.flatnonzero(found.collect(engine="streaming")["empty"].to_numpy()) + 1).tolist()
    if shape == "tokens_tags":
        numbers += misfits(pl.read_parquet(data, columns=list(there.values())), there)
    if shape in (*CONVERSATIONAL, *TEXTS):
        for number, example in read_unusual(data, shape, there):
            if isinstance(example, BadData):
                numbers.append(number)
            if looked_at and number % 1000 == 0:
                looked_at(number)
    return np.unique(np.array(numbers, dtype=np.int64))


def bad_rows_of(frame: pl.DataFrame, shape: str, mapping: dict[str, str]) -> pl.Series:
    """(rows,) bool: the same of rows in memory, in their order."""
    lacking = empty(frame.schema, required_columns(shape, mapping)).fill_null(value=False)
    found = frame.with_columns(lacking.alias(MARK))[MARK].to_numpy().copy()
    if shape == "tokens_tags":
        found[np.array(misfits(frame, mapping), dtype=np.int64) - 1] = True
    if shape in (*CONVERSATIONAL, *TEXTS):
        unusual = _may_mean_more(frame.schema, shape, mapping).fill_null(value=False)
        places = np.flatnonzero(frame.with_columns(unusual.alias(MARK))[MARK].to_numpy() & ~found)
        rows = frame.select(list(dict.fromkeys(mapping.values())))[places].iter_rows(named=True)
        for number, example in _read(zip(places + 1, rows, strict=True), shape, mapping):
            found[number - 1] = isinstance(example, BadData)
    return pl.Series("bad", found)


def misfits(frame: pl.DataFrame, mapping: dict[str, str]) -> list[int]:
    """Rows of the shape `tokens_tags` that do not have one tag for each token."""
    if not {"tokens", "tags"} <= set(mapping):
        return []
    bad = []
    for number, cells in enumerate(frame.select(mapping["tokens"], mapping["tags"]).iter_rows(), start=1):
        tokens, tags = (decoded("[]" if cell is None else cell) for cell in cells)
        if not isinstance(tokens, list) or not isinstance(tags, list) or len(tokens) != len(tags):
            bad.append(number)
    return bad
