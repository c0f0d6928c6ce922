"""Which rows are measured, and which questions are asked: the same for every model on the same data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from tunesmith.core.job_spec import DatasetRef
from tunesmith.core.recipe import RunContext
from tunesmith.engine.packing import IGNORE
from tunesmith.recipes.blocks.data import find_bad, load_rows
from tunesmith.recipes.blocks.held_out import within_context
from tunesmith.recipes.blocks.split import contents_of, split_rows, split_usable
from tunesmith.recipes.blocks.token_rows import TokenRows
from tunesmith.recipes.evaluate.spec import EvaluateParams
from tunesmith.recipes.hyperparameters import SftParams

LOOKED_AT = 2000
"""Rows whose answers tell of what kind they are."""


class Question(NamedTuple):
    """One row as a question: what is before its last answer, and that answer."""

    row: int
    """Which row of the data, from 0."""
    prompt_ids: np.ndarray
    prompt: str
    expected: str
    expected_tokens: int


@dataclass(frozen=True)
class Material:
    """What an evaluation runs on."""

    rows: TokenRows
    places: np.ndarray
    """Places in `rows` whose likelihood is measured, in the order in which they were drawn."""
    questions: list[Question]
    """Those that the model answers, in the same order; empty where the data holds no answers."""
    expected: list[str]
    """Every answer of the data that was looked at, to see of what kind they are."""
    max_length: int


def load_material(run: RunContext, data: DatasetRef, params: EvaluateParams, tokenizer: Any) -> Material:
    """Raises `JobFailure` naming rows that cannot be used."""
    held_out = params.held_out
    wanted = SftParams(
        max_length=held_out.max_length if held_out.job_id else params.max_length,
        train_on=held_out.train_on,
        system_prompt=params.system_prompt,
        tool_calls="text",
        skip_bad_rows=params.skip_bad_rows or held_out.skip_bad_rows,
    )
    settings = within_context(run, wanted)
    numbers, bad = None, np.zeros(0, dtype=np.int64)
    if held_out.job_id and held_out.split_by != "as_read":
        bad = find_bad(run, data) if held_out.skip_bad_rows else bad
        contents = contents_of(data.path, data.mapping)
        numbers = split_usable(data, contents, bad, held_out.share, held_out.seed, by=held_out.split_by)[1]
    rows = load_rows(run, data, tokenizer, settings, numbers, bad.tolist())
    places = np.arange(len(rows))
    if held_out.job_id and numbers is None:
        places = split_rows(len(rows), held_out.share, held_out.seed)[1]
    places = drawn(rows, _one_of_each(rows, places), data.num_rows, params.seed)
    answered = rows
    if settings.train_on == "all" and data.shape != "text":
        answered = load_rows(
            run, data, tokenizer, settings.model_copy(update={"train_on": "completions"}), numbers, bad.tolist()
        )
    looked_at = places[: max(params.max_samples, LOOKED_AT)]
    found = [] if data.shape == "text" else _questions(answered, rows.numbers[looked_at], tokenizer)
    measured = places[: params.max_samples]
    asked = found[: min(params.max_prompts, params.max_samples)]
    return Material(rows, measured, asked, [question.expected for question in found], settings.max_length)


def _one_of_each(rows: TokenRows, places: np.ndarray) -> np.ndarray:
    """Of rows that became several texts the last one, which is the whole conversation."""
    _, from_behind = np.unique(rows.numbers[places][::-1], return_index=True)
    return np.sort(places[len(places) - 1 - from_behind])


def drawn(rows: TokenRows, places: np.ndarray, num_rows: int, seed: int) -> np.ndarray:
    """`places` in an order that depends on the rows' numbers and the seed alone: a model that had to leave rows out still
    gets the same ones in the same order."""
    highest = int(rows.numbers.max()) + 1 if len(rows) else 0
    order = np.random.default_rng([seed, 0xE7A1]).permutation(max(num_rows, highest))
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    found: np.ndarray = places[np.argsort(rank[rows.numbers[places]], kind="stable")]
    return found


def _questions(rows: TokenRows, numbers: np.ndarray, tokenizer: Any) -> list[Question]:
    place_of = {int(number): place for place, number in enumerate(rows.numbers)}
    found = []
    for number in numbers:
        place = place_of.get(int(number))
        question = _question(rows, place, tokenizer) if place is not None else None
        if question:
            found.append(question)
    return found


def _question(rows: TokenRows, place: int, tokenizer: Any) -> Question | None:
    """A row cut where its last answer begins; None when nothing is before it."""
    ids, labels = rows.row(place)
    learn = labels != IGNORE
    ends = np.flatnonzero(learn)
    end = int(ends[-1]) + 1
    outside = np.flatnonzero(~learn[:end])
    begin = int(outside[-1]) + 1 if len(outside) else 0
    if begin == 0:
        return None
    expected = tokenizer.decode(ids[begin:end], skip_special_tokens=True).strip()
    prompt = tokenizer.decode(ids[:begin], skip_special_tokens=True).strip()
    return Question(int(rows.numbers[place]), ids[:begin], prompt, expected, end - begin)
