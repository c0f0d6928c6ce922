"""Workbooks: the sheet that holds examples, and the table in it."""

from __future__ import annotations

import functools
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from tunesmith.core.errors import BadData, TooLarge
from tunesmith.dataprep.header import LOOKED_AT, MAX_TITLE_ROWS, find_header
from tunesmith.dataprep.shapes import recognise
from tunesmith.dataprep.source import CHUNK_BYTES, DAMAGED_ZIP, open_zip
from tunesmith.dataprep.tables import FileReading, as_text, column_names, tables

MAX_UNPACKED_BYTES = 1024 * 1024 * 1024
MAX_CELLS = 50_000_000
"""In a sheet, empty ones between others included: a workbook is read whole."""
CELL = re.compile(rb"""\br=["']([A-Z]{0,3})(\d{1,7})["']""")


class Table(NamedTuple):
    """What one sheet holds."""

    sheet: str
    header: list[str] | None
    """Texts of the header; None where there is none."""
    header_row: int
    """Its row in the sheet, from 1; 0 where there is none."""
    titles: int
    """Rows with something in them above the table."""
    doubt: str
    rows: list[list[Any]]
    numbers: list[int]
    """Of each row its number in the sheet, from 1."""

    @property
    def width(self) -> int:
        return max((len(row) for row in ([self.header] if self.header else self.rows)), default=0)


def read_xlsx(path: Path, reading: FileReading) -> Iterator[pa.Table]:
    """The sheet that is asked for, else the first that looks like examples. Formulas give their stored results."""
    found = _chosen(_read_sheets(path, reading), reading)
    layout = reading.layout
    layout.sheet, layout.header_row = found.sheet, found.header_row
    header = found.header
    names = reading.names_without_header(found.width) if header is None else reading.column_names(header)
    _tell(found, reading)
    kinds = reading.kinds(names)
    rows = [
        {name: (None if cell == "" else cell) for name, cell in zip(names, row, strict=False)} for row in found.rows
    ]
    for row in rows:
        kinds.note(row)
    reading.lines = lambda numbers: [found.numbers[number - 1] for number in numbers]
    yield from tables(rows, kinds, reading, as_in_a_sheet)


def _read_sheets(path: Path, reading: FileReading) -> list[tuple[str, list[list[Any]]]]:
    """Name and cells of each sheet. Raises `BadData` or `TooLarge`."""
    from python_calamine import CalamineError, load_workbook

    with open_zip(path) as archive:
        size_bytes = sum(info.file_size for info in archive.infolist())
        if size_bytes > min(MAX_UNPACKED_BYTES, max(64 << 20, path.stat().st_size * 200)):
            raise TooLarge(f"Unpacked, the workbook has {size_bytes >> 20} MB.", hint="Save the sheet as CSV.")
        for name in archive.namelist():
            if name.startswith("xl/worksheets/") and name.endswith(".xml"):
                _check_extent(archive, name)
    try:
        book = load_workbook(str(path))
        sheets = [(name, book.get_sheet_by_index(i).to_python(skip_empty_area=False)) for i, name in enumerate(book.sheet_names)]  # fmt: skip
    except (CalamineError, ValueError, OSError) as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        raise BadData(f"The workbook cannot be read: {said}", hint="Save it again as .xlsx, or as CSV.") from None
    reading.layout.sheets = [name for name, _ in sheets]
    return sheets


def _chosen(sheets: list[tuple[str, list[list[Any]]]], reading: FileReading) -> Table:
    """The table to read. Others that hold rows are reported."""
    wanted = reading.options.sheet
    names = [name for name, _ in sheets]
    found = [_table(name, cells, reading.options.header_row if wanted is None or _is(wanted, n, names) else None)
             for n, (name, cells) in enumerate(sheets)]  # fmt: skip
    if wanted is not None:
        at = next((n for n in range(len(names)) if _is(wanted, n, names)), None)
        if at is None:
            raise BadData(
                f"The workbook has no sheet {wanted[:80]!r}.", hint=f"Its sheets are: {', '.join(names[:50])}."
            )
        table = found[at]
        if table is None:
            raise BadData(f"Sheet {names[at]!r} has no header and rows.", hint="Choose another sheet or header row.")
        return table
    full = [table for table in found if table is not None]
    if not full:
        hint = "Put names in its first row." if reading.options.header_row is None else "Choose another header row."
        raise BadData("The workbook has no sheet with a header and rows.", hint=hint)
    table = next((t for t in full if _is_known(t)), next((t for t in full if t.width > 1), full[0]))
    others = [t for t in full if t is not table]
    if others:
        are = "are" if len(others) > 1 else "is"
        named = ", ".join(f"{t.sheet} ({len(t.rows)} row{'s' if len(t.rows) > 1 else ''})" for t in others[:20])
        level = "warning" if any(t.width > 1 for t in others) else "info"
        reading.report("other_sheets", f"Sheet {table.sheet} was read; there {are} also {named}", level=level)
    return table


