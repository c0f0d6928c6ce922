"""Predictions for a whole CSV file, read and written row by row, so that memory does not grow with the file."""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tunesmith.core.errors import BadData, InvalidInput
from tunesmith.dataprep.source import find_delimiter
from tunesmith.recipes.tabular.ensemble import UNSURE
from tunesmith.recipes.tabular.predictor import TabularPredictor, load

CHUNK_ROWS = 2000
SAMPLE_CHARS = 65_536
MAX_CELL_CHARS = 16 * 1024**2


class Predicted(NamedTuple):
    """What became of a file."""

    rows: int
    failed: int
    """Rows with a word in the column `error` and no prediction."""
    missing_columns: tuple[str, ...]
    """Columns that the model knows and the file does not have: missing in every row."""
    unused_columns: tuple[str, ...]
    """Columns of the file that the model does not know."""
    unseen: dict[str, int]
    """Categories by column that the model has not learned; they count as missing."""


def predict_file(folder: Path | str, csv_path: Path | str, out_path: Path | str, *, threads: int = 1) -> Predicted:
    """Write the rows of a CSV file (UTF-8) with what the model predicts beside them: `prediction` and `probability` (also
    `likeliest` where the model may be unsure), or `prediction`, `low` and `high`; and `error` for rows that cannot be read.

    The new file is there whole or not at all. Raises `BadData` for a file that is no table, `InvalidInput` when it has none of the
    model's columns.
    """
    model = load(folder, threads)
    out, source = Path(out_path), Path(csv_path)
    temporary = out.with_name(f".{out.name}.{os.getpid()}")
    csv.field_size_limit(MAX_CELL_CHARS)
    try:
        with (
            source.open(encoding="utf-8-sig", newline="") as lines,
            temporary.open("w", encoding="utf-8", newline="") as written,
        ):
            delimiter = find_delimiter(lines.read(SAMPLE_CHARS))
            lines.seek(0)
            told = _write(
                model, csv.reader(lines, delimiter=delimiter, strict=True), csv.writer(written, delimiter=delimiter)
            )
        temporary.replace(out)
    except UnicodeDecodeError:
        raise BadData(f"{source.name} is not UTF-8.", hint="Save it as UTF-8 and try again.") from None
    except csv.Error as error:
        raise BadData(
            f"{source.name} cannot be read as CSV: {error}", hint="Check quotes that are not closed."
        ) from None
    finally:
        temporary.unlink(missing_ok=True)
    return told


def _write(model: TabularPredictor, lines: Iterator[list[str]], written: Any) -> Predicted:
    header = next(lines, None)
    if not header:
        raise BadData("The file is empty.", hint="Give a CSV file with a header and rows.")
    known = [column["name"] for column in model.columns]
    present = [name for name in known if name in header]
    if not present:
        raise InvalidInput(
            "The file has none of the model's columns.", hint=f"The model asks for: {', '.join(known[:30])}."
        )
    if doubled := [name for name, count in Counter(header).items() if count > 1 and name in known]:
        raise InvalidInput(
            f"These columns are there twice: {', '.join(doubled)}.", hint="Rename or remove one of each."
        )
    added = _added(model)
    taken = {name: _free(name, header) for name in (*added, "error")}
    written.writerow([*header, *taken.values()])
    rows = failed = 0
    while chunk := list(islice(lines, CHUNK_ROWS)):
        chunk = [cells for cells in chunk if cells]
        answers, errors = _predict(model, header, chunk)
        for cells, answer, error in zip(chunk, answers, errors, strict=True):
            padded = (cells + [""] * len(header))[: len(header)]
            written.writerow([*padded, *(answer or [""] * len(added)), error])
        rows, failed = rows + len(chunk), failed + sum(bool(error) for error in errors)
    passed = {model.target, *(model._told.get("left_out") or {})}
    unused = tuple(name for name in header if name not in known and name not in passed)
    return Predicted(rows, failed, tuple(name for name in known if name not in present), unused, dict(model.unseen))


def _added(model: TabularPredictor) -> list[str]:
    return ["prediction", "probability", "likeliest"] if model.classes else ["prediction", "low", "high"]


def _free(name: str, header: list[str]) -> str:
    """A name for a new column that the file does not have yet."""
    while name in header:
        name += "_"
    return name


def _predict(
    model: TabularPredictor, header: list[str], chunk: list[list[str]]
) -> tuple[list[list[Any] | None], list[str]]:
    """New cells of each row (None where it cannot be read), and what is wrong with it."""
    read, errors = [], []
    for cells in chunk:
        if len(cells) != len(header):
            errors.append(f"has {len(cells)} cells instead of {len(header)}")
            continue
        found, wrong = model.read_row(dict(zip(header, cells, strict=True)))
        errors.append("; ".join(f"{name}: {message}" for name, message in wrong.items()))
        if not wrong:
            read.append(found)
    values = {}
    for column in model.columns:
        array = np.empty(len(read), dtype=np.float64 if column["type"] in ("number", "date") else object)
        array[:] = [row[column["name"]] for row in read]
        values[column["name"]] = array
    answers = iter(model.answers(values)) if read else iter(())
    return [None if error else _cells(next(answers), model.classes) for error in errors], errors


def _cells(answer: Any, classes: list[Any]) -> list[Any]:
    if not classes:
        return [answer["value"], answer.get("low", ""), answer.get("high", "")]
    is_unsure = answer[0]["label"] == UNSURE and UNSURE not in classes
    likeliest = answer[1] if is_unsure else answer[0]
    return [answer[0]["label"], likeliest["score"], likeliest["label"]]
