"""What is in a version: type, nulls, unique values and examples of each column, and how long its texts are."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from tunesmith.schemas.datasets import Finding

if TYPE_CHECKING:
    from tokenizers import Tokenizer

LENGTH_SAMPLE_ROWS = 5_000
"""Rows that are really tokenised for token lengths; characters are counted in all."""
PERCENTILES = (0.5, 0.9, 0.95, 0.99)
CHARACTERS_PER_TOKEN = 4.0
"""Of English text under usual vocabularies; used where no tokenizer is given."""
BYTES_PER_TOKEN = 2.0
"""Of the bytes that letters outside ASCII take more: a Chinese or Japanese character is about a token of its own."""
EXACT_UNIQUE_ROWS = 200_000
HISTOGRAM_BINS = 24
FEW_VALUES = 20
MAX_COUNTED_COLUMNS = 50
COLUMNS_AT_ONCE = 200
"""Whose statistics are computed in one pass: polars takes about half a megabyte for each."""


def statistics(data: Path) -> dict[str, Any]:
    """`{total_rows, total_columns, columns: {name: {type, nulls, unique, examples}}}`, computed in a streaming pass for every
    `COLUMNS_AT_ONCE` columns; and of columns with few values `top`, how often each value stands there."""
    frame = pl.scan_parquet(data)
    schema = frame.collect_schema()
    total = frame.select(pl.len()).collect().item()
    columns: dict[str, Any] = {}
    head = frame.head(200).collect()
    # Exact distinct counts of many long texts would need them all in memory: beyond this an estimate within 2 % does.
    exact = total <= EXACT_UNIQUE_ROWS
    found: dict[str, Any] = {}
    all_names = list(schema)
    for first in range(0, len(all_names), COLUMNS_AT_ONCE):
        names = all_names[first : first + COLUMNS_AT_ONCE]
        wanted = [one for name in names for one in _measures(name, schema[name], exact=exact)]
        found |= frame.select(wanted).collect(engine="streaming").row(0, named=True)
    for name, kind in schema.items():
        examples = [_short(value) for value in head[name].drop_nulls().unique(maintain_order=True).head(5).to_list()]
        columns[name] = {
            "type": _type_name(kind, head[name]),
            "nulls": found[f"{name}\x00nulls"],
            "unique": found[f"{name}\x00unique"],
            "unique_is_estimate": not exact,
            "examples": examples,
        }
        for what in ("min", "max", "mean"):
            if f"{name}\x00{what}" in found:
                columns[name][what] = _short(found[f"{name}\x00{what}"])
    few = [name for name, told in columns.items() if 0 < told["unique"] <= FEW_VALUES][:MAX_COUNTED_COLUMNS]
    for name in few:
        counts = frame.select(pl.col(name).value_counts(sort=True, name="\x00count")).head(FEW_VALUES).collect()
        columns[name]["top"] = [[_short(value), count] for value, count in counts.to_series().struct.unnest().rows()]
    return {"total_rows": total, "total_columns": len(schema), "columns": columns}


def _measures(name: str, kind: pl.DataType, *, exact: bool) -> list[pl.Expr]:
    """What is counted of a column, each under `{name}\x00{what}`."""
    column = pl.col(name)
    unique = column.n_unique() if exact else column.approx_n_unique()
    found = {"nulls": column.null_count(), "unique": unique}
    if kind.is_numeric():
        found |= {"min": column.min(), "max": column.max(), "mean": column.mean()}
    return [one.alias(f"{name}\x00{what}") for what, one in found.items()]


class TokenCounter:
    """Counts tokens with the tokenizer of a `tokenizer.json`; without one, or with a broken one, it estimates."""

    def __init__(self, path: str | None) -> None:
        self._tokenizer: Tokenizer | None = None
        self.problem: Finding | None = None
        """What keeps the tokenizer that was chosen from being used."""
        if path is None:
            return
        from tokenizers import Tokenizer

        self._name = "/".join(Path(path).parts[-2:])
        with self._giving_up():
            self._tokenizer = Tokenizer.from_file(path)

    def count(self, texts: pl.Series) -> pl.Series:
        """Tokens of each text."""
        if self._tokenizer is not None:
            with self._giving_up():
                found = self._tokenizer.encode_batch(texts.to_list(), add_special_tokens=False)
                return pl.Series([len(encoded.ids) for encoded in found], dtype=pl.UInt32)
        characters = texts.str.len_chars()
        return (characters / CHARACTERS_PER_TOKEN + (texts.str.len_bytes() - characters) / BYTES_PER_TOKEN).ceil()

    @contextlib.contextmanager
    def _giving_up(self) -> Iterator[None]:
        """Go on without the tokenizer when its library fails, which raises the bare class."""
        try:
            yield
        except Exception as error:
            if type(error) is not Exception:
                raise
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self._tokenizer = None
        self.problem = Finding(
            level="warning", code="broken_tokenizer",
            message=f"{self._name} cannot be used, so token lengths are estimated: {str(error).partition(chr(10))[0][:200]}",
            hint="Put the tokenizer.json of the base model there again.",
        )  # fmt: skip

    def __str__(self) -> str:
        return "the tokenizer" if self._tokenizer else f"about {CHARACTERS_PER_TOKEN:g} characters a token"


def lengths(
    data: Path,
    columns: dict[str, str],
    characters: dict[str, pl.Series],
    max_context_tokens: int,
    counter: TokenCounter,
) -> dict[str, Any]:
    """Per role: characters (of each row, as given) and tokens (of the first rows), percentiles, share over the context, and
    a histogram of the characters."""
    result: dict[str, Any] = {}
    sample = pl.scan_parquet(data).select(
        pl.col(column).cast(pl.String).alias(role) for role, column in columns.items()
    ).head(LENGTH_SAMPLE_ROWS).collect()  # fmt: skip
    for role in columns:
        texts = sample[role].drop_nulls()
        tokens = counter.count(texts)
        result[role] = {
            "characters": _summary(characters[role]),
            "histogram": _histogram(characters[role]),
            "tokens": _summary(tokens),
            "tokens_from": f"{counter}, first {len(texts)} rows",
            "share_over_context": (tokens > max_context_tokens).sum() / max(1, len(tokens)),
            "context_tokens": max_context_tokens,
        }
    return result


def _summary(values: pl.Series) -> dict[str, float]:
    """Percentiles, mean and maximum; nothing of no values."""
    found = {f"p{q * 100:g}": values.quantile(q) for q in PERCENTILES} | {"mean": values.mean(), "max": values.max()}
    return {name: round(float(value), 1) for name, value in found.items() if value is not None}  # type: ignore[arg-type]


def _histogram(values: pl.Series) -> dict[str, Any]:
    """`{step, counts}`: rows by length in steps of so many characters; the last count is of all that are longer."""
    most = values.quantile(0.99)
    if most is None:
        return {}
    step = max(1, math.ceil((most + 1) / HISTOGRAM_BINS))
    found = dict((values.drop_nulls() // step).clip(0, HISTOGRAM_BINS).value_counts().rows())
    return {"step": step, "counts": [found.get(number, 0) for number in range(HISTOGRAM_BINS + 1)]}


def _type_name(kind: pl.DataType, values: pl.Series) -> str:
    if kind.is_integer():
        return "integer"
    if kind.is_float():
        return "float"
    if kind == pl.Boolean:
        return "boolean"
    if kind.is_temporal():
        return "datetime"
    if kind == pl.String:
        return _text_kind(values.drop_nulls())
    return str(kind).lower()


def _text_kind(values: pl.Series) -> str:
    """What text cells hold, from the first of them: CSV keeps every cell as text."""
    if values.is_empty():
        return "string"
    if values.str.contains(r"^\s*[\[{]").all():
        return "json"
    if values.str.contains(r"^[+-]?\d{1,18}$").all():
        return "integer"
    if values.str.contains(r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$").all():
        return "float"
    return "boolean" if values.str.to_lowercase().is_in(["true", "false", "yes", "no"]).all() else "string"


def _short(value: Any) -> Any:
    """As JSON can say it: no NaN, no infinity, nothing long."""
    if value is None or isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return str(value)[:200]
