"""How a file of examples is read: what may be chosen, under the same words everywhere, and what was found."""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, Field

from tunesmith.schemas.common import Wire, why_not_storable

DELIMITERS = {"comma": ",", "tab": "\t", "semicolon": ";", "pipe": "|", "space": " ", "\\t": "\t"}
"""Words for delimiters that are hard to write on a command line or in an address."""
NOT_OF_FILES = ("idna", "punycode", "unicode_escape", "raw_unicode_escape")
"""What Python calls encodings and no file is in."""
Column = Annotated[str, Field(min_length=1, max_length=1000)]


def _encoding(value: Any) -> Any:
    """The name as Python writes it. Raises `ValueError` for what is no encoding of text."""
    if not isinstance(value, str):
        return value
    try:
        name = codecs.lookup(value.strip()).name
        " ".encode(name)
    except (LookupError, ValueError):
        name = ""
    if not name or name.replace("-", "_") in NOT_OF_FILES:
        raise ValueError(f"there is no encoding {value[:40]!r}; try utf-8, cp1252, utf-16 or shift_jis")
    return name


def _delimiter(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    found = DELIMITERS.get(value.strip().lower(), value)
    if len(found) != 1 or found in '"\r\n' or not found.isascii():
        raise ValueError(f"must be one character or one of {', '.join(list(DELIMITERS)[:5])}")
    return found


def _columns(value: Any) -> Any:
    """A list, or names set apart by commas as in a line of CSV. Raises `ValueError` for what is no such line."""
    if not isinstance(value, str):
        return value
    try:
        return next(csv.reader([value], skipinitialspace=True), [])
    except csv.Error:
        raise ValueError("must be names separated by commas on one line; put one with a line break in quotes") from None


def _mapping(value: Any) -> Any:
    """An object, its JSON, or texts `role=column`."""
    if isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            found = json.loads(value)
        except (ValueError, RecursionError):
            raise ValueError("is not valid JSON") from None
        if why := why_not_storable(found):  # an escaped half of a pair is only seen now
            raise ValueError(why)
        return found
    texts = _columns(value)
    if not isinstance(texts, list):
        return value
    pairs = [str(text).partition("=") for text in texts]
    if wrong := [text for text, pair in zip(texts, pairs, strict=True) if not pair[0].strip() or not pair[2]]:
        raise ValueError(f"{str(wrong[0])[:80]!r} is not role=column")
    return {role.strip(): column for role, _, column in pairs}


class ReadOptions(Wire):
    """How a file is read. What is left out is detected."""

    shape: str | None = Field(None, max_length=50, description="Row shape, such as question_answer.")
    mapping: Annotated[dict[str, str] | None, BeforeValidator(_mapping)] = Field(
        None, description="Which column fills which role, such as question=ask; needs a shape."
    )
    sheet: str | None = Field(None, min_length=1, max_length=255, description="Sheet of a workbook: its name, or its number from 1.")  # fmt: skip
    header_row: int | None = Field(
        None, ge=0, le=1_000_000, description="Line of the file, or row of the sheet, that names the columns; 0 when there is none."
    )  # fmt: skip
    columns: Annotated[list[Column] | None, BeforeValidator(_columns)] = Field(
        None, min_length=1, max_length=10_000,
        description="Columns to keep; their names from left to right when header_row is 0.",
    )  # fmt: skip
    encoding: Annotated[str | None, BeforeValidator(_encoding)] = Field(
        None, description="Encoding of the text, such as utf-8, cp1252 or utf-16."
    )
    delimiter: Annotated[str | None, BeforeValidator(_delimiter)] = Field(
        None, description="What separates the cells of CSV: one character, or comma, tab, semicolon, pipe, space."
    )
    split: str | None = Field(
        None, min_length=1, max_length=1000,
        description="A split to read alone, such as train; or the column that names each row's split.",
    )  # fmt: skip

    def given(self) -> dict[str, Any]:
        """Only what was chosen."""
        return {name: value for name, value in self.read_options().items() if value is not None}

    def read_options(self) -> dict[str, Any]:
        """These fields alone, of a request that has more."""
        return {name: getattr(self, name) for name in ReadOptions.model_fields}

    def of_file(self) -> dict[str, Any]:
        """Only what was chosen and needs the file itself: a shape or a mapping can be changed without it."""
        return {name: value for name, value in self.given().items() if name not in ("shape", "mapping")}


def options_among(given: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """The reading options among the names and values of a query or a form; `columns` and `mapping` may be repeated."""
    found: dict[str, Any] = {}
    for name, value in given:
        if name not in ReadOptions.model_fields or value == "":
            continue
        if name in ("columns", "mapping") and name in found:
            found[name] = f"{found[name]},{value}"
        else:
            found[name] = value
    return found


def as_query(options: ReadOptions) -> dict[str, str]:
    """The chosen options as `options_among` reads them."""
    found = {name: str(value) for name, value in options.given().items()}
    if options.mapping is not None:
        found["mapping"] = json.dumps(options.mapping)
    if options.columns is not None:
        line = io.StringIO()
        csv.writer(line, lineterminator="").writerow(options.columns)
        found["columns"] = line.getvalue()
    return found


class FileLayout(BaseModel):
    """What was found in a file."""

    sheet: str | None = None
    """The sheet that was read."""
    sheets: list[str] = Field(default_factory=list)
    """All sheets of the workbook."""
    header_row: int | None = None
    """Line or row of the header; 0 where there is none, null for formats without one."""
    delimiter: str | None = None
    columns: list[str] = Field(default_factory=list)
    """All columns of the file; a version may have fewer."""
    split_column: str | None = None
    """The column that says which rows are held out, where the file has both kinds."""
    splits: dict[str, int] = Field(default_factory=dict)
    """Rows of each split."""
    num_held_out: int = 0
    """Rows that are not for training."""
