"""Rows of a stored version → texts as the model reads them → tokens. Needs no torch: the preview of a dataset asks it too."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq

from tunesmith.core.errors import BadData
from tunesmith.core.job_spec import DatasetRef
from tunesmith.dataprep.conversion import Example, convert
from tunesmith.recipes.blocks.chat import Lesson

BATCH_ROWS = 512


class Tokens(NamedTuple):
    """One text as tokens."""

    ids: np.ndarray
    """(tokens,) int32"""
    learn: np.ndarray
    """(tokens,) bool: what is learned."""
    places: list[tuple[int, int]]
    """Of each token its characters in the text, from and to."""

    @property
    def first(self) -> int:
        """Place of the first learned token; the length when there is none."""
        return int(np.argmax(self.learn)) if self.learn.any() else len(self.ids)

    @property
    def end(self) -> int:
        """After the last learned token; 0 when there is none."""
        return len(self.ids) - int(np.argmax(self.learn[::-1])) if self.learn.any() else 0


def read_batches(
    path: str | Path, columns: Collection[str], numbers: np.ndarray | None = None
) -> Iterator[tuple[np.ndarray, list[dict[str, Any]]]]:
    """`(numbers of the rows from 1, rows)`; of `numbers`, from 0 in order, only those, reading no more than they need."""
    first = 0
    with pq.ParquetFile(path) as file:
        there = [name for name in file.schema_arrow.names if name in columns]
        for group in range(file.num_row_groups):
            size = file.metadata.row_group(group).num_rows
            wanted = None
            if numbers is not None:
                low, high = np.searchsorted(numbers, [first, first + size])
                wanted = numbers[low:high] - first
            if wanted is None or len(wanted):
                for places, rows in _rows_of_group(file, group, there, wanted):
                    yield places + first + 1, rows
            first += size


def _rows_of_group(
    file: pq.ParquetFile, group: int, columns: list[str], wanted: np.ndarray | None
) -> Iterator[tuple[np.ndarray, list[dict[str, Any]]]]:
    """`(places in the group, rows)`"""
    first = 0
    for batch in file.iter_batches(batch_size=BATCH_ROWS, row_groups=[group], columns=columns):
        size = batch.num_rows
        places = np.arange(first, first + size)
        if wanted is not None:
            low, high = np.searchsorted(wanted, [first, first + size])
            places = wanted[low:high]
            batch = batch.take(places - first)
        if len(places):
            yield places, batch.to_pylist()
        first += size


def read_examples(rows: list[dict[str, Any]], data: DatasetRef) -> list[Example | BadData]:
    """What is to be learned from each row; or why nothing can be."""
    made: list[Example | BadData] = []
    for row in rows:
        try:
            made.append(convert(row, data.shape, data.mapping))
        except BadData as error:
            made.append(error)
    return made


def encode(lessons: list[Lesson], tokenizer: Any) -> Iterator[Tokens]:
    """A token is learned when any of its characters is, so one that crosses from the question into the answer is too."""
    if not lessons:
        return
    encodings = tokenizer([lesson.text for lesson in lessons], add_special_tokens=False, return_offsets_mapping=True)
    for ids, places, lesson in zip(encodings["input_ids"], encodings["offset_mapping"], lessons, strict=True):
        starts, ends = np.array(places, dtype=np.int64).reshape(-1, 2).T
        mask = np.zeros(len(ids), dtype=bool)
        for begin, end in lesson.spans:
            mask |= (starts < end) & (ends > begin)
        yield Tokens(np.array(ids, dtype=np.int32), mask, places)