def _is(wanted: str, index: int, names: list[str]) -> bool:
    """Whether a sheet's name or number is meant; a name comes before a number."""
    return names[index] == wanted or (wanted not in names and wanted.isdecimal() and int(wanted) == index + 1)


def _is_known(table: Table) -> bool:
    names = column_names(table.header or [])
    return recognise(names, dict(zip(names, table.rows[0], strict=False))).shape != "tabular"


def _table(sheet: str, cells: list[list[Any]], header_row: int | None) -> Table | None:
    """What is in a sheet; None when there are no rows below a header."""
    numbers = [number for number, row in enumerate(cells, start=1) if any(cell != "" for cell in row)]
    doubt, first = "", 0
    if header_row is None:
        texts = [[as_in_a_sheet(cell) or "" for cell in cells[n - 1]] for n in numbers[: LOOKED_AT + MAX_TITLE_ROWS]]
        if not texts:
            return None
        header = find_header(texts)
        first, doubt = header.row, header.doubt
        header_row = numbers[first] if header.is_header else 0
    elif header_row:
        if header_row not in numbers:
            return None
        first = numbers.index(header_row)
    body = numbers[first + 1 :] if header_row else numbers[first:]
    if not body:
        return None
    used = [header_row, *body] if header_row else body
    left = min(next(n for n, cell in enumerate(cells[number - 1]) if cell != "") for number in used)
    right = max(len(row) - next(n for n, cell in enumerate(reversed(row)) if cell != "") for row in (cells[number - 1] for number in used))  # fmt: skip
    names = [as_in_a_sheet(cell) or "" for cell in cells[header_row - 1][left:right]] if header_row else None
    return Table(sheet, names, header_row, first, doubt, [cells[n - 1][left:right] for n in body], body)


def _tell(table: Table, reading: FileReading) -> None:
    """What was assumed of the header."""
    if reading.options.header_row is not None:
        return
    if table.titles:
        above = "1 row above it was" if table.titles == 1 else f"{table.titles} rows above it were"
        reading.report("title_lines", f"The table begins in row {table.header_row or table.numbers[0]} of sheet {table.sheet}; {above} left out")  # fmt: skip
    if table.header is None:
        reading.no_header(f"Sheet {table.sheet}", f"row {table.numbers[0]}")
    elif table.doubt:
        reading.report("unsure_header", f"Row {table.header_row} of sheet {table.sheet} was read as the header", level=table.doubt)  # fmt: skip


def as_in_a_sheet(value: Any) -> str | None:
    """Workbooks know no whole numbers: 1 is stored as 1.0."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return str(int(value))
    return as_text(value)


def _check_extent(archive: zipfile.ZipFile, sheet: str) -> None:
    """Raises `TooLarge` for a sheet whose cells lie far apart: one far corner would make it billions of empty cells."""
    columns = rows = 0
    tail = b""
    try:
        with archive.open(sheet) as xml:
            while chunk := xml.read(CHUNK_BYTES):
                for letters, number in CELL.findall(tail + chunk):
                    rows = max(rows, int(number))
                    columns = max(columns, functools.reduce(lambda n, letter: n * 26 + letter - 64, letters, 0))
                tail = chunk[-40:]
    except DAMAGED_ZIP:
        raise BadData("The workbook is damaged or cut off.", hint="Save it again as .xlsx, or as CSV.") from None
    if rows * max(columns, 1) > MAX_CELLS:
        raise TooLarge(
            f"The sheet reaches to row {rows} and column {columns}; {MAX_CELLS} cells are read.",
            hint="Delete cells far from the rest, or save the sheet as CSV.",
        )
