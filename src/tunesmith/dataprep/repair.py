"""Repairs: each makes a new frame and says what it changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl

from tunesmith.dataprep.bad_rows import bad_rows_of, empty, required_columns
from tunesmith.dataprep.checks import row_hash, text_columns
from tunesmith.dataprep.shapes import SHAPES, Shape
from tunesmith.dataprep.values import decoded
from tunesmith.schemas.datasets import RepairRequest, RepairStep

MAX_EXAMPLES = 5
MAX_SHOWN_CHARS = 300
ROW = "__row"


def repair(
    data: Path, shape: str, mapping: dict[str, str], request: RepairRequest, *, num_examples: int = MAX_EXAMPLES
) -> tuple[pl.DataFrame, list[RepairStep]]:
    """The repaired rows, and one step for each repair that was asked for, in the order of `RepairRequest`'s fields."""
    frame = pl.read_parquet(data).with_row_index(ROW, offset=1)
    texts = [c for c in text_columns(shape, mapping).values() if frame.schema[c] == pl.String]
    steps: list[RepairStep] = []
    if request.fix_encoding:
        frame = _change(frame, texts, "fix_encoding", steps, _fixed, num_examples)
    if request.answer_lists:
        frame = _one_answer(frame, SHAPES[shape], mapping, request.answer_lists, steps, num_examples)
    if request.strip:
        frame = _change(frame, texts, "strip", steps, lambda c: pl.col(c).str.strip_chars(), num_examples)
    if request.drop_empty:
        schema = pl.Schema({name: kind for name, kind in frame.schema.items() if name != ROW})
        frame = _drop(frame, empty(schema, required_columns(shape, mapping)), "drop_empty", steps, num_examples)
    if request.drop_bad_rows:
        found = pl.lit(bad_rows_of(frame.drop(ROW), shape, mapping))
        frame = _drop(frame, found, "drop_bad_rows", steps, num_examples)
    if request.drop_duplicates:
        columns = [c for c in frame.columns if c != ROW]
        frame = _drop(frame, ~row_hash(columns).is_first_distinct(), "drop_duplicates", steps, num_examples)
    if request.length_bounds:
        frame = _drop(frame, _out_of_bounds(shape, mapping, request), "length_bounds", steps, num_examples)
    return frame.drop(ROW), steps


def _fixed(column: str) -> pl.Expr:
    from ftfy import fix_text

    return pl.col(column).map_elements(fix_text, return_dtype=pl.String, skip_nulls=True)


def _change(
    frame: pl.DataFrame,
    columns: list[str],
    name: str,
    steps: list[RepairStep],
    mend: Callable[[str], pl.Expr],
    num_examples: int,
) -> pl.DataFrame:
    after = frame.with_columns([mend(column).alias(column) for column in columns]) if columns else frame
    differs = pl.any_horizontal([pl.col(c).ne_missing(after[c]) for c in columns]) if columns else pl.lit(value=False)
    changed = frame.filter(differs)
    before = changed.head(num_examples)
    mended = after.filter(pl.col(ROW).is_in(before[ROW].implode()))
    pairs = zip(before.iter_rows(named=True), mended.iter_rows(named=True), strict=True)
    examples = [_example(old, new, columns) for old, new in pairs]
    steps.append(RepairStep(repair=name, rows_changed=changed.height, examples=examples))
    return after


def _one_answer(
    frame: pl.DataFrame, shape: Shape, mapping: dict[str, str], which: str, steps: list[RepairStep], num_examples: int
) -> pl.DataFrame:
    """Answers that are lists of texts become their first text, or as many rows as there are texts."""
    column = mapping.get(shape.output_role or "")
    if column is None or frame.schema[column] != pl.String:
        steps.append(RepairStep(repair="answer_lists"))
        return frame
    found = [decoded(value) for value in frame[column]]
    is_list = [isinstance(f, list) and bool(f) and all(isinstance(item, str) for item in f) for f in found]
    texts = [
        (f[:1] if which == "first" else f) if lists else [value]
        for f, lists, value in zip(found, is_list, frame[column], strict=True)
    ]
    changed = frame.filter(pl.Series(is_list))
    after = frame.with_columns(pl.Series(column, texts, dtype=pl.List(pl.String))).explode(column)
    examples = [
        {"row": row, "before": {column: value[:MAX_SHOWN_CHARS]}, "after": {column: "\n".join(each)[:MAX_SHOWN_CHARS]}}
        for row, value, each, lists in zip(frame[ROW], frame[column], texts, is_list, strict=True)
        if lists
    ][:num_examples]
    steps.append(RepairStep(repair="answer_lists", rows_changed=changed.height, examples=examples))
    return after


def _example(before: dict[str, Any], after: dict[str, Any], columns: list[str]) -> dict[str, Any]:
    return {
        "row": before[ROW],
        "before": {c: str(before[c])[:MAX_SHOWN_CHARS] for c in columns if before[c] != after[c]},
        "after": {c: str(after[c])[:MAX_SHOWN_CHARS] for c in columns if before[c] != after[c]},
    }


def _drop(
    frame: pl.DataFrame, condition: pl.Expr, name: str, steps: list[RepairStep], num_examples: int
) -> pl.DataFrame:
    marked = frame.with_columns(condition.fill_null(value=False).alias("__drop"))
    dropped = marked.filter("__drop").drop("__drop")
    examples = [
        {
            "row": row.pop(ROW),
            "before": {key: str(value)[:MAX_SHOWN_CHARS] for key, value in row.items()},
            "after": None,
        }
        for row in dropped.head(num_examples).iter_rows(named=True)
    ]
    steps.append(RepairStep(repair=name, rows_dropped=dropped.height, examples=examples))
    return marked.filter(~pl.col("__drop")).drop("__drop")


def _out_of_bounds(shape: str, mapping: dict[str, str], request: RepairRequest) -> pl.Expr:
    sides = (
        (SHAPES[shape].input_role, request.min_input_chars, request.max_input_chars),
        (SHAPES[shape].output_role, request.min_output_chars, request.max_output_chars),
    )
    tests = []
    for role, least, most in sides:
        if role and role in mapping:
            length = pl.col(mapping[role]).cast(pl.String).str.len_chars().fill_null(0)
            tests.append((length < least) | (length > most))
    return pl.any_horizontal(tests) if tests else pl.lit(value=False)
