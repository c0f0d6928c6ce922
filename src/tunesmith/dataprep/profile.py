"""What is in a version: type, nulls, unique values and examples of each column, and how long its texts are."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import polars as pl

LENGTH_SAMPLE_ROWS = 5_000
"""Rows that are really tokenised for token lengths; characters are counted in all."""
PERCENTILES = (0.5, 0.9, 0.95, 0.99)
CHARACTERS_PER_TOKEN = 4.0
"""Of English text under usual vocabularies; used where no tokenizer is given."""
EXACT_UNIQUE_ROWS = 200_000


def statistics(data: Path) -> dict[str, Any]:
    """`{total_rows, total_columns, columns: {name: {type, nulls, unique, examples}}}`, computed in one streaming pass."""
    frame = pl.scan_parquet(data)
    schema = frame.collect_schema()
    total = frame.select(pl.len()).collect().item()
    columns: dict[str, Any] = {}
    head = frame.head(200).collect()
    # Exact distinct counts of many long texts would need them all in memory: beyond this an estimate within 2 % does.
    exact = total <= EXACT_UNIQUE_ROWS
    wanted = []
    for name, kind in schema.items():
        column = pl.col(name)
        wanted.append(column.null_count().alias(f"{name}\x00nulls"))
        wanted.append((column.n_unique() if exact else column.approx_n_unique()).alias(f"{name}\x00unique"))
        if kind.is_numeric():
            wanted += [
                column.min().alias(f"{name}\x00min"),
                column.max().alias(f"{name}\x00max"),
                column.mean().alias(f"{name}\x00mean"),
            ]
    found = frame.select(wanted).collect(engine="streaming").row(0, named=True) if wanted else {}
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
    return {"total_rows": total, "total_columns": len(schema), "columns": columns}


def lengths(data: Path, columns: dict[str, str], max_context_tokens: int, tokenizer_path: str | None) -> dict[str, Any]:
    """Per role: characters and tokens, percentiles, share of rows over the context."""
    if not columns:
        return {}
    frame = pl.scan_parquet(data)
    wanted = []
    for role, column in columns.items():
        characters = pl.col(column).cast(pl.String).str.len_chars()
        wanted += [characters.quantile(q).alias(f"{role}\x00{q}") for q in PERCENTILES]
        wanted += [characters.mean().alias(f"{role}\x00mean"), characters.max().alias(f"{role}\x00max")]
    found = frame.select(wanted).collect(engine="streaming").row(0, named=True)
    result: dict[str, Any] = {}
    for role, column in columns.items():
        tokens, how = _token_lengths(frame, column, tokenizer_path)
        result[role] = {
            "characters": _summary(
                {key.split("\x00")[1]: value for key, value in found.items() if key.startswith(f"{role}\x00")}
            ),
            "tokens": _summary(
                {**{str(q): tokens.quantile(q) for q in PERCENTILES}, "mean": tokens.mean(), "max": tokens.max()}  # type: ignore[dict-item]
            ),
            "tokens_from": how,
            "share_over_context": (tokens > max_context_tokens).sum() / max(1, len(tokens)),
            "context_tokens": max_context_tokens,
        }
    return result


def _token_lengths(frame: pl.LazyFrame, column: str, tokenizer_path: str | None) -> tuple[pl.Series, str]:
    texts = frame.select(pl.col(column).cast(pl.String)).head(LENGTH_SAMPLE_ROWS).collect().to_series().drop_nulls()
    if tokenizer_path:
        from tokenizers import Tokenizer

        encoded = Tokenizer.from_file(tokenizer_path).encode_batch(texts.to_list(), add_special_tokens=False)
        return pl.Series([len(e.ids) for e in encoded]), f"the tokenizer, first {len(texts)} rows"
    return (
        texts.str.len_chars() / CHARACTERS_PER_TOKEN
    ).ceil(), f"about {CHARACTERS_PER_TOKEN:g} characters a token, first {len(texts)} rows"


def _summary(values: dict[str, Any]) -> dict[str, float]:
    names = {"0.5": "p50", "0.9": "p90", "0.95": "p95", "0.99": "p99"}
    return {names.get(key, key): round(float(value), 1) for key, value in values.items() if value is not None}


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
