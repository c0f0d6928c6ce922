"""Tokenised rows as an Arrow stream, memory-mapped: what a row costs in memory is what is read of it.

A file is written batch by batch beside its place and renamed into it when it is whole. `datasets.Dataset.from_file` reads it too.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tunesmith.core.job_dir import fsync_dir
from tunesmith.engine.packing import IGNORE, count_supervised

SCHEMA = pa.schema(
    {
        "row": pa.int64(),
        "input_ids": pa.list_(pa.int32()),
        "labels": pa.list_(pa.int32()),
        "supervised": pa.int32(),
    }
)
"""`row`: which row of the data it is, from 0 (some may have been left out); `labels`: `IGNORE` where nothing is learned;
`supervised`: how many positions are learned."""


@dataclass(frozen=True)
class TokenRows:
    """The rows of one file, by place from 0."""

    table: pa.Table
    """Of `SCHEMA`."""
    skipped: Sequence[int] = ()
    """Rows of the data, from 1, that cannot be learned from and were left out."""

    @classmethod
    def open(cls, path: Path) -> TokenRows:
        """Memory-mapped. Raises `OSError` when there is no such file."""
        with pa.memory_map(str(path)) as file, pa.ipc.open_stream(file) as stream:
            return cls(stream.read_all())

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def row(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """`(input_ids, labels)` of one row, (length,) int32 both; read-only."""
        ids, labels = (self.table.column(name)[index].values.to_numpy() for name in ("input_ids", "labels"))
        return ids, labels

    @cached_property
    def numbers(self) -> np.ndarray:
        """(rows,) int64: which row of the data each is."""
        return self._column(self.table.column("row"))

    @cached_property
    def lengths(self) -> np.ndarray:
        """(rows,): tokens."""
        return self._column(pc.list_value_length(self.table.column("input_ids")))

    @cached_property
    def num_supervised(self) -> np.ndarray:
        """(rows,): positions that are learned; nothing predicts a row's first token."""
        return self._column(self.table.column("supervised"))

    def _column(self, column: pa.ChunkedArray) -> np.ndarray:
        array: np.ndarray = column.to_numpy().astype(np.int64, copy=False)
        return array


Row = tuple[int, np.ndarray, np.ndarray]
"""`(number, input_ids, learn)`; `learn` (length,) is True where a token is learned."""


def write_rows(path: Path, batches: Iterable[list[Row]]) -> None:
    """Write `batches` to `path`. An error while they are made leaves nothing behind; of two that write the same, the later stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".")
    try:
        with os.fdopen(handle, "wb") as file:
            with pa.ipc.new_stream(file, SCHEMA) as stream:
                for batch in _record_batches(batches):
                    stream.write_batch(batch)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)
    fsync_dir(path.parent)


def _record_batches(batches: Iterable[list[Row]]) -> Iterator[pa.RecordBatch]:
    for rows in batches:
        ids = [ids for _, ids, _ in rows]
        labels = [np.where(learn, ids, IGNORE).astype(np.int32) for _, ids, learn in rows]
        supervised = np.array([count_supervised(row) for row in labels], dtype=np.int32)
        numbers = np.array([number for number, _, _ in rows], dtype=np.int64)
        yield pa.record_batch([numbers, _lists(ids), _lists(labels), supervised], schema=SCHEMA)


def _lists(rows: list[np.ndarray]) -> pa.ListArray:
    offsets = np.cumsum([0, *map(len, rows)], dtype=np.int32)
    return pa.ListArray.from_arrays(offsets, np.concatenate([np.zeros(0, np.int32), *rows]))
