"""Each format → Arrow tables of one schema, in parts. Cells that hold lists or objects are kept as JSON text."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tunesmith.core.errors import BadData, TooLarge
from tunesmith.dataprep.csv_files import read_csv
from tunesmith.dataprep.json_files import read_json, read_jsonl
from tunesmith.dataprep.source import Source
from tunesmith.dataprep.tables import BATCH_ROWS, FileReading, Kinds, as_text, tables
from tunesmith.dataprep.workbooks import read_xlsx

MAX_FOOTER_BYTES = 96 << 20
"""Of a Parquet file: Arrow's own reader gives up beyond 100 MB."""


def read_tables(source: Source, reading: FileReading) -> Iterator[pa.Table]:
    """The rows, in parts. `reading` is told of lines that could not be taken in, and of what was found."""
    readers: dict[str, Callable[[Path, FileReading], Iterator[pa.Table]]] = {
        "csv": lambda path, reading: read_csv(path, source.delimiter or ",", reading),
        "tsv": lambda path, reading: read_csv(path, source.delimiter or "\t", reading),
        "json": read_json,
        "jsonl": read_jsonl,
        "parquet": read_parquet,
        "xlsx": read_xlsx,
        "text": read_text,
        "conll": read_conll,
    }
    return readers[source.format](source.path, reading)


def _footer_bytes(path: Path) -> int:
    """How much of a Parquet file its description takes, as its last bytes say; 0 where they say nothing."""
    if (size := path.stat().st_size) < 12:
        return 0
    with path.open("rb") as file:
        file.seek(-8, os.SEEK_END)
        end = file.read()
    said = int.from_bytes(end[:4], "little")
    return said if end[4:] == b"PAR1" and said < size else 0


def read_parquet(path: Path, reading: FileReading) -> Iterator[pa.Table]:
    """Numbers, text and booleans as they are; nested columns as JSON text."""
    if (size := _footer_bytes(path)) > MAX_FOOTER_BYTES:
        raise TooLarge(
            f"The Parquet file describes its columns in {size >> 20} MB; {MAX_FOOTER_BYTES >> 20} MB are read.",
            hint="Write it with fewer columns, or with larger row groups.",
        )
    try:
        file = pq.ParquetFile(path)
        names = reading.column_names(file.schema_arrow.names)
        plain = [
            (pa.types.is_primitive(t) and not pa.types.is_duration(t))
            or pa.types.is_string(t)
            or pa.types.is_large_string(t)
            for t in file.schema_arrow.types
        ]
        nested = [pa.types.is_nested(t) for t in file.schema_arrow.types]
        reading.json_columns = [name for name, is_nested in zip(names, nested, strict=True) if is_nested]
        rows_before = 0
        for batch in file.iter_batches(batch_size=BATCH_ROWS):
            try:
                batch.validate(full=True)
            except pa.ArrowInvalid as error:
                raise BadData(
                    f"A cell after row {rows_before} of the Parquet file is not as its type says: {_first_line(error)}",
                    hint="Write the file again; text must be UTF-8.",
                ) from None
            rows_before += batch.num_rows
            arrays = []
            for array, keep in zip(batch.columns, plain, strict=True):
                if keep and pa.types.is_floating(array.type):
                    arrays.append(pc.if_else(pc.is_nan(array), None, array))
                elif keep and not pa.types.is_string(array.type):
                    arrays.append(array)
                elif pa.types.is_string(array.type):
                    arrays.append(array.cast(pa.large_string()))
                else:
                    arrays.append(pa.array([as_text(v) for v in array.to_pylist()], type=pa.large_string()))
            yield pa.Table.from_arrays(arrays, names=names)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise BadData(
            f"The Parquet file cannot be read: {_first_line(error)}", hint="Write it again; it may be cut off."
        ) from None


def read_text(path: Path, reading: FileReading) -> Iterator[pa.Table]:
    """Paragraphs where blank lines set them apart, else lines, in one column `text`."""
    with path.open(encoding="utf-8") as lines:
        has_blank = any(not line.strip() for _, line in zip(range(2000), lines, strict=False))

    def rows() -> Iterator[dict[str, Any]]:
        parts: list[str] = []
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                if line.strip():
                    parts.append(line.rstrip("\r\n"))
                if parts and (not has_blank or not line.strip()):
                    yield {"text": "\n".join(parts)}
                    parts = []
        if parts:
            yield {"text": "\n".join(parts)}

    kinds = Kinds()
    kinds.note({"text": ""})
    yield from tables(rows(), kinds, reading)


def read_conll(path: Path, reading: FileReading) -> Iterator[pa.Table]:
    """Token in the first column, tag in the last; blank lines end sentences; `-DOCSTART-` lines are passed over."""
    bad: list[int] = []

    def rows() -> Iterator[dict[str, Any]]:
        tokens: list[str] = []
        tags: list[str] = []
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                cells = line.rstrip("\r\n").split("\t") if "\t" in line else line.split()
                if not line.strip() or line.startswith("-DOCSTART-"):
                    if tokens:
                        yield {"tokens": tokens, "tags": tags}
                    tokens, tags = [], []
                elif len(cells) < 2 or not cells[-1].strip():
                    bad.append(number)
                else:
                    tokens.append(cells[0])
                    tags.append(cells[-1].strip())
        if tokens:
            yield {"tokens": tokens, "tags": tags}

    kinds = Kinds()
    kinds.note({"tokens": [], "tags": []})
    yield from tables(rows(), kinds, reading)
    if bad:
        have = "1 line has no tag and was" if len(bad) == 1 else f"{len(bad)} lines have no tag and were"
        reading.report("ragged_lines", f"{have} left out", bad, lines=bad)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
