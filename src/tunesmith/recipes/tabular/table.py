"""A stored table as the recipe learns from it: typed columns, the target, and which rows are held out from the start."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tunesmith.core.errors import FailureCode, JobFailure
from tunesmith.core.job_spec import DatasetRef
from tunesmith.core.recipe import RunContext
from tunesmith.core.words import plural, rows_named
from tunesmith.dataprep.shapes import TRAINING_SPLITS
from tunesmith.recipes.tabular import columns as columns_of
from tunesmith.recipes.tabular import texts
from tunesmith.recipes.tabular.columns import Column, Guess
from tunesmith.recipes.tabular.spec import TabularParams
from tunesmith.recipes.tabular.values import ColumnType, read_category

MAX_CLASSES = 1000
FEW_VALUES = 20
"""Different whole numbers up to which `task: auto` takes a target for classes."""
MIN_ROWS = 10


@dataclass
class Table:
    """Rows in file order. `numbers` are their row numbers in the file, from 1."""

    target: str
    task: str
    columns: tuple[Column, ...]
    values: dict[str, np.ndarray]
    """By column: float64, or objects of text and None."""
    y: np.ndarray
    """Float64 of a regression; else the place of each row's class in `classes`."""
    classes: list[Any]
    """As the data has them: texts, whole numbers, floats or truth values; empty for a regression."""
    numbers: np.ndarray
    held_out: np.ndarray
    """Bool: rows that the file, or a second dataset, holds out."""
    groups: np.ndarray | None = None
    times: np.ndarray | None = None
    left_out: dict[str, str] = field(default_factory=dict)
    """Column → why the model does not see it."""
    class_type: str = ""

    @property
    def is_classification(self) -> bool:
        return self.task == "tabular-classification"


def read_table(run: RunContext, params: TabularParams) -> Table:
    """Read the job's dataset, and the one held out beside it. Raises `JobFailure` naming column and rows; tells of guesses."""
    data = run.spec.dataset
    assert data is not None  # the contract asks for one
    arrow, held_out = _rows(data, run)
    num_own = len(arrow)
    if run.spec.eval_dataset is not None:
        beside = pq.read_table(run.spec.eval_dataset.path)
        _same_columns(arrow, beside, run.spec.eval_dataset.name)
        arrow = pa.concat_tables([arrow, beside.select(arrow.column_names)], promote_options="permissive")
        held_out = np.arange(len(arrow)) >= num_own
    numbers = np.concatenate([np.arange(1, num_own + 1), np.arange(1, len(arrow) - num_own + 1)])
    target = target_of(params, data, arrow.column_names)
    special = {name for name in (target, params.group_column, params.time_column, data.split_column) if name}
    _known(params, arrow.column_names)
    columns_of.refuse_nested(
        arrow.schema, [*params.exclude_columns, *(n for n, k in params.column_types.items() if k == "ignore")]
    )
    arrow, numbers, held_out = _with_target(run, params, arrow, target, numbers, held_out)
    task, y, classes = _read_target(run, params, arrow, target, numbers)
    kept = np.ones(len(arrow), dtype=bool)
    if classes:
        kept, y, classes = _rare(run, params, y, classes, held_out)
        arrow, numbers, held_out = arrow.filter(pa.array(kept)), numbers[kept], held_out[kept]
    if len(arrow) < MIN_ROWS:
        raise JobFailure(
            FailureCode.BAD_DATA,
            f"{plural(len(arrow), 'row')} are too few to learn from.",
            hint=f"Give at least {MIN_ROWS}.",
        )
    table = Table(target, task, (), {}, y, classes, numbers, held_out)
    table.class_type = str(arrow.schema.field(target).type) if classes else ""
    _read_columns(run, params, arrow, special, table)
    if params.group_column:
        uniques, places = columns_of.encoded(arrow.column(params.group_column))
        table.groups = np.where(
            places < 0, len(uniques) + np.arange(len(places)), places
        )  # a missing group is one of its own
        table.left_out[params.group_column] = "it is the group column"
    if params.time_column:
        table.times = _times(arrow.column(params.time_column), params.time_column, numbers)
    return table


