"""Rows of a stored version: any range, any by their numbers, and those that hold a text. Only the row groups that are
needed are read."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tunesmith.core.clock import monotonic_s
from tunesmith.core.errors import BadData
from tunesmith.dataprep.conversion import PAIRS, convert, last_said
from tunesmith.dataprep.values import text_of
from tunesmith.schemas.datasets import DatasetPreview, TalkMessage

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

BATCH_ROWS = 64
MAX_BYTES = 8 * 1024**2
"""Of cells in one answer; it has fewer rows when they are so long."""
SEARCH_S = 1.0
"""Seconds after which a search answers with what it has found, and with where to go on."""


class Reading(NamedTuple):
    """What the rows are, and which column holds what."""

    shape: str
    mapping: Mapping[str, str]


def read_range(
    data: Path, offset: int, limit: int, max_chars: int | None = None, reading: Reading | None = None
) -> DatasetPreview:
    """Rows from `offset` (0 is the first), read a few at a time."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(data) as file:
        found, starts = _Found(file, limit, max_chars, reading), _starts(file)
        wanted = [g for g in range(file.num_row_groups) if starts[g + 1] > offset and starts[g] < offset + limit]
        number = starts[wanted[0]] if wanted else 0
        for batch in file.iter_batches(batch_size=BATCH_ROWS, row_groups=wanted, use_threads=False):
            first = min(max(0, offset - number), batch.num_rows)
            found.take(batch.slice(first, limit - len(found.rows)), number + first)
            number += batch.num_rows
            if found.full:
                break
    return found.answer(starts[-1], found.numbers[-1] if found.numbers else starts[-1])


