"""The rows of a dataset as texts, tokens and labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from tunesmith.core.errors import FailureCode, JobFailure
from tunesmith.core.job_spec import DatasetRef
from tunesmith.core.recipe import RunContext
from tunesmith.core.words import plural, rows_named
from tunesmith.dataprep.shapes import unused_columns
from tunesmith.dataprep.values import text_of
from tunesmith.recipes.row_check import SKIP_REMEDY
from tunesmith.recipes.text_classification.labels import Reading, names_in, reading_of
from tunesmith.recipes.text_classification.spec import TextClassificationParams

CHUNK = 1000
"""Texts that are tokenized at once."""
MOST_NAMED = 10_000
"""Rows of a notice that are named."""


@dataclass(frozen=True)
class TextRows:
    """All rows of a dataset, the bad ones too, so that places are row numbers from 0."""

    texts: list[str]
    labels: list[tuple[str, ...] | None]
    """None where there is none."""
    reading: Reading
    bad: np.ndarray
    """(bad rows,), numbers from 1, ascending."""

    def __len__(self) -> int:
        return len(self.texts)


def read_rows(
    run: RunContext, data: DatasetRef, params: TextClassificationParams, reading: Reading | None = None
) -> TextRows:
    """The rows of `data`. Raises `JobFailure` naming those without text or label, unless they are to be skipped."""
    with pq.ParquetFile(data.path) as file:
        columns = file.schema_arrow.names
        table = file.read(columns=list(dict.fromkeys((data.mapping["text"], data.mapping["label"]))))
    texts = [text_of(cell) for cell in table[data.mapping["text"]].to_pylist()]
    cells = table[data.mapping["label"]].to_pylist()
    reading = reading or reading_of(params.multi_label, params.label_separator, cells)
    labels = [names_in(cell, reading) for cell in cells]
    bad = [n for n, (text, names) in enumerate(zip(texts, labels, strict=True), 1) if not text.strip() or names is None]
    if bad and not params.skip_bad_rows:
        first = "the text is empty" if not texts[bad[0] - 1].strip() else "the label is missing"
        raise JobFailure(
            FailureCode.BAD_DATA,
            f"{plural(len(bad), 'row')} of {data.name} cannot be used for training ({rows_named(bad)}). Row {bad[0]}: {first}.",
            hint=SKIP_REMEDY,
            details=[{"row": row, "message": "text or label is missing", "version": data.digest} for row in bad[:100]],
        )
    if run.attempt == 1:
        _tell(run, data, bad, reading, unused_columns(columns, data.mapping)[0])
    return TextRows(texts, labels, reading, np.array(bad, dtype=np.int64))


def _tell(run: RunContext, data: DatasetRef, bad: list[int], reading: Reading, unused: Sequence[str]) -> None:
    if bad:
        run.notice(
            f"Skipped {plural(len(bad), 'row')} of {data.name} without text or label: {rows_named(bad)}.",
            hint="Fix them in the dataset, or drop them there, to train on clean data.",
            level="warning", code="rows_skipped", rows=bad[:MOST_NAMED],
        )  # fmt: skip
    if reading.is_guessed:
        run.notice(
            f"Labels of {data.name} are split at {reading.separator!r}; that is a guess.",
            hint="Set label_separator, or store lists.",
            code="separator_guessed",
        )
    if unused:
        run.notice(
            f"These columns of {data.name} are not used: {', '.join(unused)}.",
            level="warning", code="unused_columns",
        )  # fmt: skip


def tokenize(
    run: RunContext, name: str, texts: Sequence[str], numbers: np.ndarray, tokenizer: Any, max_length: int
) -> list[np.ndarray]:
    """Token ids of the texts of `numbers` (from 0), (length,) each and at most `max_length`. Says how many were cut. Raises
    `JobFailure` for texts that have no token."""
    run.phase("tokenizing", name)
    found: list[np.ndarray] = []
    cut: list[int] = []
    for start in range(0, len(numbers), CHUNK):
        part = numbers[start : start + CHUNK]
        chunk = [texts[number] for number in part]
        whole = tokenizer(chunk, verbose=False)["input_ids"]
        too_long = [place for place, ids in enumerate(whole) if len(ids) > max_length]
        if too_long:
            again = tokenizer([chunk[place] for place in too_long], truncation=True, max_length=max_length)["input_ids"]
            for place, ids in zip(too_long, again, strict=True):
                whole[place] = ids
            cut += [int(part[place]) + 1 for place in too_long]
        if empty := [int(part[place]) + 1 for place, ids in enumerate(whole) if not ids]:
            raise JobFailure(
                FailureCode.BAD_DATA, f"{rows_named(empty)} of {name} has no token that the model knows.".capitalize(),
                hint="Drop these rows from the dataset.", details=[{"row": row, "message": "no token"} for row in empty[:100]],
            )  # fmt: skip
        found += [np.array(ids, dtype=np.int64) for ids in whole]
        run.progress(min(start + CHUNK, len(numbers)), len(numbers))
    if cut and run.attempt == 1:
        run.notice(
            f"{plural(len(cut), 'text')} of {name} {'is' if len(cut) == 1 else 'are'} cut after {max_length} tokens: {rows_named(cut)}.",
            hint="Raise max_length, if the model reads longer texts.",
            level="warning", code="texts_cut", rows=cut[:MOST_NAMED],
        )  # fmt: skip
    return found
