"""Dataset file → rows → chat template → tokens and labels. Tokenized once per data, tokenizer and settings; kept memory-mapped."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from tunesmith.core.errors import BadData, FailureCode, JobFailure
from tunesmith.core.job_dir import write_atomic
from tunesmith.core.job_spec import DatasetRef
from tunesmith.core.recipe import RunContext
from tunesmith.core.words import plural, rows_named
from tunesmith.dataprep.shapes import unused_columns
from tunesmith.recipes.blocks.chat import Chat, Lesson, Options
from tunesmith.recipes.blocks.lessons import encode, read_batches, read_examples
from tunesmith.recipes.blocks.templates import Renderer
from tunesmith.recipes.blocks.token_rows import Row, TokenRows, write_rows
from tunesmith.recipes.blocks.tokenizer import opening
from tunesmith.recipes.hyperparameters import LanguageParams, SftParams
from tunesmith.recipes.row_check import SKIP_REMEDY, Tally, note_cut, remarks

CODE_VERSION = 5
"""Raised whenever tokens or labels would come out differently."""
BAD_ROWS_VERSION = 1
"""Raised whenever other rows would count as bad."""
MAX_SKIPPED_NAMED = 10_000
"""Numbers of skipped rows that a job keeps."""


def load_rows(
    run: RunContext,
    data: DatasetRef,
    tokenizer: Any,
    params: LanguageParams,
    numbers: np.ndarray | None = None,
    known_bad: Sequence[int] = (),
    reading: Reading | None = None,
) -> TokenRows:
    """The dataset's rows as tokens, from the cache when they are there; only those of `numbers` (from 0) when it is given.
    Raises `JobFailure` naming bad rows, or leaves them out where `params` say so. `known_bad`: rows, from 1, that `numbers`
    leaves out already because they are bad. `reading`: what a row is, when it is not one example."""
    reading = reading or Reading()
    path = Path(run.spec.cache_dir) / "tokens" / f"{_cache_key(data, tokenizer, params, numbers, reading)}.arrow"
    tally_path = path.with_suffix(".json")
    is_new = not (path.exists() and tally_path.exists())
    if is_new:
        run.phase("tokenizing", data.name)
        tally = Tally()
        with Renderer(tokenizer) as template:
            chat = Chat(tokenizer, template, options_of(params))
            write_rows(path, _tokenize(run, data, chat, tokenizer, params, numbers, tally, reading))
        write_atomic(tally_path, tally)
    tally = Tally.model_validate_json(tally_path.read_bytes())
    skipped = sorted({*known_bad, *tally.skipped})
    rows = dataclasses.replace(TokenRows.open(path), skipped=skipped)
    if is_new or run.attempt == 1:
        _tell_skipped(run, data, skipped)
        _tell(run, data, params, tally)
        if data.shape == "preference" and not reading.name:
            run.notice(
                f"The rows of {data.name} have a better and a worse answer; the better ones are learned, the worse ones are not used.",
                hint="Method dpo learns from both.", code="rejected_not_used",
            )  # fmt: skip
    if len(rows) == 0:
        raise JobFailure(
            FailureCode.BAD_DATA,
            f"No row of {data.name} is left to learn from once bad rows are skipped."
            if skipped and not tally.num_rows
            else f"No row of {data.name} is left to learn from once cut to max_length={params.max_length} tokens.",
            hint="Fix the dataset." if skipped and not tally.num_rows else "Raise max_length, or set train_on: all.",
        )
    return rows


def find_bad(run: RunContext, data: DatasetRef) -> np.ndarray:
    """(bad rows,) int64, from 1, ascending: those that no model could learn from. Kept beside the tokens."""
    parts = [BAD_ROWS_VERSION, data.digest, data.shape, sorted(data.mapping.items())]
    key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    kept = Path(run.spec.cache_dir) / "tokens" / f"{key}.bad.npy"
    try:
        return np.asarray(np.load(kept, allow_pickle=False))
    except (FileNotFoundError, ValueError):
        pass
    from tunesmith.dataprep.bad_rows import bad_rows  # polars starts threads, and what has threads cannot be forked

    run.phase("tokenizing", data.name)
    found = bad_rows(data.path, data.shape, dict(data.mapping), lambda row: run.progress(row, data.num_rows))
    kept.parent.mkdir(parents=True, exist_ok=True)
    content = io.BytesIO()
    np.save(content, found)
    write_atomic(kept, content.getvalue())
    return found


def _tell_skipped(run: RunContext, data: DatasetRef, skipped: Sequence[int]) -> None:
    """Name the rows that were left out."""
    if skipped:
        run.notice(
            f"Skipped {plural(len(skipped), 'row')} of {data.name} that cannot be used for training: {rows_named(skipped)}.",
            hint="Fix them in the dataset, or drop them there, to train on clean data.",
            level="warning", code="rows_skipped", rows=skipped[:MAX_SKIPPED_NAMED],
        )  # fmt: skip


def options_of(params: LanguageParams) -> Options:
    """What a job's settings say about conversations; methods that compare whole answers learn no turn apart."""
    if isinstance(params, SftParams):
        return Options(params.train_on, params.system_prompt, params.tool_calls, params.rewritten_turns)
    return Options("completions", params.system_prompt, params.tool_calls, "skip")


