"""Rows of any origin → Arrow tables of one schema; and what is asked of a file and found in it while it is read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa

from tunesmith.core.errors import BadData, TooLarge
from tunesmith.dataprep.shapes import SPLIT, SPLITS, plain
from tunesmith.dataprep.values import is_missing, text_of
from tunesmith.schemas.datasets import Finding
from tunesmith.schemas.read_options import FileLayout, ReadOptions

BATCH_ROWS = 16_384
MAX_COLUMNS = 10_000
MAX_FIELDS = 1_000_000
"""To choose `columns` from."""
MAX_ROWS_NAMED = 10_000
"""Of more rows a finding names the first."""
JSON_STARTS = frozenset('[{-0123456789"')
JSON_WORDS = frozenset({"true", "false", "null", "NaN", "Infinity"})
"""First characters of texts that may be JSON themselves, and words that are."""
DECODABLE = frozenset({"bool", "int", "large int", "float", "list", "dict"})
"""Kinds of values that JSON gives back as they were."""
FOUND: dict[str, tuple[str, str]] = {
    "ragged_lines": (
        "error",
        "Mend them in the file; a cell with the delimiter in it needs quotes. They are numbered in the file, all other "
        "findings in the rows that are left.",
    ),
    "bad_json": (
        "error",
        "Mend them in the file. They are numbered in the file, all other findings in the rows that are left.",
    ),
    "damaged_media": ("error", "Put sound copies of them into the archive."),
    "missing_media": ("error", "Put the files into the archive, or take their rows out of the metadata."),
    "nul_bytes": ("warning", "Look at these lines: something else may be lost there."),
    "duplicate_columns": ("warning", "Rename them in the file, or map the column that is meant."),
    "no_header": (
        "warning",
        "Name the columns and map them. If it is a header after all, say that it is the header row.",
    ),
    "unsure_header": ("info", "If it is a row like the others, say that the header row is 0."),
    "title_lines": ("info", "If the table begins elsewhere, give the number of its header row."),
    "other_sheets": ("warning", "Choose another sheet, or upload the file once for each."),
    "layout": ("info", "Save the file as JSON Lines if that is not what it is."),
}
"""What a reader reports → how bad it is, and what to do about it."""


class FileReading:
    """One file being read: what is asked for, and what is found on the way."""

    def __init__(self, options: ReadOptions | None = None) -> None:
        self.options = options or ReadOptions()
        self.layout = FileLayout()
        self.findings: list[Finding] = []
        self.json_columns: list[str] = []
        """Columns whose cells are JSON text: they held lists, objects, or values of several kinds."""
        self.lines: Callable[[Sequence[int]], Sequence[int]] | None = None
        """Numbers of rows, ascending, → where these rows begin in the file, as far as that is known."""

    def report(
        self, code: str, message: str, rows: Sequence[int] = (), *, lines: Sequence[int] = (), level: str = ""
    ) -> None:
        """Something that validation should name."""
        usual, hint = FOUND[code]
        self.findings.append(
            Finding(
                level=level or usual, code=code, message=message, hint=hint, rows=list(rows[:MAX_ROWS_NAMED]), count=len(rows) or len(lines),
                lines=list(lines[:MAX_ROWS_NAMED]),
            )
        )  # fmt: skip

    def kinds(self, names: Iterable[str] = ()) -> Kinds:
        """To note fields in: as many as are read, or more to choose from."""
        return Kinds(names, MAX_FIELDS if self.options.columns else MAX_COLUMNS)

    def column_names(self, header: Sequence[str]) -> list[str]:
        """As `column_names`; names that the file has more than once are reported. Raises `TooLarge` for too many."""
        if len(header) > MAX_COLUMNS and not self.options.columns:
            raise TooLarge(
                f"The file has {len(header)} columns; {MAX_COLUMNS} are read.",
                hint="Choose the columns that are needed.",
            )
        names = column_names(header)
        again: dict[str, list[str]] = {}
        for given, name in zip(header, names, strict=True):
            if given.strip():
                again.setdefault(given.strip(), []).append(name)
        repeated = {given: found for given, found in again.items() if len(found) > 1}
        if repeated:
            told = "; ".join(f"{given[:80]!r} {len(found)} times, called {', '.join(found[:5])}" for given, found in list(repeated.items())[:5])  # fmt: skip
            self.report("duplicate_columns", f"The header has {told}")
        return names

    def no_header(self, what: str, first: str) -> None:
        """Report that `what` begins with a row."""
        called = "are called as was said" if self.options.columns else "are numbered"
        self.report("no_header", f"{what} has no header: {first} looks like those below it, so the columns {called}")

    def names_without_header(self, width: int) -> list[str]:
        """The names that were given, then numbers. Raises `BadData` when more were given than there are columns."""
        given = self.options.columns or (["text"] if width == 1 else [])
        if len(given) > width:
            raise BadData(
                f"{len(given)} columns are named and the file has {width}.", hint="Name at most as many as there are."
            )
        return self.column_names([*given, *(f"column_{n}" for n in range(len(given) + 1, width + 1))])


def column_names(header: Sequence[str]) -> list[str]:
    """Names without blanks around, unique, none empty, and none that Polars would take for a pattern or our own."""
    names: list[str] = []
    taken: set[str] = set()
    repeats: dict[str, int] = {}
    for number, name in enumerate(header, start=1):
        only = as_text(name.strip().replace("\x00", "")) or f"column_{number}"
        if only == "*" or (only.startswith("^") and only.endswith("$")) or only in ("__row", "__drop"):
            only = only.strip("^$_") + "_"
        unique, again = only, repeats.get(only, 1)
        while unique in taken:
            again += 1
            unique = f"{only}_{again}"
        repeats[only] = again
        taken.add(unique)
        names.append(unique)
    return names


class Kinds:
    """Which kinds of values each field holds, field by field in the order in which they come."""

    def __init__(self, names: Iterable[str] = (), most: int = MAX_COLUMNS) -> None:
        self.of: dict[str, set[str]] = {name: set() for name in names}
        self._most = most

    def note(self, row: dict[str, Any]) -> None:
        for name, value in row.items():
            found = self.of.get(name)
            if found is None:
                found = self.of[name] = set()
                if len(self.of) > self._most:
                    raise TooLarge(
                        f"The rows have more than {self._most} different fields.",
                        hint="Choose the columns that are needed.",
                    )
            found.add(_kind(value))

    def column_type(self, name: str) -> pa.DataType:
        """Numbers as numbers where all are of one kind; else as they were written."""
        real = self.of[name] - {"NoneType"}
        if real == {"bool"}:
            return pa.bool_()
        if real == {"int"}:
            return pa.int64()
        if real == {"float"}:
            return pa.float64()
        return pa.large_string()

    def is_json(self, name: str) -> bool:
        """Whether the column's texts, read as JSON where they are, give back the very values that they were written from."""
        real = self.of[name] - {"NoneType"}
        return (
            bool(real & DECODABLE) and "text like JSON" not in real and pa.types.is_large_string(self.column_type(name))
        )


