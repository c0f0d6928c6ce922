"""A job's data: which rows are learned, which are held out, and what their labels are."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from tunesmith.core.errors import FailureCode, JobFailure
from tunesmith.core.job_spec import DatasetRef
from tunesmith.core.recipe import RunContext
from tunesmith.core.words import plural, rows_named
from tunesmith.recipes.blocks.split import contents_of
from tunesmith.recipes.text_classification.labels import label_set
from tunesmith.recipes.text_classification.rows import MOST_NAMED, TextRows, read_rows
from tunesmith.recipes.text_classification.spec import TextClassificationParams
from tunesmith.recipes.text_classification.split import split

NAMED = 5
IMBALANCE = 20.0
"""The most frequent label has so many times the rows of the rarest: worth a word where labels are not weighted."""


@dataclass(frozen=True)
class Data:
    """What a job learns from and is measured on."""

    names: tuple[str, ...]
    """The labels of the training rows."""
    is_multi: bool
    rows: TextRows
    train: np.ndarray
    """Row numbers from 0, ascending, into `rows`."""
    held_out_rows: TextRows
    """`rows` itself, unless a dataset of its own is for evaluation."""
    held_out: np.ndarray
    """Row numbers from 0, into `held_out_rows`."""
    contents: np.ndarray
    """(rows,): equal where texts are."""
    held_out_name: str
    """The dataset that the held-out rows are of."""

    def labels(self, *, held_out: bool) -> list[tuple[str, ...]]:
        rows, numbers = (self.held_out_rows, self.held_out) if held_out else (self.rows, self.train)
        return [rows.labels[number] or () for number in numbers]


def read_data(run: RunContext, params: TextClassificationParams) -> Data:
    """Says what is odd about labels and rows. Raises `JobFailure` where nothing can be learned."""
    data = run.spec.dataset
    if data is None:
        raise JobFailure(FailureCode.INVALID_SETTINGS, "The job has no dataset.")
    rows = read_rows(run, data, params)
    other = run.spec.eval_dataset
    share = 0.0 if other else params.validation_split
    train, held_out, contents = split(data, rows.labels, rows.bad, share, params.seed, params.split_by)
    if not len(train):
        raise JobFailure(
            FailureCode.BAD_DATA, f"No row of {data.name} is left to learn from.", hint="Hold out fewer rows, or fix the dataset."
        )  # fmt: skip
    names = label_set((rows.labels[number] or () for number in train), data.name)
    is_multi = rows.reading.is_multi
    if len(names) < (1 if is_multi else 2):
        raise JobFailure(
            FailureCode.BAD_DATA, f"The training rows of {data.name} have one label only: {names[0] if names else 'none'}.",
            hint="A classifier needs rows of at least two labels.",
        )  # fmt: skip
    theirs, held_out_rows, whose = held_out, rows, data
    if other:
        held_out_rows, whose = read_rows(run, other, params, rows.reading), other
        theirs = np.setdiff1d(np.arange(len(held_out_rows)), held_out_rows.bad - 1)
    theirs = _known_only(run, held_out_rows, theirs, names, whose)
    found = Data(names, is_multi, rows, train, held_out_rows, theirs, contents, whose.name)
    if run.attempt == 1:
        _tell_balance(run, params, found, data.name)
        _tell_learned(
            run, found, whose, contents if other is None else contents_of(other.path, {"text": other.mapping["text"]})
        )
    return found


def _known_only(
    run: RunContext, rows: TextRows, numbers: np.ndarray, names: tuple[str, ...], data: DatasetRef
) -> np.ndarray:
    """The held-out rows whose labels are all in the training rows; the others are named, and not scored."""
    known = set(names)
    is_known = np.array([set(rows.labels[number] or ()) <= known for number in numbers], dtype=bool)
    strange = numbers[~is_known] + 1
    if len(strange) and run.attempt == 1:
        labels = sorted({name for number in strange for name in rows.labels[number - 1] or ()} - known)
        run.notice(
            f"{plural(len(strange), 'held-out row')} of {data.name} ({rows_named(strange.tolist())}) "
            f"have labels that no training row has, and are left out of the scores: {_few(labels)}.",
            hint="Add training rows with these labels, or fix their spelling.",
            level="warning", code="unknown_labels", rows=strange.tolist()[:MOST_NAMED],
        )  # fmt: skip
    return numbers[is_known]


def _tell_balance(run: RunContext, params: TextClassificationParams, data: Data, dataset: str) -> None:
    training = Counter(name for names in data.labels(held_out=False) for name in names)
    there = Counter(name for names in data.labels(held_out=True) for name in names)
    if single := sorted(name for name, count in training.items() if count == 1):
        rows = [int(n) + 1 for n in data.train if set(data.rows.labels[n] or ()) & set(single)]
        run.notice(
            f"{plural(len(single), 'label')} of {dataset} {'has' if len(single) == 1 else 'have'} one training row only: "
            f"{_few(single)} ({rows_named(rows)}).",
            hint="Add rows, or join rare labels into one.",
            level="warning", code="rare_labels", rows=rows[:MOST_NAMED],
        )  # fmt: skip
    if len(data.held_out) and (missing := [name for name in data.names if not there[name]]):
        run.notice(
            f"{plural(len(missing), 'label')} {'has' if len(missing) == 1 else 'have'} no held-out row, so nothing is measured of "
            f"{'it' if len(missing) == 1 else 'them'}: {_few(missing)}.",
            hint="Add rows, or hold out a larger share.",
            level="warning", code="labels_not_measured",
        )  # fmt: skip
    ordered = training.most_common()
    (most, many), (least, few) = ordered[0], ordered[-1]
    if params.class_weights == "none" and many >= IMBALANCE * few:
        run.notice(
            f"The labels are unbalanced: {most} has {plural(many, 'training row')}, {least} has {few:,}.",
            hint="Watch macro F1 beside accuracy; class_weights: balanced gives rare labels more weight.",
            code="unbalanced",
        )  # fmt: skip


def _tell_learned(run: RunContext, data: Data, whose: DatasetRef, theirs: np.ndarray) -> None:
    """Name held-out texts that are trained on too: scores on them say little."""
    known = data.held_out[np.isin(theirs[data.held_out], data.contents[data.train])] + 1
    if len(known):
        run.notice(
            f"{plural(len(known), 'held-out text')} of {whose.name} ({rows_named(known.tolist())}) are trained on too, so the "
            "scores say less than they seem to.",
            hint="Set split_by: content, or take them out of one side.",
            level="warning", code="held_out_in_training", rows=known.tolist()[:MOST_NAMED],
        )  # fmt: skip


def _few(names: list[str]) -> str:
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more:,} more" if more > 0 else "")
