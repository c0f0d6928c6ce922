"""Dataset file → rows → chat template → tokens and labels. Tokenised once per data, tokenizer and settings; kept memory-mapped."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from tunesmith.core.errors import BadData, FailureCode, JobFailure
from tunesmith.core.job_spec import DatasetRef
from tunesmith.core.recipe import RunContext
from tunesmith.dataprep.conversation import to_messages
from tunesmith.recipes.blocks.loading import opening
from tunesmith.recipes.blocks.templates import Conversation, Part, Renderer
from tunesmith.recipes.blocks.token_rows import Row, TokenRows, write_rows
from tunesmith.recipes.hyperparameters import SftParams

CODE_VERSION = 4
"""Raised whenever tokens or labels would come out differently."""
BATCH_ROWS = 512
MAX_NAMED_ROWS = 20


def load_rows(run: RunContext, data: DatasetRef, tokenizer: Any, params: SftParams) -> TokenRows:
    """The dataset's rows as tokens, from the cache when they are there. Raises `JobFailure` naming bad rows."""
    path = Path(run.spec.cache_dir) / "tokens" / f"{_cache_key(data, tokenizer, params)}.arrow"
    if not path.exists():
        run.phase("tokenizing", data.name)
        with Renderer(tokenizer) as template:
            write_rows(path, _tokenize(run, data, tokenizer, template, params))
    rows = TokenRows.open(path)
    if len(rows) == 0:
        raise JobFailure(
            FailureCode.BAD_DATA,
            f"No row of {data.name} is left to learn from once cut to max_length={params.max_length} tokens.",
            hint="Raise max_length, or set train_on: all.",
        )
    return rows


