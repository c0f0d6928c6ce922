"""Dataset file → rows → chat template → tokens and labels. Tokenised once per data, tokenizer and settings; kept memory-mapped."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from tunesmith.core.errors import BadData, FailureCode, JobFailure
from tunesmith.core.job_dir import fsync_dir, fsync_tree
from tunesmith.core.job_spec import DatasetRef
from tunesmith.core.recipe import RunContext
from tunesmith.dataprep.conversation import to_messages
from tunesmith.engine.packing import IGNORE, count_supervised
from tunesmith.recipes.blocks.loading import opening
from tunesmith.recipes.blocks.templates import Conversation, Part, Renderer
from tunesmith.recipes.hyperparameters import SftParams

CODE_VERSION = 3
"""Raised whenever tokens or labels would come out differently."""
BATCH_ROWS = 512
MAX_NAMED_ROWS = 20
ARRAYS = ("tokens", "learn", "offsets", "numbers")
"""Files of one entry of the cache."""


@dataclass(frozen=True)
class TokenRows:
    """Tokenised rows, flat and memory-mapped."""

    tokens: np.ndarray
    """(all tokens,) int32"""
    learn: np.ndarray
    """(all tokens,) bool: whether the token is an answer to learn."""
    offsets: np.ndarray
    """(rows + 1,) int64"""
    numbers: np.ndarray
    """(rows,) int64: which row of the data each is, from 0; some may have been left out."""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def row(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """`(input_ids, labels)` of one row."""
        part = slice(int(self.offsets[index]), int(self.offsets[index + 1]))
        ids = np.asarray(self.tokens[part])
        return ids, np.where(self.learn[part], ids, IGNORE)

    def length(self, index: int) -> int:
        return int(self.offsets[index + 1] - self.offsets[index])

    def num_supervised(self) -> np.ndarray:
        """(rows,): how many positions of each row are learnt; nothing predicts a row's first token."""
        if not len(self):
            return np.zeros(0, np.int64)
        starts = self.offsets[:-1]
        learnt: np.ndarray = np.add.reduceat(self.learn, starts, dtype=np.int64) - self.learn[starts]
        return learnt


def load_rows(run: RunContext, data: DatasetRef, tokenizer: Any, params: SftParams) -> TokenRows:
    """The dataset's rows as tokens, from the cache when they are there. Raises `JobFailure` naming bad rows."""
    key = _cache_key(data, tokenizer, params)
    folder = Path(run.spec.cache_dir) / "tokens" / key
    if not (folder / "offsets.npy").exists():
        run.phase("tokenizing", data.name)
        with Renderer(tokenizer) as template:
            arrays = dict(zip(ARRAYS, _tokenize(run, data, tokenizer, template, params), strict=True))
        _keep(folder, arrays)
    rows = TokenRows(**{name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in ARRAYS})
    if len(rows) == 0:
        raise JobFailure(
            FailureCode.BAD_DATA,
            f"No row of {data.name} is left to learn from once cut to max_length={params.max_length} tokens.",
            hint="Raise max_length, or set train_on: all.",
        )
    return rows


def _keep(folder: Path, arrays: dict[str, np.ndarray]) -> None:
    """Put `arrays` into the cache, unless another process that read the same rows was quicker."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".", ignore_cleanup_errors=True) as temporary:
        filled = Path(temporary) / folder.name
        filled.mkdir()
        for name, array in arrays.items():
            np.save(filled / f"{name}.npy", array, allow_pickle=False)
        fsync_tree(filled)
        try:
            os.rename(filled, folder)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
    fsync_dir(folder.parent)


def split_rows(num_rows: int, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """`(training rows, held-out rows)`, chosen by `seed`; at least one row is left on each side when `share` > 0."""
    order = np.random.default_rng([seed, 0x5EED]).permutation(num_rows)
    held_out = min(max(1, round(num_rows * share)), num_rows - 1) if share > 0 and num_rows > 1 else 0
    return np.sort(order[held_out:]), np.sort(order[:held_out])


def _cache_key(data: DatasetRef, tokenizer: Any, params: SftParams) -> str:
    parts = [
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
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """In the order of `ARRAYS`."""
    tokens: list[np.ndarray] = []
    learn: list[np.ndarray] = []
    lengths: list[int] = []
    numbers: list[int] = []
    bad: list[dict[str, Any]] = []
    empty = cut = done = 0
    for first, batch in _batches(data.path):
        texts, spans = [], []
        for number, made in enumerate(_render(batch, data, tokenizer, template, params), start=first):
            if isinstance(made, BadData):
                bad.append({"row": number, "message": made.message})
                continue
            texts.append(made[0])
            spans.append(made[1])
        for number, (ids, mask) in enumerate(_encode(texts, spans, tokenizer), start=first - 1):
            cut += len(ids) > params.max_length
            ids, mask = ids[: params.max_length], mask[: params.max_length]
            if count_supervised(np.where(mask, ids, IGNORE)) == 0:
                empty += 1
                continue
            tokens.append(ids)
            learn.append(mask)
            lengths.append(len(ids))
            numbers.append(number)
        done += len(batch)
        run.progress(done, data.num_rows or done)
    _tell(run, data, params, bad, empty, cut)
    offsets = np.concatenate(([0], np.cumsum(lengths))).astype(np.int64)
    if not tokens:
        return np.zeros(0, np.int32), np.zeros(0, bool), offsets, np.zeros(0, np.int64)
    return np.concatenate(tokens), np.concatenate(learn), offsets, np.array(numbers, dtype=np.int64)


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