def target_of(params: TabularParams, data: DatasetRef, names: list[str]) -> str:
    """The column to predict. Raises `JobFailure`."""
    target = params.target or data.mapping.get("label", "")
    if not target:
        raise JobFailure(
            FailureCode.INVALID_SETTINGS,
            "No column to predict is named.",
            hint=f"Set target to one of: {', '.join(names[:30])}.",
        )
    if target not in names:
        raise JobFailure(
            FailureCode.INVALID_SETTINGS,
            f"The data has no column {target!r}.",
            hint=f"It has: {', '.join(names[:30])}.",
        )
    return target


def _known(params: TabularParams, names: list[str]) -> None:
    wanted_texts = [] if params.text_columns == "auto" else params.text_columns
    named = {
        "exclude_columns": params.exclude_columns, "column_types": params.column_types, "text_columns": wanted_texts,
        "group_column": [params.group_column], "time_column": [params.time_column],
    }  # fmt: skip
    for setting, wanted in named.items():
        missing = [name for name in wanted if name and name not in names]
        if missing:
            raise JobFailure(
                FailureCode.INVALID_SETTINGS,
                f"{setting} names columns that the data does not have: {', '.join(missing)}.",
                hint=f"It has: {', '.join(names[:30])}.",
            )


def _rows(data: DatasetRef, run: RunContext) -> tuple[pa.Table, np.ndarray]:
    arrow = pq.read_table(data.path)
    held_out = np.zeros(len(arrow), dtype=bool)
    if data.split_column and data.split_column in arrow.column_names:
        uniques, places = columns_of.encoded(arrow.column(data.split_column))
        trains = [str(value).strip().lower() in TRAINING_SPLITS for value in uniques]
        held_out = ~np.asarray([*trains, False])[places]
        if held_out.all() or not held_out.any():
            return arrow, np.zeros(len(arrow), dtype=bool)
        run.notice(f"The data itself holds out {plural(int(held_out.sum()), 'row')} by its column {data.split_column}.")
    return arrow, held_out


def _same_columns(ours: pa.Table, beside: pa.Table, name: str) -> None:
    missing = [column for column in ours.column_names if column not in beside.column_names]
    if missing:
        raise JobFailure(
            FailureCode.BAD_DATA,
            f"The held-out data {name} lacks columns: {', '.join(missing)}.",
            hint="Give it the same columns.",
        )


def _with_target(
    run: RunContext, params: TabularParams, arrow: pa.Table, target: str, numbers: np.ndarray, held_out: np.ndarray
) -> tuple[pa.Table, np.ndarray, np.ndarray]:
    if columns_of.is_nested(arrow.schema.field(target).type):
        raise JobFailure(
            FailureCode.BAD_DATA, f"The target {target} holds lists or objects.", hint="Choose another target."
        )
    guess = Guess(target, arrow.column(target))
    there = np.append(guess.there, False)[guess.places]
    missing = numbers[~there]
    if not len(missing):
        return arrow, numbers, held_out
    said = f"The target {target} is missing in {rows_named(list(map(int, missing[:10_000])), len(missing))}"
    if not params.drop_missing_target:
        raise JobFailure(
            FailureCode.BAD_DATA, f"{said}.", hint="Fill it in, or set drop_missing_target: true to leave these rows out.",
            details=[{"row": int(n), "column": target, "message": "the target is missing"} for n in missing[:100]],
        )  # fmt: skip
    run.notice(f"{said}; left out.", code="missing_target", rows=list(map(int, missing[:10_000])))
    return arrow.filter(pa.array(there)), numbers[there], held_out[there]