def split_rows(num_rows: int, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """`(training rows, held-out rows)`, chosen by `seed`; at least one row is left on each side when `share` > 0."""
    order = np.random.default_rng([seed, 0x5EED]).permutation(num_rows)
    held_out = min(max(1, round(num_rows * share)), num_rows - 1) if share > 0 and num_rows > 1 else 0
    return np.sort(order[held_out:]), np.sort(order[:held_out])


def _cache_key(data: DatasetRef, tokenizer: Any, params: SftParams) -> str:
    """Of everything that tokens come from: rows, tokenizer with its special tokens, template, settings, and the libraries."""
    special = sorted((name, str(token)) for name, token in tokenizer.special_tokens_map.items())
    parts = [
        special, opening(tokenizer), *map(version, ("transformers", "tokenizers", "jinja2")),
        CODE_VERSION, data.digest, data.shape, sorted(data.mapping.items()), tokenizer.backend_tokenizer.to_str(),
        tokenizer.chat_template, tokenizer.eos_token, params.max_length, params.train_on, params.system_prompt,
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _batches(path: str) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """`(number of the first row from 1, rows)`."""
    first = 1
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=BATCH_ROWS):
            yield first, batch.to_pylist()
            first += batch.num_rows


def _tokenize(
    run: RunContext, data: DatasetRef, tokenizer: Any, template: Renderer, params: SftParams
) -> Iterator[list[Row]]:
    """Batches of rows. Raises `JobFailure` at the end when some were bad."""
    bad: list[dict[str, Any]] = []
    empty = cut = done = 0
    for first, batch in _batches(data.path):
        texts, spans, numbers = [], [], []
        for number, made in enumerate(_render(batch, data, tokenizer, template, params), start=first):
            if isinstance(made, BadData):
                bad.append({"row": number, "message": made.message})
                continue
            texts.append(made[0])
            spans.append(made[1])
            numbers.append(number - 1)
        rows: list[Row] = []
        for number, (ids, learn) in zip(numbers, _encode(texts, spans, tokenizer), strict=True):
            cut += len(ids) > params.max_length
            ids, learn = ids[: params.max_length], learn[: params.max_length]
            if learn[1:].any():
                rows.append((number, ids, learn))
            else:
                empty += 1
        yield rows
        done += len(batch)
        run.progress(done, data.num_rows or done)
    _tell(run, data, params, bad, empty, cut)


def _tell(
    run: RunContext, data: DatasetRef, params: SftParams, bad: list[dict[str, Any]], empty: int, cut: int
) -> None:
    """Refuse data with bad rows, naming them; say what was cut or left out."""
    if bad:
        rows = ", ".join(str(b["row"]) for b in bad[:MAX_NAMED_ROWS])
        raise JobFailure(
            FailureCode.BAD_DATA,
            f"{len(bad)} row(s) of {data.name} cannot be learnt from: row {rows}. {bad[0]['message']}",
            details=bad[:100],
        )
    if cut:
        run.notice(
            f"{cut} row(s) are longer than max_length={params.max_length} tokens and were cut at the end.",
            hint="Raise max_length to keep them whole.", level="warning", code="rows_cut",
        )  # fmt: skip
    if empty:
        run.notice(
            f"{empty} row(s) have no answer left within max_length={params.max_length} tokens and were left out.",
            level="warning", code="rows_left_out",
        )  # fmt: skip


def _render(
    rows: list[dict[str, Any]], data: DatasetRef, tokenizer: Any, template: Renderer, params: SftParams
) -> list[tuple[str, list[tuple[int, int]]] | BadData]:
    """Each row as the model will read it, with the character spans to learn; or why it cannot be learnt."""
    made: list[Any] = [_prepare(row, data, tokenizer, params) for row in rows]
    places = [place for place, prepared in enumerate(made) if isinstance(prepared, Conversation)]
    rendered = template.render_all([made[place] for place in places])
    for place, texts in zip(places, rendered, strict=True):
        if isinstance(texts, BadData):
            made[place] = texts
            continue
        spans = [(0, len(texts[0]))] if params.train_on == "all" else _answers(made[place].messages, texts)
        made[place] = (texts[0], spans) if spans else BadData(
            "The model's chat template does not show where the answer stands; use train_on: all."
        )  # fmt: skip
    return made


def _prepare(
    row: dict[str, Any], data: DatasetRef, tokenizer: Any, params: SftParams
) -> tuple[str, list[tuple[int, int]]] | Conversation | BadData:
    """A plain text as it is learnt, a conversation with what must be rendered of it, or why there is neither."""
    if data.shape in ("text", "text_label"):
        text = str(row.get(data.mapping["text"]) or "")
        if not text.strip():
            return BadData("The text is empty.")
        text = opening(tokenizer) + text + tokenizer.eos_token
        return text, [(0, len(text))]
    try:
        messages = to_messages(row, data.shape, data.mapping)
    except BadData as error:
        return error
    if params.system_prompt and messages[0]["role"] != "system":
        messages = [{"role": "system", "content": params.system_prompt}, *messages]
    return Conversation(messages, _parts(messages, params.train_on))


def _parts(messages: list[dict[str, str]], train_on: str) -> list[Part]:
    """The whole; then, for every turn of the assistant, what is before it, and what is with it unless that is the whole.
    Many templates cannot be rendered without any message."""
    parts = [Part(len(messages), prompt=False)]
    for index, message in enumerate(messages):
        if train_on != "all" and message["role"] == "assistant":
            parts += [Part(index, prompt=True)] if index else []
            parts += [Part(index + 1, prompt=False)] if index + 1 < len(messages) else []
    return parts


def _answers(messages: list[dict[str, str]], texts: list[str]) -> list[tuple[int, int]]:
    """Where in the whole conversation the assistant's turns stand, each with its end-of-turn mark. `texts` are of `_parts`.

    Some templates write earlier turns in another way than the last one (without its thoughts, say). An earlier turn
    that the whole text does not show as it was said is not learnt.
    """
    text, others = texts[0], iter(texts[1:])
    spans = []
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before = next(others) if index else text[: max(0, text.find(message["content"].strip()))]
        begin = len(before) if text.startswith(before) else _num_shared(before, text)
        if index == len(messages) - 1:
            spans.append((begin, len(text.rstrip())))
            continue
        through = next(others).rstrip()
        said = through[through.rfind(message["content"].strip()) :]
        if text.startswith(through):
            spans.append((begin, len(through)))
        elif said and text.startswith(said, begin):
            spans.append((begin, begin + len(said)))
    return spans


def _num_shared(a: str, b: str) -> int:
    """With how many characters both begin."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _encode(
    texts: list[str], spans: list[list[tuple[int, int]]], tokenizer: Any
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """`(ids, learn)` a text: a token is learnt when it begins within a span."""
    if not texts:
        return
    encodings = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True)
    for ids, places, answers in zip(encodings["input_ids"], encodings["offset_mapping"], spans, strict=True):
        starts = np.array([start for start, _ in places], dtype=np.int64)
        mask = np.zeros(len(ids), dtype=bool)
        for begin, end in answers:
            mask |= (starts >= begin) & (starts < end)
        yield np.array(ids, dtype=np.int32), mask
