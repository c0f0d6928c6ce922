"""Cells changed and rows deleted by a person: a new frame, and what was done."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from tunesmith.core.errors import BadData
from tunesmith.dataprep.repair import MAX_EXAMPLES, MAX_SHOWN_CHARS, ROW
from tunesmith.schemas.datasets import CellEdit, EditRequest, RepairStep

TRUTH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def edit(data: Path, request: EditRequest) -> tuple[pl.DataFrame, list[RepairStep]]:
    """The edited rows and one step for each kind of edit. Raises `BadData` for a value that its column cannot hold."""
    before = pl.read_parquet(data)
    after, steps = before, []
    if request.cells:
        for column in dict.fromkeys(cell.column for cell in request.cells):
            cells = {
                cell.row: cell for cell in request.cells if cell.column == column
            }  # the last word on a cell counts
            rows = pl.Series([row - 1 for row in cells], dtype=pl.UInt32)
            changed = after[column].scatter(rows, _values(list(cells.values()), after.schema[column]))
            after = after.with_columns(changed)
        rows_changed = len({cell.row for cell in request.cells})
        examples = [_example(before, after, cell) for cell in request.cells[:MAX_EXAMPLES]]
        steps.append(RepairStep(repair="edit_cells", rows_changed=rows_changed, examples=examples))
    if request.drop_rows:
        numbered = after.with_row_index(ROW, offset=1)
        gone = pl.col(ROW).is_in(sorted(set(request.drop_rows)))
        dropped = numbered.filter(gone)
        examples = [
            {"row": row.pop(ROW), "before": {key: _shown(value) for key, value in row.items()}, "after": None}
            for row in dropped.head(MAX_EXAMPLES).iter_rows(named=True)
        ]
        steps.append(RepairStep(repair="delete_rows", rows_dropped=dropped.height, examples=examples))
        after = numbered.filter(~gone).drop(ROW)
    return after, steps


def _values(cells: list[CellEdit], kind: pl.DataType) -> pl.Series:
    """The new values as the column's type."""
    given = pl.Series([cell.value for cell in cells], dtype=pl.String)
    if kind == pl.String:
        return given
    if kind == pl.Boolean:
        values = pl.Series([TRUTH.get((cell.value or "").strip().lower()) for cell in cells], dtype=pl.Boolean)
    else:
        values = given.str.strip_chars().cast(kind, strict=False)
    wrong = [
        cell for cell, value in zip(cells, values, strict=True) if value is None and (cell.value or "").strip() != ""
    ]
    if wrong:
        first = wrong[0]
        raise BadData(
            f"Row {first.row}: {(first.value or '')[:80]!r} does not fit column {first.column[:80]!r}, which holds {kind}.",
            hint="Write it as the other cells of the column are written, or leave the cell empty.",
            details=[
                {"loc": f"cells.{cell.row}.{cell.column}", "row": cell.row, "message": f"not {kind}"}
                for cell in wrong[:20]
            ],
        )
    return values


def _example(before: pl.DataFrame, after: pl.DataFrame, cell: CellEdit) -> dict[str, object]:
    old, new = before[cell.column][cell.row - 1], after[cell.column][cell.row - 1]
    return {"row": cell.row, "before": {cell.column: _shown(old)}, "after": {cell.column: _shown(new)}}


def _shown(value: object) -> str:
    return "" if value is None else str(value)[:MAX_SHOWN_CHARS]