def _cache_key(
    data: DatasetRef, tokenizer: Any, params: LanguageParams, numbers: np.ndarray | None, reading: Reading
) -> str:
    """Of everything that tokens come from: rows, tokenizer with its special tokens, template, settings, and the libraries."""
    special = sorted((name, str(token)) for name, token in tokenizer.special_tokens_map.items())
    parts = [
        special, opening(tokenizer), *map(version, ("transformers", "tokenizers", "jinja2")),
        CODE_VERSION, data.digest, data.shape, sorted(data.mapping.items()), tokenizer.backend_tokenizer.to_str(),
        tokenizer.chat_template, tokenizer.eos_token, params.max_length, list(options_of(params)),
        None if numbers is None else hashlib.sha256(numbers.astype(np.int64).tobytes()).hexdigest(),
        *(["skip_bad_rows"] if params.skip_bad_rows else []), *([reading.name] if reading.name else []),
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _tokenize(
    run: RunContext, data: DatasetRef, chat: Chat, tokenizer: Any, params: LanguageParams, numbers: np.ndarray | None,
    tally: Tally, reading: Reading,
) -> Iterator[list[Row]]:  # fmt: skip
    """Batches of rows, counted in `tally`. Raises `JobFailure` at the end when some were bad and are not to be skipped."""
    bad: list[dict[str, Any]] = []
    total = data.num_rows if numbers is None else len(numbers)
    for row_numbers, batch in read_batches(data.path, sorted(set(data.mapping.values())), numbers):
        examples = reading.examples(batch, data)
        is_good = [getattr(example, "is_good", True) for example in examples]
        kept = [(int(n), example) for n, example, good in zip(row_numbers, examples, is_good, strict=True) if good]
        tally.num_rows += len(batch)
        if not all(is_good):
            tally.counts["rated_bad"] = tally.counts.get("rated_bad", 0) + is_good.count(False)
        taught: list[tuple[int, Lesson]] = []
        for (number, _), lessons in zip(kept, reading.lessons(chat, [example for _, example in kept]), strict=True):
            if isinstance(lessons, BadData):
                if params.skip_bad_rows:
                    tally.skipped.append(number)
                    tally.num_rows -= 1
                else:
                    bad.append({"row": number, "message": lessons.message, "hint": lessons.hint})
                continue
            taught += [(number, lesson) for lesson in lessons]
        yield reading.cut(taught, tokenizer, params.max_length, tally)
        done = tally.num_rows + len(tally.skipped)
        run.progress(done, total or done)
    if bad:
        named = rows_named([b["row"] for b in bad])
        raise JobFailure(
            FailureCode.BAD_DATA,
            f"{plural(len(bad), 'row')} of {data.name} cannot be used for training ({named}). "
            f"Row {bad[0]['row']}: {bad[0]['message']}",
            hint=f"{bad[0]['hint']} {SKIP_REMEDY}".strip(),
            details=[{"row": b["row"], "message": b["message"], "version": data.digest} for b in bad[:100]],
        )


class Reading:
    """What a row of the data is: one example, which becomes one or more rows of tokens."""

    name = ""
    """Goes into the name under which tokens are kept."""

    def examples(self, rows: list[dict[str, Any]], data: DatasetRef) -> list[Any]:
        """What is to be learned from each row; or `BadData`, which says why nothing can be."""
        return read_examples(rows, data)

    def lessons(self, chat: Chat, examples: list[Any]) -> list[list[Lesson] | BadData]:
        """For each example its texts; or why there are none."""
        return chat.lessons(examples)

    def cut(self, taught: list[tuple[int, Lesson]], tokenizer: Any, max_length: int, tally: Tally) -> list[Row]:
        """Texts, each with its row's number from 1, as rows of tokens of at most `max_length`; counted in `tally`."""
        return cut_texts(taught, tokenizer, max_length, tally)


def cut_texts(taught: list[tuple[int, Lesson]], tokenizer: Any, max_length: int, tally: Tally) -> list[Row]:
    """Texts as tokens, cut at `max_length`; those of which nothing is left to learn are left out."""
    rows: list[Row] = []
    learned: set[int] = set()
    for (number, lesson), tokens in zip(taught, encode([lesson for _, lesson in taught], tokenizer), strict=True):
        note_cut(tally, number, len(tokens.ids), tokens.end, max_length)
        for note in lesson.notes:
            tally.add(note, number)
        ids, learn = tokens.ids[:max_length], tokens.learn[:max_length]
        if learn[1:].any():
            rows.append((number - 1, ids, learn))
            learned.add(number)
    for number in dict.fromkeys(number for number, _ in taught):
        if number not in learned:
            tally.add("rows_left_out", number)
    return rows


def _tell(run: RunContext, data: DatasetRef, params: LanguageParams, tally: Tally) -> None:
    """Say what became of the rows. Raises `JobFailure` when too many lose something that was not given up."""
    found = remarks(tally, params.max_length)
    refused = [remark for remark in found if remark.is_refused]
    if refused and run.spec.params.get("allow_truncation") is False:  # the settings of jobs of before have no such word
        raise JobFailure(
            FailureCode.BAD_DATA, refused[0].message, hint=refused[0].hint,
            details=[{"row": row, "message": refused[0].code.replace("_", " ")} for row in refused[0].rows],
        )  # fmt: skip
    for remark in found:
        level: Any = remark.level
        run.notice(remark.message, hint=remark.hint, level=level, code=remark.code)
    with pq.ParquetFile(data.path) as file:
        columns = file.schema_arrow.names
    if unused := unused_columns(columns, data.mapping)[0]:
        run.notice(
            f"These columns of {data.name} are not used: {', '.join(unused)}.",
            hint="Give them a role in the dataset's column mapping where they belong to what is learned.",
            level="warning", code="unused_columns",
        )  # fmt: skip
