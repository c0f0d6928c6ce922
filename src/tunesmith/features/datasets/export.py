"""A stored version as JSON Lines or CSV, a part at a time."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\x00")


def export(data: Path, kind: str) -> Iterator[bytes]:
    """Constant memory. JSON Lines is exact; CSV is meant for spreadsheets, so cells that would start a formula get a quote."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(data) as file:
        names = file.schema_arrow.names
        if kind == "csv":
            yield _csv_rows([names])
        for batch in file.iter_batches(batch_size=500):
            rows = batch.to_pylist()
            if kind == "csv":
                yield _csv_rows([[_safe(row[name]) for name in names] for row in rows])
            else:
                yield "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows).encode()


def _csv_rows(rows: list[list[Any]]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()


def _safe(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA_STARTS) else value