def _kind(value: Any) -> str:
    if isinstance(value, str):
        start = value[:1] if value[:1].strip() else value.lstrip()[:1]
        may_be = start in JSON_STARTS or (len(value) < 100 and value.strip() in JSON_WORDS)
        return "text like JSON" if may_be and _is_json(value) else "str"
    if isinstance(value, int) and not isinstance(value, bool) and not -(2**63) <= value < 2**63:
        return "large int"
    return "NoneType" if is_missing(value) else type(value).__name__


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def tables(
    rows: Iterable[dict[str, Any]],
    kinds: Kinds,
    reading: FileReading,
    as_cell: Callable[[Any], str | None] | None = None,
) -> Iterator[pa.Table]:
    """Rows of any origin → tables of one schema. `as_cell` writes cells of columns that hold more than one kind."""
    as_cell = as_cell or as_text
    names = reading.column_names(list(kinds.of))
    types = [kinds.column_type(key) for key in kinds.of]
    reading.json_columns = [name for key, name in zip(kinds.of, names, strict=True) if kinds.is_json(key)]
    schema = pa.schema(list(zip(names, types, strict=True)))
    batch: list[dict[str, Any]] = []

    def flush() -> pa.Table:
        arrays = []
        for key, kind in zip(kinds.of, types, strict=True):
            values = [None if is_missing(value := row.get(key)) else value for row in batch]
            arrays.append(pa.array([as_cell(v) for v in values] if kind == pa.large_string() else values, type=kind))
        return pa.Table.from_arrays(arrays, schema=schema)

    for row in rows:
        batch.append(row)
        if len(batch) == BATCH_ROWS:
            yield flush()
            batch.clear()
    if batch:
        yield flush()


def as_text(value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, str):
        # Lone surrogates can be written in JSON but are not text.
        return value.encode("utf-8", "replace").decode() if not value.isascii() else value
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False, default=str).encode("utf-8", "replace").decode()
    return None if is_missing(value) else text_of(value)


def chosen(found: Iterator[pa.Table], reading: FileReading) -> Iterator[pa.Table]:
    """The columns, and the rows of the split, that are asked for. Raises `BadData` for what the file does not have."""
    split, named = reading.options.split, set()
    by: str | None = None
    kept: list[str] | None = None
    for table in found:
        if not reading.layout.columns:
            reading.layout.columns = list(table.column_names)
            by = _split_column(table.column_names, split) if split is not None else None
            kept = _kept(table, reading.options.columns, by) if reading.options.columns else None
        if by is not None and by != split:
            words = [str(word).strip().lower() for word in table[by].to_pylist()]
            named.update(words)
            table = table.filter(pa.array([word == str(split).strip().lower() for word in words], type=pa.bool_()))
        yield table.select(kept) if kept is not None else table
    if by is not None and by != split and str(split).strip().lower() not in named:
        raise BadData(f"The file has no split {split!r}.", hint=f"It has: {', '.join(sorted(named)[:20])}.")


def _split_column(names: list[str], wanted: str) -> str:
    """The column that `wanted` names, or in which to look for a split of that name."""
    if wanted in names:
        return wanted
    found = next((name for name in names if plain(name) == SPLIT), None)
    if found is None:
        raise BadData(
            f"The file has no splits, so {wanted!r} cannot be read alone.",
            hint=f"Name the column that tells the split. The columns are: {', '.join(names[:20])}.",
        )
    return found


def _kept(table: pa.Table, wanted: list[str], split: str | None) -> list[str]:
    """The columns that are wanted, and the one that tells the split."""
    there = set(table.column_names)
    if missing := [name for name in wanted if name not in there]:
        raise BadData(
            f"There is no column {missing[0][:80]!r}.", hint=f"The columns are: {', '.join(table.column_names[:20])}.",
            details=[{"loc": "columns", "message": f"no column {name[:80]!r}"} for name in missing[:20]],
        )  # fmt: skip
    own = split or next((name for name in table.column_names if plain(name) == SPLIT), None)
    if own is not None and split is None and not {str(word).lower() for word in table[own].to_pylist()} <= SPLITS:
        own = None
    return list(dict.fromkeys([*wanted, *([own] if own is not None else [])]))