def _read_target(
    run: RunContext, params: TabularParams, arrow: pa.Table, target: str, numbers: np.ndarray
) -> tuple[str, np.ndarray, list[Any]]:
    guess = Guess(target, arrow.column(target))
    is_number = guess.type() == "number"
    task = params.task
    if task == "auto":
        values = columns_of.read_column(arrow.column(target), "number")[0] if is_number else np.zeros(0)
        whole = bool(np.all(values[~np.isnan(values)] == np.round(values[~np.isnan(values)])))
        few = guess.num_unique <= FEW_VALUES and guess.num_unique <= max(2, guess.num_there // 5)
        task = "classification" if not is_number or (whole and few) else "regression"
        kind = "numbers" if is_number else "words"
        run.notice(
            f"Guessed the task: {task}, as {target} has {plural(guess.num_unique, 'different value')}, {kind}.",
            hint="Set task if this is wrong.", code="guessed_task",
        )  # fmt: skip
    if task == "regression":
        return TASKS[1], _numbers(arrow.column(target), target, numbers), []
    y, classes = _classes(arrow.column(target), guess)
    if len(classes) < 2:
        raise JobFailure(
            FailureCode.BAD_DATA,
            f"The target {target} has one class only: {classes[0]!r}.",
            hint="Give rows of other classes too.",
        )
    if len(classes) > MAX_CLASSES or len(classes) > 0.5 * len(y):
        raise JobFailure(
            FailureCode.BAD_DATA,
            f"The target {target} has {len(classes):,} classes in {len(y):,} rows: too many to learn, as in a column of identifiers.",
            hint="Choose another target, or task: regression if it is a quantity.",
        )
    return TASKS[0], y, classes


TASKS = ("tabular-classification", "tabular-regression")


def _numbers(array: pa.ChunkedArray, target: str, numbers: np.ndarray) -> np.ndarray:
    y, unread = columns_of.read_column(array, "number")
    bad = numbers[np.flatnonzero(np.isnan(y))]
    if len(unread) or len(bad):
        raise JobFailure(
            FailureCode.BAD_DATA,
            f"The target {target} is no finite number in {rows_named(list(map(int, bad[:10_000])), len(bad))}.",
            hint="Correct these rows, or set task: classification if they are classes.",
            details=[{"row": int(n), "column": target, "message": "is no finite number"} for n in bad[:100]],
        )
    if float(y.max()) == float(y.min()):
        raise JobFailure(
            FailureCode.BAD_DATA, f"The target {target} is {y[0]:g} in every row.", hint="Choose another target."
        )
    return y


def _classes(array: pa.ChunkedArray, guess: Guess) -> tuple[np.ndarray, list[Any]]:
    """Classes keep the type they have in the data; texts are compared without blanks around them."""
    names = [value.strip() if isinstance(value, str) else value for value in guess.uniques]
    seen = sorted({name for name, there in zip(names, guess.there, strict=True) if there}, key=_order)
    place = {name: i for i, name in enumerate(seen)}
    table = np.asarray([place.get(name, -1) for name in names], dtype=np.int64)
    simple = [value if isinstance(value, str | bool | int | float) else read_category(str(value)) for value in seen]
    return table[guess.places], simple


def _order(value: Any) -> tuple[int, float, str]:
    """Numbers by size, also those that are texts; then words."""
    try:
        return (0, float(value), str(value))
    except (TypeError, ValueError):
        return (1, 0.0, str(value))


def _rare(
    run: RunContext, params: TabularParams, y: np.ndarray, classes: list[Any], held_out: np.ndarray
) -> tuple[np.ndarray, np.ndarray, list[Any]]:
    """Refuse or leave out classes with too few rows for the folds and, where rows are drawn for it, the held-out part."""
    holds_out_more = params.validation_split > 0 and not held_out.any()
    least = params.folds if not holds_out_more else math.ceil(params.folds / (1 - params.validation_split))
    counts = np.bincount(y[~held_out], minlength=len(classes))
    rare = [place for place, count in enumerate(counts) if count < least]
    if not rare:
        return np.ones(len(y), dtype=bool), y, classes
    named = ", ".join(f"{classes[place]!r} ({counts[place]})" for place in rare[:10])
    said = f"{plural(len(rare), 'class', 'classes')} with fewer than {least} rows to learn from: {named}"
    if params.rare_classes == "refuse" or len(classes) - len(rare) < 2:
        raise JobFailure(
            FailureCode.BAD_DATA, f"{said}. Each of {params.folds} folds needs a row of every class.",
            hint="Give more rows of them, set folds lower, or set rare_classes: drop to leave them out.",
        )  # fmt: skip
    kept = ~np.isin(y, rare)
    run.notice(f"{said}; their {plural(int((~kept).sum()), 'row')} left out.", level="warning", code="rare_classes")
    left = [place for place in range(len(classes)) if place not in rare]
    table = np.full(len(classes), -1)
    table[left] = np.arange(len(left))
    return kept, table[y[kept]], [classes[place] for place in left]


def _times(array: pa.ChunkedArray, name: str, numbers: np.ndarray) -> np.ndarray:
    kind: ColumnType = "number" if Guess(name, array).type() == "number" else "date"
    times, _ = columns_of.read_column(array, kind)
    bad = numbers[np.isnan(times)]
    if len(bad):
        raise JobFailure(
            FailureCode.BAD_DATA,
            f"The time column {name} has no date or number in {rows_named(list(map(int, bad[:10_000])), len(bad))}.",
            hint="Fill it in, or choose another split.",
        )
    return times


def _read_columns(run: RunContext, params: TabularParams, arrow: pa.Table, special: set[str], table: Table) -> None:
    """Fill in `columns`, `values` and `left_out`; types are found on the rows to learn from."""
    train = ~table.held_out
    found: list[Column] = []
    for name in arrow.column_names:
        asked = params.column_types.get(name)
        if name in params.exclude_columns or asked == "ignore":
            table.left_out[name] = "you left it out"
        if name in table.left_out or (name in special and name != params.time_column):
            continue
        guess = Guess(name, arrow.column(name).filter(pa.array(train)))
        kind = asked or ("text" if params.text_columns != "auto" and name in params.text_columns else guess.type())
        if kind == "text" and asked is None and params.text_columns != "auto" and name not in params.text_columns:
            kind = "category"
        if why := _useless(guess, kind, is_asked=asked is not None or name in params.text_columns):
            table.left_out[name] = why
            continue
        assert kind != "ignore"
        values, unread = columns_of.read_column(arrow.column(name), kind)
        if len(unread):
            run.notice(
                columns_of.unreadable(name, kind, unread, asked is not None), level="warning", code="unreadable_values",
                hint="Correct them, or set another type in column_types.", rows=list(map(int, table.numbers[unread[:10_000]])),
            )  # fmt: skip
        table.values[name] = values
        found.append(columns_of.describe_column(name, kind, values[train]))
        if kind == "category" and guess.num_unique > columns_of.MAX_CATEGORIES:
            run.notice(
                f"{name} has {guess.num_unique:,} categories; all but the {columns_of.MAX_CATEGORIES:,} most frequent count as missing.",
                code="many_categories",
            )  # fmt: skip
        if kind == "text" and train.sum() > texts.FIT_ROWS:
            run.notice(f"The words of {name} are learned from a sample of {texts.FIT_ROWS:,} rows.", code="text_sample")
    table.columns = tuple(found)
    useless = {name: why for name, why in table.left_out.items() if why != "you left it out"}
    if useless:
        told = "; ".join(f"{name} ({why})" for name, why in useless.items())
        run.notice(
            f"Columns that are not used: {told}.", code="unused_columns",
            hint="To use one, give its type in column_types.",
        )  # fmt: skip
    if not found:
        raise JobFailure(
            FailureCode.BAD_DATA, "No column is left to predict from.", hint="Use more columns, or set column_types."
        )


def _useless(guess: Guess, kind: str, is_asked: bool) -> str:
    """Why a column helps nobody; empty when it may."""
    if guess.num_there == 0:
        return "it is empty"
    if guess.is_constant:
        return "it has one value only"
    if not is_asked and guess.looks_like_id(kind):  # type: ignore[arg-type]
        return "it looks like an identifier, with a value of its own in nearly every row"
    return ""
