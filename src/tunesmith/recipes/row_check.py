"""What becomes of a dataset's rows under one model and its settings: counted, put into words, and judged. Pure.

The worker counts while it makes tokens of all rows; the plan of a job counts on what `inspection` has looked at. Both say
the same words, so that what is refused before a job starts is what the job would refuse.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from tunesmith.core.words import plural, rows_named
from tunesmith.recipes.plans import Lengths
from tunesmith.recipes.shapes import RATED_SHAPES

MOST_HARMED = 0.03
"""Share of rows that may lose something before a job is refused, unless `allow_truncation` is set."""
MAX_NAMED_ROWS = 20
OPTIONS = ("train_on", "system_prompt", "tool_calls", "rewritten_turns")
"""Settings that decide what is made of a row; the fields of `chat.Options`."""
HARMFUL = ("rows_cut", "rows_left_out", "lost_turns", "lost_text")
HINTS = {
    "lost_turns": "Set rewritten_turns: split, use a model whose template shows them, or set allow_truncation: true.",
    "lost_text": "Use a model whose template shows every message, or set allow_truncation: true.",
}


class Tally(BaseModel):
    """How many rows meet with what, and the first of them by number, from 1."""

    model_config = ConfigDict(extra="ignore")

    num_rows: int = 0
    """Rows looked at; a row may become several texts."""
    counts: dict[str, int] = Field(default_factory=dict)
    """`rows_cut`, `ends_lost`, `rows_left_out`, `rated_bad`, `equal_answers`, and the notes of `chat.Lesson`."""
    named: dict[str, list[int]] = Field(default_factory=dict)
    longest: int = 0
    """Tokens of the longest text."""
    skipped: list[int] = Field(default_factory=list)
    """All rows that cannot be learned from, where they are left out; not counted in `num_rows`."""

    def add(self, code: str, row: int) -> None:
        rows = self.named.setdefault(code, [])
        if rows and rows[-1] == row:
            return  # another text of the same row
        self.counts[code] = self.counts.get(code, 0) + 1
        if len(rows) < MAX_NAMED_ROWS:
            rows.append(row)
        else:
            rows[-1] = row


@dataclass(frozen=True)
class BadRows:
    """Rows of a dataset that cannot be used for training, as its validation found them."""

    rows: Sequence[int]
    """Numbers from 1, ascending; of more than 10,000 the first."""
    count: int
    why: str
    """What is wrong with them, in sentences."""
    unread: str = ""
    """Lines of the file that are no rows because they could not be read, in a sentence."""

    def problem(self, name: str) -> str:
        """What stands in the way of a job on the dataset `name`."""
        named = rows_named(self.rows, self.count)
        there = f"{plural(self.count, 'row')} of {name} cannot be used for training: {named}."
        return " ".join(part for part in (there if self.count else "", self.why, self.unread) if part)

    def skipped(self, name: str) -> str:
        """What a job does that leaves them out."""
        there = f"Skips {plural(self.count, 'row')} of {name} that cannot be used for training: {rows_named(self.rows, self.count)}."
        return " ".join(part for part in (there if self.count else "", self.unread) if part)


ROW_ERRORS = ("empty_rows", "bad_rows", "bad_conversation", "answer_lists", "tags_do_not_fit")
"""Findings about rows that are there and cannot be used."""
LINE_ERRORS = ("ragged_lines", "bad_json")
"""Findings about lines of the file that became no rows."""
SKIP_REMEDY = "Skip them with skip_bad_rows: true, or repair the dataset with drop_bad_rows."


def known_bad_rows(findings: Sequence[Mapping[str, Any]]) -> BadRows | None:
    """What the findings of a version's validation, as they are stored, say of its rows; None where nothing is wrong."""
    errors = [finding for finding in findings if finding["level"] == "error" and finding["code"] in ROW_ERRORS]
    lines = [finding for finding in findings if finding["level"] == "error" and finding["code"] in LINE_ERRORS]
    if not errors and not lines:
        return None
    unread = [
        f"{f['message']} ({rows_named(f.get('lines') or f['rows'], f['count'], one='line')} of the file)" for f in lines
    ]
    return BadRows(
        sorted({row for finding in errors for row in finding["rows"]}), sum(finding["count"] for finding in errors),
        " ".join(_sentence(_why(finding["message"])) for finding in errors), " ".join(map(_sentence, unread)),
    )  # fmt: skip


