"""JSON in the layouts that tools write: lists of objects or of lists, all orients of pandas, splits, lists under a key; JSON Lines."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from tunesmith.core.errors import BadData, TooLarge
from tunesmith.dataprep.header import LOOKED_AT, find_header
from tunesmith.dataprep.shapes import SPLIT, SPLITS, recognise
from tunesmith.dataprep.tables import FileReading, as_text, tables

MAX_JSON_BYTES = 1024 * 1024 * 1024
"""A JSON array is read whole; larger data should be JSON Lines."""
MAX_KEYS_DEEP = 3
"""How deep in objects a list of rows is looked for."""
MOST_DIGITS = 4000
"""Of a whole number that is read as one; longer ones are kept as text."""
WRITE_SO = 'Write it as [{"input": "…", "output": "…"}, …].'
Rows = list[dict[str, Any]]


def read_json(path: Path, reading: FileReading) -> Iterator[pa.Table]:
    """All rows of the file, whatever layout they are in. Raises `BadData` or `TooLarge`."""
    if path.stat().st_size > MAX_JSON_BYTES:
        raise TooLarge(f"A JSON file is read whole, up to {MAX_JSON_BYTES >> 20} MB.", hint="Save it as JSON Lines.")
    try:
        value = decode(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise BadData("The JSON is nested too deeply.", hint="Put one flat object in the list for each row.") from None
    except ValueError as error:
        raise BadData(
            f"The JSON cannot be read: {str(error)[:300]}.", hint="Mend it there; the file may be cut off."
        ) from None
    rows = _rows(value, reading)
    kinds = reading.kinds()
    for row in rows:
        kinds.note(row)
    yield from tables(rows, kinds, reading)


def decode(text: str) -> Any:
    """As `json.loads`; whole numbers of thousands of digits become text."""
    try:
        return json.loads(text)
    except ValueError as error:
        if "digits" not in str(error):
            raise
    return json.loads(text, parse_int=lambda digits: int(digits) if len(digits) < MOST_DIGITS else digits)


def _rows(value: Any, reading: FileReading) -> Rows:
    if isinstance(value, list):
        return _from_list(value, reading)
    if isinstance(value, dict) and value:
        return _from_object(value, reading)
    raise BadData("The JSON holds no list of objects.", hint=WRITE_SO)


def _from_list(items: list[Any], reading: FileReading) -> Rows:
    """Objects, lists of cells (pandas' `values`), or texts."""
    if items and all(_is_talk(item) for item in items):
        return [{"messages": item} for item in items]
    if items and all(isinstance(item, list) for item in items):
        return _from_cells(items, reading)
    if items and all(isinstance(item, str) for item in items):
        return [{"text": item} for item in items]
    if not items:
        raise BadData("The JSON holds no list of objects.", hint=WRITE_SO)
    for number, row in enumerate(items, start=1):
        if not isinstance(row, dict):
            raise BadData(
                f"Item {number} of the JSON list is not an object.",
                hint='Write each row as {"input": "…", "output": "…"}.',
                details=[{"row": number, "message": "not an object"}],
            )
    return items


def _from_cells(items: list[list[Any]], reading: FileReading, names: Sequence[str] | None = None) -> Rows:
    """Lists of cells; the first may be the header."""
    first = 0
    if names is None:
        wanted = reading.options.header_row
        if wanted is None:
            texts = [[as_text(cell) or "" for cell in item] for item in islice(items, LOOKED_AT)]
            found = find_header(texts)
            wanted = found.row + 1 if found.is_header else 0
            if not found.is_header:
                reading.no_header("The list", "the first row")
            elif found.row:
                reading.report("title_lines", f"The table begins in list {wanted}; what is above it was left out")
            elif found.doubt:
                reading.report("unsure_header", "The first list was read as the header", level=found.doubt)
        if wanted > len(items):
            raise BadData(f"There is no row {wanted} to be the header.", hint=f"The file has {len(items)} lists.")
        reading.layout.header_row, first = wanted, wanted
        names = (
            reading.column_names([as_text(cell) or "" for cell in items[wanted - 1]])
            if wanted
            else reading.names_without_header(_usual_width(items))
        )
    wide = [number for number, item in enumerate(items[first:], start=1) if len(item) > len(names)]
    if wide:
        raise BadData(
            f"Row {wide[0]} has {len(items[first + wide[0] - 1])} cells for {len(names)} columns.", hint="Give every row as many cells as the header.",
            details=[{"row": number, "message": "too many cells"} for number in wide[:20]],
        )  # fmt: skip
    return [dict(zip(names, item, strict=False)) for item in items[first:]]


def _usual_width(items: Sequence[Sequence[Any]]) -> int:
    widths = [len(item) for item in items]
    return max(set(widths), key=lambda width: (widths.count(width), width))


def _from_object(value: dict[str, Any], reading: FileReading) -> Rows:
    if {str(key).strip().lower() for key in value} <= SPLITS and all(
        isinstance(item, list | dict) for item in value.values()
    ):
        return [{**row, SPLIT: key} for key, item in value.items() if item for row in _rows(item, reading)]
    found = _of_pandas(value, reading)
    if found is not None:
        return found
    if _is_one_row(value):
        return [value]
    lists = _lists_in(value, MAX_KEYS_DEEP)
    if len(lists) == 1:
        return lists[0]
    if lists:
        sizes = sorted(map(len, lists), reverse=True)
        raise BadData(
            f"The JSON holds {len(lists)} lists of objects, of {', '.join(map(str, sizes[:8]))} rows.",
            hint='Save the one that is meant as a file of its own, or call them "train" and "test".',
        )
    return [value]


def _of_pandas(value: dict[str, Any], reading: FileReading) -> Rows | None:
    """Rows of what `DataFrame.to_json` writes, of `to_dict("list")`, or of objects by their ids; None for anything else."""
    is_split = set(value) in ({"columns", "index", "data"}, {"columns", "data"}) and _are_lists(value["data"])
    if is_split and isinstance(value["columns"], list):
        names = reading.column_names([as_text(name) or "" for name in value["columns"]])
        labels = value.get("index")
        return _with_index(_from_cells(value["data"], reading, names), labels if isinstance(labels, list) else [])
    if set(value) == {"schema", "data"} and isinstance(value["schema"], dict) and isinstance(value["data"], list):
        keys = value["schema"].get("primaryKey") or []
        return _without_counter(_from_list(value["data"], reading), keys)
    inner = list(value.values())
    if all(isinstance(item, dict) for item in inner):
        return _from_objects(value, reading)
    lengths = {len(item) for item in inner if isinstance(item, list)}
    if (
        all(isinstance(item, list) for item in inner)
        and len(lengths) == 1
        and 0 not in lengths
        and not _is_talk(inner[0])
    ):
        if any(isinstance(item[0], dict) and not _is_talk(item) for item in inner) or (
            len(inner) == 1 and not isinstance(inner[0][0], str | int | float)
        ):
            return None  # lists under keys
        reading.report("layout", f"Read as columns: {len(inner)} lists of {len(inner[0])} cells")
        return [dict(zip(value, cells, strict=True)) for cells in zip(*inner, strict=True)]
    return None


def _from_objects(value: dict[str, dict[str, Any]], reading: FileReading) -> Rows | None:
    """Objects in an object: columns of cells by row (pandas' default), or rows by their index."""
    inner = list(value.values())
    labels = list(dict.fromkeys(key for item in inner for key in item))
    is_filled = sum(map(len, inner)) > 0.5 * len(inner) * len(labels)
    if not labels or not is_filled or (len(inner) == 1 and len(labels) == 1):
        return None
    is_row_inside = _is_known(labels, inner[0])
    are_columns = _is_known(list(value), {}) or (_are_counters(labels) and not _are_counters(list(value)))
    if not is_row_inside and not are_columns and not _are_counters(list(value)):
        return None
    if (is_row_inside and not _is_known(list(value), {})) or (_are_counters(list(value)) and not are_columns):
        reading.report("layout", f"Read as {len(inner)} rows by their index, as pandas writes them with orient index")
        return _with_index([dict(item) for item in inner], list(value))
    reading.report("layout", f"Read as {len(inner)} columns of {len(labels)} cells, as pandas writes them")
    rows = [{column: cells.get(label) for column, cells in value.items()} for label in labels]
    return _with_index(rows, labels)


def _is_known(names: Sequence[str], first: Mapping[str, Any]) -> bool:
    return recognise([str(name) for name in names], first).shape != "tabular"


def _are_counters(labels: Sequence[Any]) -> bool:
    """Whether these are what pandas counts rows with."""
    return all(isinstance(label, int) or str(label).isdecimal() for label in labels)


def _with_index(rows: Rows, labels: Sequence[Any]) -> Rows:
    """With the labels of the rows as a column, unless they only count."""
    if len(labels) != len(rows) or _are_counters(labels) or any("index" in row for row in rows[:1]):
        return rows
    return [{"index": label, **row} for label, row in zip(labels, rows, strict=True)]


def _without_counter(rows: Rows, keys: list[str]) -> Rows:
    """Without the index column of pandas' `table`, where it only counts."""
    if keys == ["index"] and _are_counters([row.get("index") for row in rows]):
        return [{name: cell for name, cell in row.items() if name != "index"} for row in rows]
    return rows


def _is_one_row(value: dict[str, Any]) -> bool:
    """Whether the object is one example: with the columns of a known shape, and no list of examples among them."""
    found = recognise(list(value), value)
    if found.shape == "tabular" or found.missing:
        return False
    lists = [item for item in value.values() if isinstance(item, list) and item and isinstance(item[0], dict)]
    return not lists or any(_is_talk(item) for item in lists)


def _is_talk(items: Any) -> bool:
    return (
        isinstance(items, list)
        and bool(items)
        and isinstance(items[0], dict)
        and bool({"role", "from"} & set(items[0]))
    )


def _are_lists(items: Any) -> bool:
    return isinstance(items, list) and bool(items) and all(isinstance(item, list) for item in items)


def _lists_in(value: dict[str, Any], deep: int) -> list[Rows]:
    """Lists of objects under the keys, the nearest first."""
    near = [
        item
        for item in value.values()
        if isinstance(item, list) and item and all(isinstance(one, dict) for one in item)
    ]
    if near or deep <= 1:
        return near
    return [found for item in value.values() if isinstance(item, dict) for found in _lists_in(item, deep - 1)]


def read_jsonl(path: Path, reading: FileReading) -> Iterator[pa.Table]:
    """One object a line, or one list of cells. A line that is neither is reported by number."""
    kinds = reading.kinds()
    bad: list[int] = []
    said = ""
    names = _names_of_lists(path, reading)
    for number, value, problem in _json_lines(path, names, reading.layout.header_row or 0):
        if problem:
            bad.append(number)
            said = said or problem
            continue
        kinds.note(value)
    if bad:
        what = "list of cells" if names else "JSON object"
        message = (
            f"{len(bad)} lines are not {what.replace('list', 'lists').replace('object', 'objects')} and were left out"
        )
        if len(bad) == 1:
            message = f"1 line is not a {what} and was left out"
        reading.report("bad_json", f"{message}: {said}", bad, lines=bad)
    if not kinds.of:
        where = f"line {bad[0]}: {said}" if bad else "there is no object in it"
        raise BadData(f"The file holds no JSON objects; {where}.", hint="Put one JSON object on each line.")
    passed_over = frozenset(bad)
    reading.lines = lambda numbers: _lines_of(path, numbers, passed_over, reading.layout.header_row or 0)
    rows = (v for _, v, problem in _json_lines(path, names, reading.layout.header_row or 0) if not problem)
    yield from tables(rows, kinds, reading)


def _names_of_lists(path: Path, reading: FileReading) -> list[str] | None:
    """The columns where lines are lists; None where they are objects."""
    first: list[list[Any]] = []
    numbers: list[int] = []
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(islice(lines, LOOKED_AT), start=1):
            try:
                value = decode(line) if line.strip() else None
            except (ValueError, RecursionError):
                continue
            if isinstance(value, list):
                first.append(value)
                numbers.append(number)
            elif isinstance(value, dict):
                return None
    if not first or all(_is_talk(item) for item in first):
        return None
    wanted = reading.options.header_row
    if wanted is not None and wanted and wanted not in numbers:
        raise BadData(f"Line {wanted} is no list of names.", hint="Choose another header row, or 0 when there is none.")
    texts = [[as_text(cell) or "" for cell in item] for item in first]
    at = numbers.index(wanted) if wanted else 0
    if wanted is None:
        found = find_header(texts)
        is_header = found.is_header and len(texts) > 1
        at, wanted = found.row, numbers[found.row] if is_header else 0
        if is_header and wanted > 1:
            reading.report("title_lines", f"The table begins in line {wanted}; what is above it was left out")
        if not is_header:
            reading.no_header("The file", f"line {numbers[0]}")
        elif found.doubt:
            reading.report("unsure_header", f"Line {wanted} was read as the header", level=found.doubt)
    reading.layout.header_row = wanted
    return reading.column_names(texts[at]) if wanted else reading.names_without_header(_usual_width(texts))


def _json_lines(path: Path, names: list[str] | None, header_row: int) -> Iterator[tuple[int, dict[str, Any], str]]:
    """`(line, row, what is wrong with it)`, from below the header on."""
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip() or number <= header_row:
                continue
            try:
                value = decode(line)
            except RecursionError:
                yield number, {}, "it is nested too deeply"
            except ValueError as error:
                yield number, {}, str(error)[:200]
            else:
                yield _row(number, value, names)


def _row(number: int, value: Any, names: list[str] | None) -> tuple[int, dict[str, Any], str]:
    if names is None:
        value = {"messages": value} if _is_talk(value) else value
        return (number, value, "") if isinstance(value, dict) else (number, {}, "it is not an object")
    if not isinstance(value, list):
        return number, {}, "it is not a list"
    if len(value) > len(names):
        return number, {}, f"it has {len(value)} cells for {len(names)} columns"
    return number, dict(zip(names, value, strict=False)), ""


def _lines_of(path: Path, numbers: Sequence[int], passed_over: frozenset[int], header_row: int) -> list[int]:
    """The lines on which the rows of these numbers, ascending, stand."""
    found: list[int] = []
    row = 0
    with path.open(encoding="utf-8") as lines:
        for line, text in enumerate(lines, start=1):
            if line <= header_row or line in passed_over or not text.strip():
                continue
            row += 1
            while len(found) < len(numbers) and numbers[len(found)] == row:
                found.append(line)
            if len(found) == len(numbers):
                break
    return found
