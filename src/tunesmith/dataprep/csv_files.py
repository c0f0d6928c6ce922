"""CSV and its relatives: all cells as text, from the line on where the table begins."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.csv as pa_csv

from tunesmith.core.errors import BadData
from tunesmith.dataprep.header import LOOKED_AT, MAX_TITLE_ROWS, find_header
from tunesmith.dataprep.tables import MAX_ROWS_NAMED, FileReading

MAX_CELL_BYTES = 16 * 1024 * 1024
BLOCK_BYTES = 4 * 1024 * 1024
MAX_LINES_COUNTED = 2_000_000
"""Rows further down are named by their number alone."""


class Start(NamedTuple):
    """Where the table begins."""

    lines_above: int
    names: list[str]
    has_header: bool


def read_csv(path: Path, delimiter: str, reading: FileReading) -> Iterator[pa.Table]:
    """All cells as text: what a column means is for validation and recipes to say. Lines of the wrong width are reported."""
    csv.field_size_limit(MAX_CELL_BYTES)
    _check_quotes(path, delimiter)
    start = _start(path, delimiter, reading)
    reading.layout.delimiter = delimiter
    ragged: list[int] = []

    def on_ragged(row: Any) -> str:
        ragged.append(max(1, (row.number or 1) - start.has_header))
        return "skip"

    names = start.names
    read = pa_csv.ReadOptions(
        block_size=BLOCK_BYTES,
        column_names=names,
        skip_rows=start.lines_above,
        skip_rows_after_names=int(start.has_header),
        use_threads=False,
    )
    parse = pa_csv.ParseOptions(delimiter=delimiter, newlines_in_values=True, invalid_row_handler=on_ragged)
    convert = pa_csv.ConvertOptions(
        column_types={name: pa.large_string() for name in names}, strings_can_be_null=True, null_values=[""],
        quoted_strings_can_be_null=True, check_utf8=True,
    )  # fmt: skip
    reading.lines = lambda numbers: _Lines(path, delimiter, start).of_rows(numbers)
    try:
        with pa_csv.open_csv(path, read, parse, convert) as batches:
            for batch in batches:
                yield pa.Table.from_batches([batch])
    except pa.ArrowInvalid as error:
        if "Empty CSV" not in str(error):
            said = (str(error).strip().splitlines() or ["unknown"])[0][:300]
            raise BadData(f"The CSV cannot be read: {said}", hint="Check quotes that are not closed.") from None
    finally:  # also when no more rows are wanted
        if ragged:
            do = "1 line does" if len(ragged) == 1 else f"{len(ragged)} lines do"
            left = "was" if len(ragged) == 1 else "were"
            lines = _Lines(path, delimiter, start).ragged(min(len(ragged), MAX_ROWS_NAMED))
            message = f"{do} not have {len(names)} column{'s' if len(names) > 1 else ''} and {left} left out"
            reading.report("ragged_lines", message, ragged, lines=lines)


def _start(path: Path, delimiter: str, reading: FileReading) -> Start:
    """Where the header is, as asked for or found, and the columns' names."""
    wanted = reading.options.header_row
    records, lines = _first_records(path, delimiter, LOOKED_AT + MAX_TITLE_ROWS, after=(wanted or 1) - 1)
    if not records:
        if wanted:
            raise BadData(f"There is no line {wanted} to be the header.", hint="Choose another header row.")
        raise BadData("The file has no rows.", hint="Put at least one row below the header.")
    layout = reading.layout
    if wanted is None:
        found = find_header(records)
        at, line, is_header = found.row, lines[found.row], found.is_header
        if at:
            above = "1 line above it was" if at == 1 else f"{at} lines above it were"
            reading.report("title_lines", f"The table begins in line {line}; {above} left out")
        if not is_header:
            reading.no_header("The file", f"line {line}")
        elif found.doubt:
            shown = ", ".join(repr(cell[:40]) for cell in records[at][:6])
            reading.report("unsure_header", f"Line {line} was read as the header: {shown}", level=found.doubt)
    else:
        at, line, is_header = 0, lines[0], wanted > 0
    layout.header_row = line if is_header else 0
    if is_header:
        return Start(line - 1, reading.column_names(records[at]), has_header=True)
    below = [len(record) for record in records[at:]]
    return Start(line - 1, reading.names_without_header(max(set(below), key=below.count)), has_header=False)


def _first_records(path: Path, delimiter: str, most: int, after: int) -> tuple[list[list[str]], list[int]]:
    """`(records that are not blank, the line that each begins in)`, below `after` lines."""
    records: list[list[str]] = []
    lines: list[int] = []
    try:
        for line, cells in _records(path, delimiter, after):
            records.append(cells)
            lines.append(line)
            if len(records) == most:
                break
    except csv.Error as error:
        raise BadData(f"The header cannot be read: {error}.", hint="Check quotes that are not closed.") from None
    return records, lines


def _records(path: Path, delimiter: str, lines_above: int) -> Iterator[tuple[int, list[str]]]:
    """`(line in which it begins, cells)` of each record that is not blank."""
    with path.open(encoding="utf-8", newline="") as text:
        rows = csv.reader(itertools.islice(text, lines_above, None), delimiter=delimiter)
        begins = lines_above + 1
        for cells in rows:
            if cells:
                yield begins, cells
            begins = lines_above + rows.line_num + 1


class _Lines:
    """Finds records again, to name the lines of the file in which they begin."""

    def __init__(self, path: Path, delimiter: str, start: Start) -> None:
        self._path, self._delimiter, self._start = path, delimiter, start

    def _all(self) -> Iterator[tuple[int, list[str]]]:
        found = _records(self._path, self._delimiter, self._start.lines_above)
        return itertools.islice(found, int(self._start.has_header), MAX_LINES_COUNTED)

    def of_rows(self, numbers: Sequence[int]) -> list[int]:
        """Of rows of the right width, by their ascending numbers from 1; it ends where counting does."""
        lines: list[int] = []
        row = 0
        try:
            for line, cells in self._all():
                row += len(cells) == len(self._start.names)
                while len(lines) < len(numbers) and numbers[len(lines)] == row:
                    lines.append(line)
                if len(lines) == len(numbers):
                    break
        except csv.Error:
            pass
        return lines

    def ragged(self, most: int) -> list[int]:
        """Of the first lines that have another width."""
        width = len(self._start.names)
        try:
            return [line for line, _ in itertools.islice((r for r in self._all() if len(r[1]) != width), most)]
        except csv.Error:
            return []


def _check_quotes(path: Path, delimiter: str) -> None:
    """Raises `BadData` when a quoted cell has no end: all that follows would be taken for its text, and lost."""
    with path.open("rb") as raw:
        quotes = sum(chunk.count(b'"') for chunk in iter(lambda: raw.read(BLOCK_BYTES), b""))
    if quotes % 2 == 0:
        return
    row = -1  # the header is row 0
    with path.open(encoding="utf-8", newline="") as text:
        try:
            for cells in csv.reader(text, delimiter=delimiter, strict=True):
                row += bool(cells)
        except csv.Error as error:
            if "end of data" not in str(error) and "field limit" not in str(error):
                return  # quotes inside cells: read as they stand
            raise BadData(
                f"A quote that opens in row {row + 1} is never closed.",
                hint='Close it; a quote inside a quoted cell is written twice: "".',
                details=[{"row": row + 1, "message": "quote not closed"}],
            ) from None
