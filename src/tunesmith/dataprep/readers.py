"""Each format → Arrow tables of one schema, in parts. Cells that hold lists or objects are kept as JSON text."""

from __future__ import annotations

import csv
import functools
import itertools
import json
import math
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from tunesmith.core.errors import BadData, TooLarge
from tunesmith.core.plurals import plural
from tunesmith.dataprep.source import DAMAGED_ZIP, Source, open_zip
from tunesmith.dataprep.values import is_missing, text_of

BATCH_ROWS = 16_384
MAX_COLUMNS = 2_000
MAX_JSON_BYTES = 1024 * 1024 * 1024
"""A JSON array is read whole; larger data should be JSON Lines."""
MAX_CELLS = 50_000_000
"""In a sheet, empty ones between others included: a workbook is read whole."""
MAX_CELL_BYTES = 16 * 1024 * 1024
CSV_BLOCK_BYTES = 4 * 1024 * 1024
CELL = re.compile(rb"""\br=["']([A-Z]{0,3})(\d{1,7})["']""")

Report = Callable[[str, str, list[int]], None]
"""`(code, message, rows)`: something that validation should name."""


def read_tables(source: Source, report: Report) -> Iterator[pa.Table]:
    """The rows, in parts. `report` is told of lines that could not be taken in."""
    readers: dict[str, Callable[[], Iterator[pa.Table]]] = {
        "csv": lambda: read_csv(source.path, source.delimiter or ",", report),
        "tsv": lambda: read_csv(source.path, "\t", report),
        "json": lambda: read_json(source.path),
        "jsonl": lambda: read_jsonl(source.path, report),
        "parquet": lambda: read_parquet(source.path),
        "xlsx": lambda: read_xlsx(source.path),
        "text": lambda: read_text(source.path),
        "conll": lambda: read_conll(source.path, report),
    }
    return readers[source.format]()


def column_names(header: list[str]) -> list[str]:
    """Names without blanks around, unique, none empty, and none that Polars would take for a pattern or our own."""
    if len(header) > MAX_COLUMNS:
        raise TooLarge(
            f"The file has {len(header)} columns; {MAX_COLUMNS} are read.", hint="Keep the columns that are needed."
        )
    names: list[str] = []
    taken: set[str] = set()
    repeats: dict[str, int] = {}
    for number, name in enumerate(header, start=1):
        plain = _as_text(name.strip().replace("\x00", "")) or f"column_{number}"
        if plain == "*" or (plain.startswith("^") and plain.endswith("$")) or plain in ("__row", "__drop"):
            plain = plain.strip("^$_") + "_"
        unique, again = plain, repeats.get(plain, 1)
        while unique in taken:
            again += 1
            unique = f"{plain}_{again}"
        repeats[plain] = again
        taken.add(unique)
        names.append(unique)
    return names


def read_csv(path: Path, delimiter: str, report: Report) -> Iterator[pa.Table]:
    """All cells as text: what a column means is for validation and recipes to say. Lines of the wrong width are reported."""
    blank_lines, header = _csv_header(path, delimiter)
    names = column_names(header)
    _check_quotes(path, delimiter)
    ragged: list[int] = []

    def on_ragged(row: Any) -> str:
        ragged.append(max(1, (row.number or 1) - 1))
        return "skip"

    read = pa_csv.ReadOptions(
        block_size=CSV_BLOCK_BYTES,
        column_names=names,
        skip_rows=blank_lines,
        skip_rows_after_names=1,
        use_threads=False,
    )
    parse = pa_csv.ParseOptions(delimiter=delimiter, newlines_in_values=True, invalid_row_handler=on_ragged)
    convert = pa_csv.ConvertOptions(
        column_types={name: pa.large_string() for name in names}, strings_can_be_null=True, null_values=[""],
        quoted_strings_can_be_null=True, check_utf8=True,
    )  # fmt: skip
    try:
        with pa_csv.open_csv(path, read, parse, convert) as batches:
            for batch in batches:
                yield pa.Table.from_batches([batch])
    except pa.ArrowInvalid as error:
        if "Empty CSV" not in str(error):
            raise BadData(
                f"The CSV cannot be read: {_first_line(error)}", hint="Check quotes that are not closed."
            ) from None
    finally:  # also when no more rows are wanted
        if ragged:
            message = f"{plural(len(ragged), 'line')} without {len(names)} columns left out"
            report("ragged_lines", message, ragged)


