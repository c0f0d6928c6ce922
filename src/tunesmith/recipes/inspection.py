"""`python -m tunesmith.recipes.inspection REQUEST.json`: what one model makes of a dataset's rows, before anything is trained.

A process of its own, limited by who starts it, because tokenizers and templates come from outside. It leaves `facts.json`
(`RowFacts`) or `tokens.json` in a folder that appears whole or not at all; bad input ends it with code 2 and a last line
`{"error": {…}}`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict

from tunesmith.core.errors import BadData, InvalidInput, JobFailure, TunesmithError
from tunesmith.core.job_dir import new_folder, write_atomic
from tunesmith.core.job_spec import DatasetRef, ModelRef
from tunesmith.dataprep.shapes import unused_columns
from tunesmith.recipes.blocks.chat import Chat, Lesson, Options, give_tools
from tunesmith.recipes.blocks.lessons import Tokens, encode, read_batches, read_examples
from tunesmith.recipes.blocks.templates import Renderer
from tunesmith.recipes.blocks.tokenizer import load_tokenizer
from tunesmith.recipes.row_check import RowFacts

ALL_UP_TO = 2_000
"""Rows of which all are looked at."""
SPREAD, LONGEST = 1_200, 150
"""Of more rows: so many evenly spread, and those with the most characters."""
MEASURED_BYTES = 512 * 1024**2
"""Largest file whose longest rows are looked for."""
MOST_CHARS = 40_000_000
"""Of a sample, so that it ends in time; the rest is left unseen."""
MOST_TOKENS = 4_096
"""Shown of one text."""
MOST_BAD = 100
"""Bad rows that are named."""
MASKED, LEARNED, CUT = 0, 1, 2


class Request(BaseModel):
    """What the process is asked."""

    model_config = ConfigDict(extra="forbid")

    action: str
    """`facts` or `tokens`."""
    data: DatasetRef
    model: ModelRef
    options: dict[str, Any] = {}
    """Fields of `chat.Options`."""
    max_length: int = 1024
    rows: list[int] = []
    """Numbers from 1, of the action `tokens`."""
    out_dir: str


def sample_numbers(data: DatasetRef, num_rows: int) -> np.ndarray:
    """Rows, from 0 in order, that stand for all."""
    if num_rows <= ALL_UP_TO:
        return np.arange(num_rows)
    spread = np.unique(np.linspace(0, num_rows - 1, SPREAD).astype(np.int64))
    if Path(data.path).stat().st_size > MEASURED_BYTES:
        with pq.ParquetFile(data.path) as file:
            sizes = np.array([file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)])
        firsts = np.concatenate([[0], np.cumsum(sizes)])
        groups = np.unique(np.linspace(0, len(sizes) - 1, 12).astype(int))
        each = [np.arange(firsts[g], firsts[g + 1])[: SPREAD // len(groups)] for g in groups]
        return np.concatenate(each)
    import polars as pl

    columns = sorted(set(data.mapping.values()) & set(pl.read_parquet_schema(data.path)))
    sizes_of = pl.sum_horizontal([pl.col(name).cast(pl.String).str.len_bytes().fill_null(0) for name in columns])
    size = pl.scan_parquet(data.path).select(sizes_of.alias("size")).collect(engine="streaming")["size"].to_numpy()
    return np.unique(np.concatenate([spread, np.argpartition(size, -LONGEST)[-LONGEST:]]))


def facts(request: Request, chat: Chat, tokenizer: Any) -> RowFacts:
    """Of a sample of the rows, or of all when they are few."""
    with pq.ParquetFile(request.data.path) as file:
        num_rows, columns = file.metadata.num_rows, file.schema_arrow.names
    found = RowFacts(
        num_rows=num_rows, looked_at=0, numbers=[], lengths=[], firsts=[], ends=[], notes={}, bad=[], num_bad=0,
        end_marks=chat.end_marks, unused_columns=unused_columns(columns, request.data.mapping)[0],
    )  # fmt: skip
    num_chars = 0
    for numbers, rows in read_batches(
        request.data.path, set(request.data.mapping.values()), sample_numbers(request.data, num_rows)
    ):
        if num_chars > MOST_CHARS:
            break
        found.looked_at += len(rows)
        examples = read_examples(rows, request.data)
        good = [(n, e) for n, e in zip(numbers.tolist(), examples, strict=True) if isinstance(e, BadData) or e.is_good]
        found.rated_bad += len(examples) - len(good)
        for (number, example), lessons in zip(good, chat.lessons([example for _, example in good]), strict=True):
            if isinstance(lessons, BadData):
                _add_bad(
                    found, {"row": number, "message": lessons.message, "hint": lessons.hint}, lessons is not example
                )
                continue
            for lesson, tokens in zip(lessons, encode(lessons, tokenizer), strict=True):
                num_chars += len(lesson.text)
                _add(found, number, lesson, tokens)
    return found


def _add_bad(found: RowFacts, told: dict[str, Any], is_refused: bool) -> None:
    """`is_refused`: by the template; else the row is none that could be learned from, whatever the model."""
    found.num_bad += 1
    if len(found.bad) < MOST_BAD:
        found.bad.append(told)
    if is_refused:
        found.num_refused += 1
        found.refused_rows.append(told["row"])
        found.refused = found.refused or told


def _add(found: RowFacts, number: int, lesson: Lesson, tokens: Tokens) -> None:
    found.numbers.append(number)
    found.lengths.append(len(tokens.ids))
    found.firsts.append(tokens.first)
    found.ends.append(tokens.end)
    for note in lesson.notes:
        rows = found.notes.setdefault(note, [])
        if not rows or rows[-1] != number:
            rows.append(number)


def shown(request: Request, chat: Chat, tokenizer: Any) -> dict[str, Any]:
    """The rows as the model reads them, token by token."""
    with pq.ParquetFile(request.data.path) as file:
        columns, num_rows = file.schema_arrow.names, file.metadata.num_rows
    wrong = [number for number in request.rows if not 1 <= number <= num_rows]
    if wrong:
        raise InvalidInput(
            f"There is no row {wrong[0]}.", hint=f"The rows are numbered from 1 to {num_rows}.",
            details=[{"loc": "row", "message": "no such row"}],
        )  # fmt: skip
    wanted = np.array(sorted({number - 1 for number in request.rows}), dtype=np.int64)
    rows = []
    for numbers, batch in read_batches(request.data.path, set(request.data.mapping.values()), wanted):
        examples = read_examples(batch, request.data)
        for number, example, lessons in zip(numbers.tolist(), examples, chat.lessons(examples), strict=True):
            remarks = [] if isinstance(example, BadData) else list(example.remarks)
            if not isinstance(example, BadData) and not example.is_good:
                remarks.append("The row is rated bad; it is left out.")
            if isinstance(lessons, BadData):
                rows.append(
                    {"row": number, "problem": lessons.message, "hint": lessons.hint, "remarks": remarks, "texts": []}
                )
                continue
            texts = [
                _text(lesson, tokens, tokenizer, request.max_length)
                for lesson, tokens in zip(lessons, encode(lessons, tokenizer), strict=True)
            ]
            rows.append({"row": number, "problem": None, "hint": "", "remarks": remarks, "texts": texts})
    meaningful, others = unused_columns(columns, request.data.mapping)
    return {
        "rows": rows, "num_rows": num_rows, "max_length": request.max_length, "end_marks": chat.end_marks,
        "used_columns": {role: column for role, column in request.data.mapping.items() if column in columns},
        "unused_columns": [*meaningful, *others],
    }  # fmt: skip


def _text(lesson: Lesson, tokens: Tokens, tokenizer: Any, max_length: int) -> dict[str, Any]:
    kinds = np.where(np.arange(len(tokens.ids)) >= max_length, CUT, np.where(tokens.learn, LEARNED, MASKED))
    special = set(tokenizer.all_special_ids) | {n for n, t in tokenizer.added_tokens_decoder.items() if t.special}
    made = []
    last = (-1, -1)
    for number, place, kind in list(zip(tokens.ids.tolist(), tokens.places, kinds.tolist(), strict=True))[:MOST_TOKENS]:
        text = lesson.text[place[0] : place[1]] if place != last else ""  # another byte of the same character
        made.append(
            {"id": number, "text": text, "kind": ("masked", "learned", "cut")[kind], "special": number in special}
        )
        last = place
    return {
        "tokens": made, "num_tokens": len(tokens.ids), "num_learned": int((kinds[1:] == LEARNED).sum()),
        "num_cut": int((kinds == CUT).sum()), "loses_end": tokens.end > max_length, "notes": sorted(lesson.notes),
    }  # fmt: skip


def carry_out(request: Request) -> None:
    """Raises `TunesmithError` for what cannot be read."""
    out = Path(request.out_dir)
    out.parent.mkdir(parents=True, exist_ok=True)
    options = Options(**request.options)
    tokenizer = load_tokenizer(
        request.model.path, revision=request.model.revision, offline=True, adapter=request.model.adapter_path
    )
    if options.tool_calls == "ready":
        give_tools(tokenizer)
    with Renderer(tokenizer) as template, new_folder(out) as folder:
        chat = Chat(tokenizer, template, options)
        if request.action == "facts":
            write_atomic(folder / "facts.json", facts(request, chat, tokenizer).model_dump_json())
        else:
            write_atomic(folder / "tokens.json", json.dumps(shown(request, chat, tokenizer)))


def main(request_path: Path) -> int:
    """The exit code: 0, or 2 when the last line is an error."""
    try:
        carry_out(Request.model_validate_json(request_path.read_bytes()))
    except JobFailure as error:
        failed: TunesmithError = BadData(error.message, hint=error.hint)
    except TunesmithError as error:
        failed = error
    except OSError as error:
        failed = BadData(
            f"The model's tokenizer cannot be read: {str(error).splitlines()[0][:200]}", hint="Fetch the model first."
        )
    else:
        return 0
    sys.stdout.write(json.dumps({"error": failed.body()}) + "\n")
    return 2


if __name__ == "__main__":
    sys.modules["torch"] = None  # type: ignore[assignment]  # tokenizers need none, and it takes longer to load than all else
    sys.exit(main(Path(sys.argv[1])))
