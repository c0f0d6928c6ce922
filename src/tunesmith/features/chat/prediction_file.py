"""A CSV file of inputs, answered row by row: received to disk, read in parts, and written out with what the model says beside each
row. Memory does not grow with the file.
"""

from __future__ import annotations

import asyncio
import codecs
import csv
import io
import json
import re
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import IO, Any

from fastapi.responses import StreamingResponse
from starlette.requests import ClientDisconnect, Request

from tunesmith.core.errors import BadData, InvalidInput, TooLarge, TunesmithError, Unavailable
from tunesmith.recipes.model_about import ModelAbout
from tunesmith.settings import Settings

ROWS_AT_ONCE = 100
DELIMITERS = ",;\t|"
MOST_CELL = 16 * 1024**2
"""Characters of one cell."""
TEXT = "text"
"""The column that is taken for the text where several are there."""
NAMED = re.compile(r"inputs\.(\d+)")
Ask = Callable[[Sequence[Any]], Awaitable[list[Any]]]
"""Answers to inputs; raises `InvalidInput` for one that cannot be read."""
BODY = {
    "requestBody": {"content": {"text/csv": {"schema": {"type": "string", "format": "binary"}}}, "required": True},
}
"""For the description of the API."""
FILE: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/csv": {}}, "description": "The file with the answers."}
}


class InputFile:
    """A received file. Raises `BadData` for one that is no CSV in UTF-8, or has no such column."""

    def __init__(self, file: IO[bytes], about: ModelAbout, column: str | None) -> None:
        self._file, self.about = file, about
        csv.field_size_limit(MOST_CELL)
        self._file.seek(0)
        start = self._file.readline().decode("utf-8-sig")
        self._delimiter = max(DELIMITERS, key=start.count)
        reader = self._reader()
        self.header = next(reader, [])
        if not self.header or len(set(self.header)) != len(self.header):
            raise BadData("The first row must have a different name for each column.", hint="Add a row with names.")
        self.num_rows = self._checked(reader)
        self.column = self._column(column)

    def _reader(self) -> Iterator[list[str]]:
        self._file.seek(0)
        text = io.TextIOWrapper(io.BufferedReader(_Unclosed(self._file)), encoding="utf-8-sig", newline="")
        return csv.reader(text, delimiter=self._delimiter, strict=True)

    def _checked(self, reader: Iterator[list[str]]) -> int:
        """How many rows there are; it is found out before the first answer whether all can be read."""
        try:
            return sum(1 for row in reader if row)
        except csv.Error as error:
            raise BadData(f"The file cannot be read as CSV: {error}.", hint="Save it as CSV once more.") from None

    def _column(self, wanted: str | None) -> str:
        """The one with the text; empty for a model that takes whole rows."""
        if self.about.asked == "row":
            missing = [str(column["name"]) for column in self.about.columns if column["name"] not in self.header]
            if len(missing) == len(self.about.columns) > 0:
                raise BadData("The file has none of the model's columns.", hint=f"They are: {', '.join(missing[:20])}.")
            return ""
        found = wanted or (TEXT if TEXT in self.header else self.header[0] if len(self.header) == 1 else "")
        if found not in self.header:
            where = f"There is no column {found!r}." if found else "The file has several columns."
            raise InvalidInput(
                where,
                hint=f"Say which one holds the inputs; there are: {', '.join(self.header[:20])}.",
                details=[{"loc": "column", "message": "one of the file's columns"}],
            )
        return found

    def parts(self) -> Iterator[list[list[str]]]:
        """Its rows, some at once; lines with nothing in them are left out."""
        rows = (row for row in self._reader() if row)
        next(rows)
        while part := list(islice(rows, ROWS_AT_ONCE)):
            yield part

    def input_of(self, row: Sequence[str]) -> Any:
        """Raises `InvalidInput` for a row that is longer or shorter than the header."""
        if len(row) != len(self.header):
            raise InvalidInput(f"The row has {len(row)} cells and the header {len(self.header)}.")
        cells = dict(zip(self.header, row, strict=True))
        if self.column:
            return cells[self.column]
        known = {str(column["name"]): column.get("type") for column in self.about.columns}
        wanted = {name: value for name, value in cells.items() if name in known} if known else cells
        return {name: value_of(value, known.get(name)) for name, value in wanted.items()}


def value_of(cell: str, type_: Any) -> Any:
    """A cell as the model takes it: an empty one is missing, a number a number where the column has numbers. What is none stays as
    it is, for the model to say so."""
    if not cell.strip():
        return None
    if type_ == "number":
        try:
            return float(cell)
        except ValueError:
            return cell
    return cell