def _csv_header(path: Path, delimiter: str) -> tuple[int, list[str]]:
    """`(blank lines before it, its cells)`."""
    csv.field_size_limit(MAX_CELL_BYTES)
    with path.open(encoding="utf-8", newline="") as text:
        blank_lines = sum(1 for _ in itertools.takewhile(lambda line: not line.strip("\r\n"), text))
    with path.open(encoding="utf-8", newline="") as text:
        try:
            return blank_lines, next(csv.reader(itertools.islice(text, blank_lines, None), delimiter=delimiter), [])
        except csv.Error as error:
            raise BadData(f"The header cannot be read: {error}.", hint="Check quotes that are not closed.") from None


def _check_quotes(path: Path, delimiter: str) -> None:
    """Raises `BadData` when a quoted cell has no end: all that follows would be taken for its text, and lost."""
    with path.open("rb") as raw:
        quotes = sum(chunk.count(b'"') for chunk in iter(lambda: raw.read(CSV_BLOCK_BYTES), b""))
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


def read_jsonl(path: Path, report: Report) -> Iterator[pa.Table]:
    """One object a line. A line that is none is reported by number."""
    kinds: dict[str, set[str]] = {}
    bad: list[int] = []
    said = ""
    for number, value, problem in _json_lines(path):
        if problem:
            bad.append(number)
            said = said or problem
            continue
        _note_kinds(kinds, value)
    if bad:
        report("bad_json", f"{plural(len(bad), 'line')} left out, not valid JSON objects: {said}", bad)
    if not kinds:
        where = f"line {bad[0]}: {said}" if bad else "there is no object in it"
        raise BadData(f"The file holds no JSON objects; {where}.", hint="Put one JSON object on each line.")
    yield from _tables((value for _, value, problem in _json_lines(path) if not problem), kinds)


def _json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any], str]]:
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                value = json.loads(line)
            except RecursionError:
                yield number, {}, "it is nested too deeply"
            except ValueError as error:
                yield number, {}, str(error)[:200]
            else:
                yield (number, value, "") if isinstance(value, dict) else (number, {}, "it is not an object")


def read_json(path: Path) -> Iterator[pa.Table]:
    """An array of objects, or an object with one such array inside."""
    if path.stat().st_size > MAX_JSON_BYTES:
        raise TooLarge(f"A JSON file is read whole, up to {MAX_JSON_BYTES >> 20} MB.", hint="Save it as JSON Lines.")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise BadData("The JSON is nested too deeply.", hint="Put one flat object in the list for each row.") from None
    except ValueError as error:
        raise BadData(
            f"The JSON cannot be read: {str(error)[:300]}.", hint="Mend it there; the file may be cut off."
        ) from None
    if isinstance(value, dict):
        lists = [item for item in value.values() if isinstance(item, list) and item and isinstance(item[0], dict)]
        value = lists[0] if len(lists) == 1 else [value]
    if not isinstance(value, list) or not value:
        raise BadData("The JSON holds no list of objects.", hint='Write it as [{"input": "…", "output": "…"}, …].')
    for number, row in enumerate(value, start=1):
        if not isinstance(row, dict):
            raise BadData(
                f"Item {number} of the JSON list is not an object.",
                hint='Write each row as {"input": "…", "output": "…"}.',
                details=[{"row": number, "message": "not an object"}],
            )
    kinds: dict[str, set[str]] = {}
    for row in value:
        _note_kinds(kinds, row)
    yield from _tables(value, kinds)


def _note_kinds(kinds: dict[str, set[str]], row: dict[str, Any]) -> None:
    for name, value in row.items():
        kind = type(value).__name__
        if kind == "int" and not -(2**63) <= value < 2**63:
            kind = "large int"
        elif kind == "float" and math.isnan(value):
            kind = "NoneType"
        kinds.setdefault(name, set()).add(kind)
        if len(kinds) > MAX_COLUMNS:
            raise TooLarge(
                f"The rows have more than {MAX_COLUMNS} different fields.", hint="Keep the fields that are needed."
            )


def _column_type(kinds: set[str]) -> pa.DataType:
    """Numbers as numbers where all are of one kind; else as they were written."""
    real = kinds - {"NoneType"}
    if real == {"bool"}:
        return pa.bool_()
    if real == {"int"}:
        return pa.int64()
    if real == {"float"}:
        return pa.float64()
    return pa.large_string()


