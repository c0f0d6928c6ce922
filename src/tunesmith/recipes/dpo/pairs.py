"""Rows of preferences as tokens: the prompt with the better answer, and the prompt with the worse one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from tunesmith.core.errors import BadData
from tunesmith.core.job_spec import DatasetRef
from tunesmith.core.recipe import RunContext
from tunesmith.dataprep.conversion import Pair, convert_pair
from tunesmith.recipes.blocks.chat import Chat, Lesson
from tunesmith.recipes.blocks.data import Reading, load_rows
from tunesmith.recipes.blocks.lessons import encode
from tunesmith.recipes.blocks.token_rows import Row, TokenRows
from tunesmith.recipes.hyperparameters import LanguageParams
from tunesmith.recipes.row_check import Tally, note_cut


@dataclass(frozen=True)
class PairRows:
    """Pairs by place from 0. In `texts` the better answer of pair i is row 2i, the worse one row 2i + 1."""

    texts: TokenRows

    def __len__(self) -> int:
        return len(self.texts) // 2

    @property
    def skipped(self) -> Sequence[int]:
        """Rows of the data, from 1, that cannot be learned from and were left out."""
        return self.texts.skipped

    @cached_property
    def numbers(self) -> np.ndarray:
        """(pairs,): which row of the data each is, from 0."""
        return self.texts.numbers[::2]

    @cached_property
    def lengths(self) -> np.ndarray:
        """(pairs,): tokens of both texts."""
        return self.texts.lengths[::2] + self.texts.lengths[1::2]

    @cached_property
    def answer_tokens(self) -> np.ndarray:
        """(pairs, 2): tokens of the better and of the worse answer."""
        return self.texts.num_supervised.reshape(-1, 2)

    def rows(self, places: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """`(input_ids, labels)` of the better answers at `places`, then of the worse ones."""
        return [self.texts.row(int(2 * place + side)) for side in (0, 1) for place in places]


class PairReading(Reading):
    """Two texts of each row."""

    name = "pairs"

    def examples(self, rows: list[dict[str, Any]], data: DatasetRef) -> list[Pair | BadData]:
        made: list[Pair | BadData] = []
        for row in rows:
            try:
                made.append(convert_pair(row, data.mapping))
            except BadData as error:
                made.append(error)
        return made

    def lessons(self, chat: Chat, examples: list[Any]) -> list[list[Lesson] | BadData]:
        """The better answer's text, then the worse one's."""
        pairs = [example for example in examples if isinstance(example, Pair)]
        found = iter(chat.lessons([example for pair in pairs for example in pair]))
        made: list[list[Lesson] | BadData] = []
        for example in examples:
            if not isinstance(example, Pair):
                made.append(example)
                continue
            both = [next(found), next(found)]
            bad = next((lessons for lessons in both if isinstance(lessons, BadData)), None)
            made.append(bad or [_one(lessons) for lessons in both if not isinstance(lessons, BadData)])
        return made

    def cut(self, taught: list[tuple[int, Lesson]], tokenizer: Any, max_length: int, tally: Tally) -> list[Row]:
        """A pair of which one answer has nothing left is left out. What follows an answer is not computed."""
        rows: list[Row] = []
        for (number, lesson), tokens in zip(taught, encode([lesson for _, lesson in taught], tokenizer), strict=True):
            note_cut(tally, number, len(tokens.ids), tokens.end, max_length)
            for note in lesson.notes:
                tally.add(note, number)
            end = min(tokens.end, max_length)
            rows.append((number - 1, tokens.ids[:end], tokens.learn[:end]))
        kept: list[Row] = []
        for good, bad in zip(rows[::2], rows[1::2], strict=True):
            if not (good[2][1:].any() and bad[2][1:].any()):
                tally.add("rows_left_out", good[0] + 1)
                continue
            if np.array_equal(good[1], bad[1]):
                tally.add("equal_answers", good[0] + 1)
            kept += [good, bad]
        return kept


def _one(lessons: list[Lesson]) -> Lesson:
    """Of several texts the first, which is that of the last turn: the template writes it in another way later on."""
    if len(lessons) == 1:
        return lessons[0]
    return lessons[0]._replace(notes=lessons[0].notes | {"lost_turns"})


def load_pairs(
    run: RunContext,
    data: DatasetRef,
    tokenizer: Any,
    params: LanguageParams,
    numbers: np.ndarray | None = None,
    known_bad: Sequence[int] = (),
) -> PairRows:
    """As `data.load_rows`, for rows of shape `preference`."""
    return PairRows(load_rows(run, data, tokenizer, params, numbers, known_bad, PairReading()))