class _Unclosed(io.RawIOBase):
    """A file that outlives who reads it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        part = self._file.read(len(buffer))
        buffer[: len(part)] = part
        return len(part)


async def receive(request: Request, settings: Settings) -> IO[bytes]:
    """The body, in a file that has no name. Raises `TooLarge`, and `BadData` for what is not UTF-8."""
    file = tempfile.TemporaryFile(dir=settings.home)  # noqa: SIM115 - whoever gets it closes it
    decoder, size = codecs.getincrementaldecoder("utf-8")(), 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            if size > settings.max_upload_bytes:
                raise TooLarge(
                    f"The file is larger than {settings.max_upload_bytes >> 20} MiB.", hint="Send it in parts."
                )
            decoder.decode(chunk)
            await asyncio.to_thread(file.write, chunk)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        file.close()
        raise BadData("The file is not in UTF-8.", hint="Save it as CSV in UTF-8.") from None
    except (TunesmithError, ClientDisconnect):
        file.close()
        raise
    return file


async def answered(file: IO[bytes], about: ModelAbout, column: str | None, ask: Ask) -> StreamingResponse:
    """The file with answers, as it comes. Raises `BadData` or `InvalidInput` before the first byte."""
    try:
        given = await asyncio.to_thread(InputFile, file, about, column)
    except TunesmithError:
        file.close()
        raise
    headers = {"Content-Disposition": 'attachment; filename="predictions.csv"', "X-Content-Type-Options": "nosniff"}
    return StreamingResponse(_lines(file, given, ask), media_type="text/csv; charset=utf-8", headers=headers)


async def _lines(file: IO[bytes], given: InputFile, ask: Ask) -> AsyncIterator[str]:
    names = answer_columns(given.about)
    taken = {name: f"predicted_{name}" if name in given.header else name for name in names}
    gone, width = "", len(given.header)
    try:
        yield _written([[*given.header, *taken.values()]])
        parts = given.parts()
        while part := await asyncio.to_thread(next, parts, None):
            cells: list[dict[str, str]] = []
            if gone:
                cells = [{"error": f"Not asked: {gone}"} for _ in part]
            else:
                try:
                    cells = await answers_to(part, given, ask)
                except TunesmithError as error:  # the model is gone: the rows are told so, and none is left out
                    gone = f"{error.message} {error.hint}".strip()
                    cells = [{"error": gone} for _ in part]
            yield _written(
                [*_fitted(row, width), *(cell.get(name, "") for name in names)]
                for row, cell in zip(part, cells, strict=True)
            )
    finally:
        file.close()


async def answers_to(part: Sequence[Sequence[str]], given: InputFile, ask: Ask) -> list[dict[str, str]]:
    """The new cells of some rows. What is wrong with a row stands in its `error`, and the others are asked without it. Raises what
    is wrong with the model."""
    cells: dict[int, dict[str, str]] = {}
    inputs: dict[int, Any] = {}
    for place, row in enumerate(part):
        try:
            inputs[place] = given.input_of(row)
        except InvalidInput as error:
            cells[place] = {"error": error.message}
    while inputs:
        try:
            outputs = await ask(list(inputs.values()))
        except Unavailable:
            raise
        except InvalidInput as error:
            places = list(inputs)
            named = NAMED.search(" ".join([*(str(detail.get("loc")) for detail in error.details), error.message]))
            if named is None or int(named[1]) >= len(places):
                return [cells.get(place, {"error": error.message}) for place in range(len(part))]
            bad = places[int(named[1])]
            cells[bad] = {"error": error.message.replace(f"{named[0]} ", "").replace(f"{named[0]}: ", "")}
            del inputs[bad]
            continue
        cells |= {place: answer_cells(given.about, out) for place, out in zip(inputs, outputs, strict=True)}
        break
    return [cells[place] for place in range(len(part))]


def answer_columns(about: ModelAbout) -> tuple[str, ...]:
    """What is added to a file."""
    known = {"labels": ("label", "score"), "value": ("value", "low", "high"), "text": ("text",)}
    return (*known.get(str(about.answered), ("answer",)), "error")


def answer_cells(about: ModelAbout, output: Any) -> dict[str, str]:
    """One answer in those columns."""
    if about.answered == "labels":
        best: Mapping[str, Any] = output[0] if output else {}
        return {"label": str(best.get("label", "")), "score": str(best.get("score", ""))}
    if about.answered == "value":
        return {name: str(output[name]) for name in ("value", "low", "high") if output.get(name) is not None}
    if about.answered == "text":
        return {"text": str(output)}
    return {"answer": json.dumps(output, ensure_ascii=False)}


def _fitted(row: Sequence[str], width: int) -> list[str]:
    """As wide as the header, so that the answers stand in their columns; the error of a row that is not says how wide it was."""
    return [*row[:width], *[""] * (width - len(row))]


def _written(rows: Any) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