def read_numbers(
    data: Path, numbers: Sequence[int], max_chars: int | None = None, reading: Reading | None = None
) -> DatasetPreview:
    """The rows of these numbers (1 is the first), in the order of the file; those that are not there are left out."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(data) as file:
        found, starts = _Found(file, len(numbers), max_chars, reading), _starts(file)
        for group in range(file.num_row_groups):
            inside = sorted({n - 1 - starts[group] for n in numbers if starts[group] < n <= starts[group + 1]})
            if inside and not found.full:
                found.take_some(file.read_row_group(group, use_threads=False), inside, starts[group])
    return found.answer(starts[-1], starts[-1])


def search(
    data: Path, text: str, offset: int, limit: int, max_chars: int | None = None, reading: Reading | None = None
) -> DatasetPreview:
    """Rows from `offset` on in which a cell holds `text`, whatever the case. Stops after `SEARCH_S`."""
    import pyarrow.parquet as pq

    until = monotonic_s() + SEARCH_S
    with pq.ParquetFile(data) as file:
        found, starts = _Found(file, limit, max_chars, reading), _starts(file)
        reached = starts[-1]
        for group in range(file.num_row_groups):
            if starts[group + 1] <= offset:
                continue
            table = file.read_row_group(group, use_threads=False)
            inside = [i for i in _matches(table, text) if starts[group] + i >= offset]
            found.take_some(table, inside, starts[group])
            if found.full:
                reached = found.numbers[-1]
                break
            if monotonic_s() > until:
                reached = starts[group + 1]
                break
    return found.answer(starts[-1], reached)


class _Found:
    """Rows collected for one answer."""

    def __init__(self, file: pq.ParquetFile, limit: int, max_chars: int | None, reading: Reading | None) -> None:
        self.columns = list(file.schema_arrow.names)
        self.limit, self.max_chars, self.reading = limit, max_chars, reading
        self.talks: list[list[TalkMessage] | None] = []
        self.rows: list[dict[str, Any]] = []
        self.numbers: list[int] = []
        self._size_bytes = 0

    @property
    def full(self) -> bool:
        return len(self.rows) >= self.limit or self._size_bytes > MAX_BYTES

    def take(self, part: pa.RecordBatch | pa.Table, start: int) -> None:
        """All rows of `part`, whose first has the index `start` in the file."""
        for index, row in enumerate(part.to_pylist(), start=start + 1):
            self._add(index, row)
        self._size_bytes += part.nbytes

    def take_some(self, table: pa.Table, inside: list[int], start: int) -> None:
        """The rows of `table` at the indices `inside`, until the answer is full."""
        for few in _parts(inside):
            if self.full:
                return
            few = few[: self.limit - len(self.rows)]
            part = table.take(few)
            for index, row in zip(few, part.to_pylist(), strict=True):
                self._add(start + index + 1, row)
            self._size_bytes += part.nbytes

    def _add(self, number: int, row: dict[str, Any]) -> None:
        self.numbers.append(number)
        self.talks.append(talk_of(row, self.reading, self.max_chars) if self.reading else None)
        self.rows.append({"row": number, **{name: _cell(value, self.max_chars) for name, value in row.items()}})

    def answer(self, total_rows: int, reached: int) -> DatasetPreview:
        """`reached`: how many rows of the file are done with."""
        return DatasetPreview(
            columns=self.columns,
            rows=self.rows,
            numbers=self.numbers,
            talks=self.talks,
            total_rows=total_rows,
            next_offset=reached if reached < total_rows else None,
        )


def talk_of(row: dict[str, Any], reading: Reading, max_chars: int | None) -> list[TalkMessage] | None:
    """The row as training takes it; None when it is no conversation."""
    shape, mapping = reading
    try:
        example = convert(row, shape, mapping)
    except BadData:
        asked, answered = (mapping.get(role, "") for role in PAIRS.get(shape, ("", "")))
        said = (("user", asked, ""), ("assistant", answered, "cannot be learned"))
        talk = [TalkMessage(role=role, text=_cell(text_of(row.get(c)), max_chars), note=note) for role, c, note in said]
        return talk if shape in PAIRS else None
    except ValueError:
        return None
    talk = [
        TalkMessage(role=message["role"], text=_cell(_said(message), max_chars), note="" if is_learned or message["role"] != "assistant" else "not learned")
        for message, is_learned in zip(example.messages, example.learned, strict=True)
    ]  # fmt: skip
    if shape == "preference" and talk:
        worse = last_said(row.get(mapping.get("rejected", "")))
        talk[-1].note = "better"
        talk.append(TalkMessage(role="assistant", text=_cell(worse, max_chars), note="worse"))
    return talk or None


def _said(message: Mapping[str, Any]) -> str:
    calls = [json.dumps(call["function"], ensure_ascii=False) for call in message.get("tool_calls", ())]
    return "\n".join(part for part in (message.get("reasoning_content", ""), message["content"], *calls) if part)


def _starts(file: pq.ParquetFile) -> list[int]:
    """The index of each group's first row, and the number of all rows."""
    groups = (file.metadata.row_group(group).num_rows for group in range(file.num_row_groups))
    return list(itertools.accumulate(groups, initial=0))


def _parts(indices: list[int]) -> Iterator[list[int]]:
    return (indices[first : first + BATCH_ROWS] for first in range(0, len(indices), BATCH_ROWS))


def _matches(table: pa.Table, text: str) -> list[int]:
    """Indices of rows in which a cell holds `text`."""
    import pyarrow as pa
    import pyarrow.compute as pc

    hits: pa.ChunkedArray | None = None
    for column in table.columns:
        words = column if pa.types.is_large_string(column.type) else column.cast(pa.large_string())
        here = pc.fill_null(pc.match_substring(words, text, ignore_case=True), fill_value=False)
        hits = here if hits is None else pc.or_(hits, here)
    return [] if hits is None else list(pc.indices_nonzero(hits).to_pylist())


def _cell(value: Any, max_chars: int | None) -> Any:
    """As JSON can say it; text beyond `max_chars` is cut."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, str) and max_chars is not None and len(value) > max_chars:
        return value[:max_chars] + "…"
    return value
