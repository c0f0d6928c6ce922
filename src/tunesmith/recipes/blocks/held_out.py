"""Which rows of a job's data are learned from and which are held out, as tokens."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import numpy as np

from tunesmith.core.errors import FailureCode, JobFailure
from tunesmith.core.job_spec import DatasetRef
from tunesmith.core.recipe import RunContext
from tunesmith.engine.ranks import Ranks
from tunesmith.recipes.blocks.data import find_bad
from tunesmith.recipes.blocks.loading import load_config
from tunesmith.recipes.blocks.split import contents_of, needed_rows, split_rows, split_usable
from tunesmith.recipes.hyperparameters import LanguageParams, TrainerParams

P = TypeVar("P", bound=LanguageParams)


def within_context(run: RunContext, params: P) -> P:
    """`params` with `max_length` no longer than what the model was made for."""
    assert run.spec.model is not None  # the service refuses a job without one
    config = load_config(run.spec.model, offline=run.spec.offline)
    context: int | None = getattr(config.get_text_config(), "max_position_embeddings", None)
    if not context or params.max_length <= context:
        return params
    run.notice(
        f"The model reads at most {context} tokens, so rows are cut there and not at max_length={params.max_length}.",
        level="warning", code="max_length_lowered",
    )  # fmt: skip
    return params.model_copy(update={"max_length": context})


class Rows(Protocol):
    """Rows of tokens, or of what else is made of them."""

    @property
    def numbers(self) -> np.ndarray:
        """(rows,): which row of the data each is, from 0."""

    def __len__(self) -> int: ...


R = TypeVar("R", bound=Rows)


def load_split(
    run: RunContext, params: LanguageParams, tokenizer: Any, load: Callable[..., R]
) -> tuple[R, np.ndarray, tuple[R, np.ndarray], np.ndarray]:
    """`(rows, training rows, (rows, held-out rows), numbers of the held-out rows that are trained on too)`.

    `load`: `data.load_rows`, or what takes the same.
    """
    data = run.spec.dataset
    if data is None:
        raise JobFailure(FailureCode.INVALID_SETTINGS, "The job has no dataset.")
    if "split_by" not in run.spec.params:  # a job of before: its rows are split as they were then
        rows = load(run, data, tokenizer, params)
        train, held_out = split_rows(len(rows), params.validation_split, params.seed)
        return rows, train, _held_out(run, params, tokenizer, rows, held_out, load), np.zeros(0, np.int64)
    contents = contents_of(data.path, data.mapping)
    bad = find_bad(run, data) if params.skip_bad_rows else np.zeros(0, dtype=np.int64)
    share = 0.0 if run.spec.eval_dataset else params.validation_split
    split = split_usable(data, contents, bad, share, params.seed, by=params.split_by)
    if run.spec.eval_dataset:
        split = split[0], split[1][:0]
    wanted = needed_rows(split[0], rows_read(params), params.seed)
    is_whole = len(wanted) == len(split[0]) and not len(bad)
    numbers = None if is_whole else np.sort(np.concatenate([wanted, split[1]]))
    rows = load(run, data, tokenizer, params, numbers, bad.tolist())
    is_held_out = np.isin(rows.numbers, split[1])
    train, held_out = np.flatnonzero(~is_held_out), np.flatnonzero(is_held_out)
    if not len(train):
        raise JobFailure(
            FailureCode.BAD_DATA, f"All rows of {data.name} that can be learned from are held out.",
            hint="Set validation_split to 0, or raise max_length.",
        )  # fmt: skip
    known = tell_known(run, data, contents, split)
    return rows, train, _held_out(run, params, tokenizer, rows, held_out, load), known


def _held_out(
    run: RunContext, params: LanguageParams, tokenizer: Any, rows: R, held_out: np.ndarray, load: Callable[..., R]
) -> tuple[R, np.ndarray]:
    """`(rows, places)`: of the separate dataset when there is one."""
    if run.spec.eval_dataset is None:
        return rows, held_out
    data = run.spec.eval_dataset
    bad = find_bad(run, data) if params.skip_bad_rows else np.zeros(0, dtype=np.int64)
    numbers = np.setdiff1d(np.arange(data.num_rows), bad - 1) if len(bad) else None
    other = load(run, data, tokenizer, params, numbers, bad.tolist())
    return other, np.arange(len(other))


def rows_read(params: TrainerParams) -> int:
    """Rows that the steps of a limited run read on one device; more than any dataset has when it is not limited."""
    if params.max_steps is None:
        return sys.maxsize
    return params.max_steps * params.batch_size * params.gradient_accumulation_steps * max(1, Ranks().count)


def tell_known(
    run: RunContext, data: DatasetRef, contents: np.ndarray, split: tuple[np.ndarray, np.ndarray]
) -> np.ndarray:
    """Name the held-out rows that are trained on too: a score on them says nothing. Returns their numbers from 0."""
    if run.spec.eval_dataset is not None:
        theirs, whose = (
            contents_of(run.spec.eval_dataset.path, run.spec.eval_dataset.mapping),
            run.spec.eval_dataset.name,
        )
        numbers = np.arange(len(theirs))
    else:
        numbers, whose = split[1], data.name
        theirs = contents[numbers]
    known: np.ndarray = numbers[np.isin(theirs, contents[split[0]])]
    if len(known):
        named = ", ".join(map(str, known[:20] + 1))
        run.notice(
            f"{len(known)} of {len(numbers)} held-out rows are trained on too, so their score says little: row {named} of {whose}.",
            hint="Set split_by: content, or take them out of one side.", level="warning", code="held_out_in_training",
        )  # fmt: skip
    if not len(numbers) and run.spec.params.get("validation_split"):
        run.notice(
            "No row is held out: all rows are equal.",
            hint="Give a held-out dataset.",
            level="warning",
            code="nothing_held_out",
        )
    return known
