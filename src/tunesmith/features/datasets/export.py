"""A stored version as JSON Lines or CSV, a part at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from tunesmith.core.spreadsheet import csv_rows


def export(data: Path, kind: str) -> Iterator[bytes]:
    """Constant memory. JSON Lines is exact; CSV is meant for spreadsheets, so cells that would start a formula get a quote."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(data) as file:
        names = file.schema_arrow.names
        if kind == "csv":
            yield csv_rows([names]).encode()
        for batch in file.iter_batches(batch_size=500):
            rows = batch.to_pylist()
            if kind == "csv":
                yield csv_rows([row[name] for name in names] for row in rows).encode()
            else:
                yield "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows).encode()