def _why(message: str) -> str:
    """A finding's message without the count, which is told for all of them together."""
    return message.partition(" cannot be used for training. ")[2] or message


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?", "…")) else f"{text}."


class Remark(NamedTuple):
    """One sentence about the rows."""

    code: str
    message: str
    hint: str = ""
    level: str = "warning"
    is_refused: bool = False
    """Whether a job should not start because of it."""
    rows: Sequence[int] = ()
    total: int = 0
    """How many there are when `rows` are only some of them."""


class RowFacts(BaseModel):
    """Tokens of those rows of one version that were looked at, with one tokenizer and template. Kept as a file."""

    model_config = ConfigDict(extra="forbid")

    num_rows: int
    """Of the whole version."""
    looked_at: int
    numbers: list[int]
    """For each text the number of its row, from 1."""
    lengths: list[int]
    """Tokens."""
    firsts: list[int]
    """Place of the first learned token, from 0; as the length where nothing is learned."""
    ends: list[int]
    """After the last learned token."""
    notes: dict[str, list[int]]
    """Note → rows."""
    bad: list[dict[str, Any]]
    """`{row, message, hint}` of rows that cannot be learned from; at most 100."""
    num_bad: int
    refused: dict[str, Any] | None = None
    """The first of those that the chat template refuses: `{row, message, hint}`."""
    num_refused: int = 0
    refused_rows: list[int] = Field(default_factory=list)
    """Rows that the chat template refuses; they are in `bad` too."""
    unused_columns: list[str] = Field(default_factory=list)
    """Columns whose names change what a row means and that have no role."""
    rated_bad: int = 0
    end_marks: list[str] = Field(default_factory=list)
    """Tokens that the model learns to end an answer with."""

    @property
    def is_whole(self) -> bool:
        return self.looked_at >= self.num_rows

    def row_lengths(self) -> Lengths | None:
        """None when no row could be used."""
        if not self.lengths:
            return None
        ordered = sorted(self.lengths)
        place = min(len(ordered) - 1, math.ceil(0.99 * len(ordered)) - 1)
        whose = f"{self.num_rows:,} rows" if self.is_whole else f"{self.looked_at:,} rows that were looked at"
        mean = sum(ordered) / len(ordered)
        return Lengths(ordered[len(ordered) // 2], ordered[place], ordered[-1], mean, is_counted=True, whose=whose)

    def tally(self, max_length: int) -> Tally:
        """At a `max_length` in tokens."""
        found = Tally(num_rows=self.looked_at, longest=max(self.lengths, default=0))
        learned: set[int] = set()
        for row, length, first, end in zip(self.numbers, self.lengths, self.firsts, self.ends, strict=True):
            note_cut(found, row, length, end, max_length)
            if max(first, 1) < min(length, max_length):
                learned.add(row)
        for row in dict.fromkeys(self.numbers):
            if row not in learned:
                found.add("rows_left_out", row)
        for note, rows in self.notes.items():
            for row in rows:
                found.add(note, row)
        if self.rated_bad:
            found.counts["rated_bad"] = self.rated_bad
        return found


def note_cut(tally: Tally, row: int, length: int, end: int, max_length: int) -> None:
    """Count a text that is longer than `max_length`, and whether its last learned token falls off."""
    tally.longest = max(tally.longest, length)
    if length > max_length:
        tally.add("rows_cut", row)
        if end > max_length:
            tally.add("ends_lost", row)


def remarks(tally: Tally, max_length: int, *, what: str = "") -> list[Remark]:
    """What a person should know, the worst first. `what` names the rows that were looked at when they are not all."""
    count, rows = tally.counts.get, max(1, tally.num_rows)
    enough = max(64, math.ceil(tally.longest / 64) * 64)
    of = f"{tally.num_rows:,} rows{what}"
    longer = f"Set max_length to {enough} to keep them whole, or allow_truncation: true."
    words: Mapping[str, tuple[str, str, str]] = {
        "rows_cut": (
            f"{count('rows_cut', 0)} of {of} are longer than max_length={max_length} tokens and are cut at the end; "
            f"{count('ends_lost', 0)} lose their end of turn.",
            longer, "warning",
        ),
        "rows_left_out": (
            f"{count('rows_left_out', 0)} of {of} have no answer within max_length={max_length} tokens and are left out.",
            longer, "warning",
        ),
        "lost_turns": (f"{count('lost_turns', 0)} of {of} have answers that the model's chat template does not write "
                       "as they were said; these are not learned.", HINTS["lost_turns"], "warning"),
        "lost_text": (f"{count('lost_text', 0)} of {of} have messages that the model's chat template leaves out.",
                      HINTS["lost_text"], "warning"),
        "rewritten_turns": (f"{count('rewritten_turns', 0)} of {of} have answers that the model's chat template writes in "
                            "another way later on, as thoughts; each of these is learned in a row of its own.", "", "info"),
        "no_end_mark": (f"The model's chat template ends no answer: the end-of-text token is put after the last answer of "
                        f"{count('no_end_mark', 0)} of {of}.", "", "warning"),
        "doubled_marks": (f"{count('doubled_marks', 0)} of {of} carry the model's own start or end tokens; there they stand "
                          "once, not twice.", "", "info"),
        "joined_turns": (f"{count('joined_turns', 0)} of {of} have several user messages in a row, which the model's chat "
                         "template refuses; they are joined.", "", "info"),
        "equal_answers": (f"{count('equal_answers', 0)} of {of} have two answers that are the same; nothing is learned from "
                          "them.", "Take them out of the dataset.", "warning"),
        "rated_bad": (f"{count('rated_bad', 0)} of {of} are rated bad and left out.", "", "info"),
    }  # fmt: skip
    return [
        Remark(
            code,
            message,
            hint,
            level,
            _harms(tally, code) / rows > MOST_HARMED,
            tally.named.get(code, ()),
            count(code, 0),
        )
        for code, (message, hint, level) in words.items()
        if count(code, 0)
    ]


def _harms(tally: Tally, code: str) -> int:
    """Rows that lose something by it."""
    return tally.counts.get("ends_lost" if code == "rows_cut" else code, 0) if code in HARMFUL else 0


def checks(facts: RowFacts, params: Mapping[str, Any]) -> list[Remark]:
    """All that a person should know before a job with these settings starts on rows like these."""
    part = "" if facts.is_whole else f" that were looked at (of {facts.num_rows:,})"
    found = remarks(facts.tally(params["max_length"]), params["max_length"], what=part)
    if params.get("allow_truncation"):
        found = [remark._replace(is_refused=False) for remark in found]
    if facts.refused and not params.get("skip_bad_rows"):
        row, message = facts.refused["row"], facts.refused["message"]
        named = rows_named(facts.refused_rows, facts.num_refused)
        sentence = (
            f"The model's chat template refuses {facts.num_refused:,} of {facts.looked_at:,} rows{part}: {named}. "
            f"Row {row}: {message}"
        )
        hint = f"{facts.refused['hint']} Or skip them with skip_bad_rows: true.".strip()
        found.insert(
            0, Remark("refused_by_template", sentence, hint, "error", is_refused=True, rows=facts.refused_rows)
        )
    if facts.unused_columns:
        hint = "Give them a role in the dataset's column mapping where they belong to what is learned."
        found.append(Remark("unused_columns", f"These columns are not used: {', '.join(facts.unused_columns)}.", hint))
    return found


def skipped(bad: BadRows | None, facts: RowFacts | None, name: str) -> list[Remark]:
    """What a job says that leaves such rows out."""
    found = []
    if bad:
        found.append(Remark("rows_skipped", bad.skipped(name), rows=bad.rows))
    if facts and facts.num_refused:
        part = "" if facts.is_whole else f" of the {facts.looked_at:,} that were looked at"
        named = rows_named(facts.refused_rows, facts.num_refused)
        sentence = f"Skips {plural(facts.num_refused, 'row')}{part} that the model's chat template refuses: {named}."
        found.append(Remark("rows_skipped", sentence, rows=facts.refused_rows))
    return found


def rated_problem(shape: str, params: Mapping[str, Any], method: str) -> tuple[str, str] | None:
    """`(what is wrong, what to do)` where rows rate answers and the job does not say that the good ones are meant."""
    if shape not in RATED_SHAPES or params.get("rated_rows") != "refuse":
        return None
    what = "have a better and a worse answer" if shape == "preference" else "say whether their answer is good"
    return (
        f"its rows {what}; {method} learns from every answer alike",
        ("Choose method dpo, which learns from both answers, or set" if shape == "preference" else "Set")
        + " rated_rows: good to learn the good answers and leave the bad ones out.",
    )