def _tables(
    rows: Iterable[dict[str, Any]], kinds: dict[str, set[str]], as_text: Callable[[Any], str | None] | None = None
) -> Iterator[pa.Table]:
    """Rows of any origin → tables of one schema. `as_text` writes cells of columns that hold more than one kind."""
    as_text = as_text or _as_text
    names = column_names(list(kinds))
    types = [_column_type(kinds[key]) for key in kinds]
    schema = pa.schema(list(zip(names, types, strict=True)))
    batch: list[dict[str, Any]] = []

    def flush() -> pa.Table:
        arrays = []
        for key, kind in zip(kinds, types, strict=True):
            values = [None if is_missing(value := row.get(key)) else value for row in batch]
            arrays.append(pa.array([as_text(v) for v in values] if kind == pa.large_string() else values, type=kind))
        return pa.Table.from_arrays(arrays, schema=schema)

    for row in rows:
        batch.append(row)
        if len(batch) == BATCH_ROWS:
            yield flush()
            batch.clear()
    if batch:
        yield flush()


def _as_text(value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, str):
        # Lone surrogates can be written in JSON but are not text.
        return value.encode("utf-8", "replace").decode() if not value.isascii() else value
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False, default=str).encode("utf-8", "replace").decode()
    return None if is_missing(value) else text_of(value)


def _as_in_a_sheet(value: Any) -> str | None:
    """Workbooks know no whole numbers: 1 is stored as 1.0."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return str(int(value))
    return _as_text(value)


def read_parquet(path: Path) -> Iterator[pa.Table]:
    """Numbers, text and booleans as they are; nested columns as JSON text."""
    try:
        file = pq.ParquetFile(path)
        names = column_names(file.schema_arrow.names)
        plain = [
            (pa.types.is_primitive(t) and not pa.types.is_duration(t))
            or pa.types.is_string(t)
            or pa.types.is_large_string(t)
            for t in file.schema_arrow.types
        ]
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
                    arrays.append(pa.array([_as_text(v) for v in array.to_pylist()], type=pa.large_string()))
            yield pa.Table.from_arrays(arrays, names=names)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise BadData(
            f"The Parquet file cannot be read: {_first_line(error)}", hint="Write it again; it may be cut off."
        ) from None


def read_xlsx(path: Path) -> Iterator[pa.Table]:
    """The first sheet that has rows; its first row names the columns. Formulas give their stored results."""
    from python_calamine import CalamineError, load_workbook

    with open_zip(path) as archive:
        size_bytes = sum(info.file_size for info in archive.infolist())
        if size_bytes > min(MAX_JSON_BYTES, max(64 << 20, path.stat().st_size * 200)):
            raise TooLarge(f"Unpacked, the workbook has {size_bytes >> 20} MB.", hint="Save the sheet as CSV.")
        for name in archive.namelist():
            if name.startswith("xl/worksheets/") and name.endswith(".xml"):
                _check_extent(archive, name)
    try:
        book = load_workbook(str(path))
        sheets = [book.get_sheet_by_index(i).to_python(skip_empty_area=True) for i in range(len(book.sheet_names))]
    except (CalamineError, ValueError, OSError) as error:
        raise BadData(
            f"The workbook cannot be read: {_first_line(error)}", hint="Save it again as .xlsx, or as CSV."
        ) from None
    sheet = next((s for s in sheets if len(s) > 1), None)
    if sheet is None:
        raise BadData("The workbook has no sheet with a header and rows.", hint="Put names in its first row.")
    names = column_names([str(_as_in_a_sheet(cell) or "") for cell in sheet[0]])
    rows = [
        {name: (None if cell == "" else cell) for name, cell in zip(names, row, strict=False)}
        for row in sheet[1:]
        if any(cell != "" for cell in row)
    ]
    kinds: dict[str, set[str]] = {name: set() for name in names}
    for row in rows:
        _note_kinds(kinds, row)
    yield from _tables(rows, kinds, _as_in_a_sheet)


def _check_extent(archive: zipfile.ZipFile, sheet: str) -> None:
    """Raises `TooLarge` for a sheet whose cells lie far apart: one far corner would make it billions of empty cells."""
    columns = rows = 0
    tail = b""
    try:
        with archive.open(sheet) as xml:
            while chunk := xml.read(CSV_BLOCK_BYTES):
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


def read_text(path: Path) -> Iterator[pa.Table]:
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

    yield from _tables(rows(), {"text": {"str"}})


def read_conll(path: Path, report: Report) -> Iterator[pa.Table]:
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

    yield from _tables(rows(), {"tokens": {"list"}, "tags": {"list"}})
    if bad:
        report("ragged_lines", f"{plural(len(bad), 'line')} without a tag left out", bad)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
