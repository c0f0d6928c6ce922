"""A stored version as JSON Lines, Parquet or CSV, a part at a time."""

from __future__ import annotations

import io
import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.core.spreadsheet import csv_rows

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

BATCH_ROWS = 500
MAX_FIELDS = 500
"""Of a nested column in Parquet; one with more keys than that stays JSON text."""


def export(data: Path, kind: str, json_columns: Collection[str]) -> Iterator[bytes]:
    """Constant memory. JSON Lines and Parquet give back the values of `json_columns`, which are stored as JSON text; CSV is meant
    for spreadsheets, so cells that would start a formula get a quote."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(data) as file:
        parts = {"jsonl": _jsonl, "parquet": _parquet, "csv": _csv}
        yield from parts[kind](file, [name for name in file.schema_arrow.names if name in json_columns])


def value_of(cell: Any) -> Any:
    """What a cell of JSON text stands for; a text that is no JSON is itself."""
    if not isinstance(cell, str):
        return cell
    try:
        return json.loads(cell)
    except (ValueError, RecursionError):
        return cell


def _csv(file: pq.ParquetFile, _json_columns: list[str]) -> Iterator[bytes]:
    names = file.schema_arrow.names
    yield csv_rows([names]).encode()
    for batch in file.iter_batches(batch_size=BATCH_ROWS):
        yield csv_rows([row[name] for name in names] for row in batch.to_pylist()).encode()


def _jsonl(file: pq.ParquetFile, json_columns: list[str]) -> Iterator[bytes]:
    for batch in file.iter_batches(batch_size=BATCH_ROWS):
        rows = batch.to_pylist()
        for row in rows:
            for name in json_columns:
                row[name] = value_of(row[name])
        yield "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows).encode()


def _parquet(file: pq.ParquetFile, json_columns: list[str]) -> Iterator[bytes]:
    """Two passes: the types of the nested columns, then the rows. A key that a row lacks is null there."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {name: found for name in json_columns if (found := _type_of(file, name)) is not None}
    schema = pa.schema([field.with_type(types.get(field.name, field.type)) for field in file.schema_arrow])
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, schema, compression="zstd") as writer:
        for batch in file.iter_batches(batch_size=8 * BATCH_ROWS):
            arrays = [
                pa.array(_values(column), type=types[name]) if name in types else column
                for name, column in zip(schema.names, batch.columns, strict=True)
            ]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
            yield sink.getvalue()
            sink.seek(0)
            sink.truncate()
    yield sink.getvalue()


def _values(column: pa.Array) -> list[Any]:
    return [value_of(cell) for cell in column.to_pylist()]


def _type_of(file: pq.ParquetFile, name: str) -> pa.DataType | None:
    """The type that holds every value of a column as it is; None when none does, so that it has to stay text."""
    import pyarrow as pa

    found: pa.DataType = pa.null()
    try:
        for batch in file.iter_batches(batch_size=8 * BATCH_ROWS, columns=[name]):
            new = pa.infer_type(_values(batch.column(0)))
            merged = pa.unify_schemas(
                [pa.schema([("v", found)]), pa.schema([("v", new)])], promote_options="permissive"
            )
            found = merged.field("v").type
            if _num_fields(found) > MAX_FIELDS:
                return None
        for batch in file.iter_batches(batch_size=8 * BATCH_ROWS, columns=[name]):
            values = _values(batch.column(0))
            if not _same(pa.array(values, type=found).to_pylist(), values):
                return None
    except (pa.ArrowException, OverflowError, TypeError):
        return None
    return None if pa.types.is_null(found) else found


def _num_fields(kind: pa.DataType) -> int:
    return 1 + sum(_num_fields(kind.field(index).type) for index in range(kind.num_fields))


def _same(back: Any, value: Any) -> bool:
    """Equal in kind and value, but that keys which an object lacks are null."""
    if isinstance(value, dict):
        return isinstance(back, dict) and all(_same(found, value.get(key)) for key, found in back.items())
    if isinstance(value, list):
        return isinstance(back, list) and len(back) == len(value) and all(map(_same, back, value))
    return type(back) is type(value) and bool(back == value)
