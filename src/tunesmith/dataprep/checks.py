"""Validation: what is wrong with a version, with row numbers, and what to do about it. Rows count from 1."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl

from tunesmith.core.errors import BadData
from tunesmith.dataprep.conversation import to_messages
from tunesmith.dataprep.overlap import normalised
from tunesmith.dataprep.profile import lengths
from tunesmith.dataprep.shapes import SHAPES
from tunesmith.schemas.datasets import Finding, ValidationReport

FEW_ROWS = 100
MAX_ROWS_NAMED = 100
MAX_CLASSES = 1_000
LISTED = ("messages", "conversations")


def text_columns(shape: str, mapping: dict[str, str]) -> dict[str, str]:
    """Role → column, for the roles that hold text."""
    if shape in ("image", "audio", "video", "tabular", "tokens_tags"):
        return {}
    return {role: column for role, column in mapping.items() if role != "label"}


def validate(
    data: Path,
    shape: str,
    mapping: dict[str, str],
    missing: list[str],
    found_while_reading: list[Finding],
    *,
    max_context_tokens: int = 2048,
    tokenizer_path: str | None = None,
) -> ValidationReport:
    """All findings on a stored version."""
    frame = pl.scan_parquet(data).with_row_index("__row", offset=1)
    total = frame.select(pl.len()).collect().item()
    columns = frame.collect_schema().names()[1:]
    findings = [_missing(role, columns) for role in missing] + list(found_while_reading)
    if total == 0:
        findings.append(Finding(level="error", code="no_rows", message="The file has a header but no rows."))
        return ValidationReport(valid=False, findings=findings)
    usable = {role: column for role, column in mapping.items() if column in columns}
    findings += _empty_rows(frame, columns, required_columns(shape, usable))
    findings += _unreadable(frame, list(text_columns(shape, usable).values()))
    findings += _duplicates(frame, columns)
    if shape in LISTED and shape in usable:
        findings += _conversations(data, shape, usable)
    if shape == "tokens_tags" and len(usable) == 2:
        findings += _tags(data, usable)
    if total < FEW_ROWS:
        findings.append(
            Finding(
                level="warning", code="few_rows", count=total, message=f"Only {total} rows; a model learns little from under {FEW_ROWS}",
                hint="Add examples, or train for more epochs and watch the held-out loss.",
            )
        )  # fmt: skip
    found_lengths = lengths(
        data, {r: c for r, c in text_columns(shape, usable).items()}, max_context_tokens, tokenizer_path
    )
    findings += [_long(role, told) for role, told in found_lengths.items() if told["share_over_context"] > 0]
    balance = _class_balance(frame, usable.get("label"))
    findings += _imbalance(balance)
    return ValidationReport(
        valid=not any(f.level == "error" for f in findings),
        findings=findings,
        lengths=found_lengths,
        class_balance=balance,
    )


def _missing(role: str, columns: list[str]) -> Finding:
    return Finding(
        level="error", code="missing_column", column=role, message=f"Missing required '{role}' column",
        hint=f"The file has: {', '.join(columns[:12])}. Name the column that holds the {role} in the column mapping.",
    )  # fmt: skip


def blank(column: str) -> pl.Expr:
    """Null, or text of nothing but blanks."""
    return pl.col(column).is_null() | (pl.col(column).cast(pl.String).str.strip_chars().str.len_bytes() == 0)


def required_columns(shape: str, mapping: dict[str, str]) -> list[str]:
    return [mapping[role] for role in SHAPES[shape].required if role in mapping]


def empty(columns: list[str], required: list[str]) -> pl.Expr:
    """Rows that lack what is required of them; of a plain table nothing is, but that a row is not blank throughout."""
    if required:
        return pl.any_horizontal([blank(column) for column in required])
    return pl.all_horizontal([blank(column) for column in columns])


def _empty_rows(frame: pl.LazyFrame, columns: list[str], required: list[str]) -> list[Finding]:
    rows = _rows_where(frame, empty(columns, required))
    if not rows:
        return []
    return [
        Finding(
            level="error", code="empty_rows", message=f"Found {len(rows)} empty rows", count=len(rows), rows=rows[:MAX_ROWS_NAMED],
            hint=f"Fill in {' and '.join(required) or 'at least one cell'}, or repair the dataset with drop_empty.",
        )
    ]  # fmt: skip


def _rows_where(frame: pl.LazyFrame, condition: pl.Expr) -> list[int]:
    return frame.filter(condition).select("__row").collect(engine="streaming").to_series().to_list()


MOJIBAKE = ("Ã¤", "Ã¶", "Ã¼", "ÃŸ", "Ã©", "Ã¨", "Ã ", "Ã±", "â€™", "â€œ", "â€\x9d", "â€“", "Â ", "ðŸ")
"""What UTF-8 looks like when it was read as Windows-1252."""


def _unreadable(frame: pl.LazyFrame, columns: list[str]) -> list[Finding]:
    """Characters lost in decoding, and text that was decoded wrongly before it came here."""
    texts = [c for c in columns if frame.collect_schema()[c] == pl.String]
    if not texts:
        return []
    beyond_ascii = pl.any_horizontal([pl.col(c).str.len_bytes() != pl.col(c).str.len_chars() for c in texts])
    marks = frame.filter(beyond_ascii).select(
        "__row",
        pl.any_horizontal([pl.col(c).str.contains("\ufffd", literal=True) for c in texts]).alias("lost"),
        pl.any_horizontal([pl.col(c).str.contains_any(list(MOJIBAKE)) for c in texts]).alias("wrong"),
    )
    found = marks.filter(pl.col("lost") | pl.col("wrong")).collect(engine="streaming")
    lost, wrong = (found.filter(pl.col(kind))["__row"].to_list() for kind in ("lost", "wrong"))
    findings = []
    if lost:
        findings.append(
            Finding(
                level="warning", code="unreadable_characters", count=len(lost), rows=lost[:MAX_ROWS_NAMED],
                message=f"Found {len(lost)} rows with characters that could not be decoded",
                hint="Save the file as UTF-8 and upload it again, or mend these rows.",
            )
        )  # fmt: skip
    if wrong:
        findings.append(
            Finding(
                level="warning", code="mojibake", count=len(wrong), rows=wrong[:MAX_ROWS_NAMED],
                message=f"Found {len(wrong)} rows that were once decoded wrongly (such as Ã© for é)",
                hint="Repair the dataset with fix_encoding.",
            )
        )  # fmt: skip
    return findings


def row_hash(columns: list[str]) -> pl.Expr:
    """64 bits over all cells of a row; two different rows of a million collide with a chance under 1 in 30 million."""
    return pl.struct(columns).hash(seed=7)


def _duplicates(frame: pl.LazyFrame, columns: list[str]) -> list[Finding]:
    hashes = frame.select("__row", row_hash(columns).alias("h")).collect(engine="streaming")
    repeated = hashes.filter(~pl.col("h").is_first_distinct())
    if repeated.is_empty():
        return []
    rows = repeated["__row"].sort().to_list()
    return [
        Finding(
            level="warning", code="duplicates", message=f"Found {len(rows)} duplicate rows", count=len(rows), rows=rows[:MAX_ROWS_NAMED],
            hint="Repair the dataset with drop_duplicates: repeats weigh more than they should and leak into held-out rows.",
        )
    ]  # fmt: skip


def near_duplicates(data: Path, columns: list[str]) -> Finding | None:
    """Rows that are equal but for case, punctuation, digits and blanks: a random split puts some on both sides."""
    if not columns:
        return None
    key = pl.concat_str([normalised(column) for column in columns], separator="\x1f", ignore_nulls=True)
    frame = pl.scan_parquet(data).with_row_index("__row", offset=1)
    keys = frame.select("__row", key.hash(seed=7).alias("k"), row_hash(columns).alias("h")).collect(engine="streaming")
    near = keys.unique("h", maintain_order=True).filter(~pl.col("k").is_first_distinct())
    if near.is_empty():
        return None
    rows = near["__row"].to_list()
    return Finding(
        level="info", code="near_duplicates", count=len(rows), rows=rows[:MAX_ROWS_NAMED],
        message=f"Found {len(rows)} rows that differ from another in case, punctuation or numbers only",
        hint="A random held-out split puts some of them on both sides, which makes the held-out loss look better than it is.",
    )  # fmt: skip


def _conversations(data: Path, shape: str, mapping: dict[str, str]) -> list[Finding]:
    import pyarrow.parquet as pq

    bad: list[int] = []
    first = ""
    number = 0
    for batch in pq.ParquetFile(data).iter_batches(columns=[mapping[shape]]):
        for row in batch.to_pylist():
            number += 1
            if not row[mapping[shape]]:
                continue  # counted as empty
            try:
                to_messages(row, shape, mapping)
            except BadData as error:
                bad.append(number)
                first = first or error.message
    if not bad:
        return []
    return [
        Finding(
            level="error", code="bad_conversation", column=mapping[shape], rows=bad[:MAX_ROWS_NAMED], count=len(bad),
            message=f"{len(bad)} conversations cannot be used. Row {bad[0]}: {first}",
            hint='Each needs [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}].',
        )
    ]  # fmt: skip


def _tags(data: Path, mapping: dict[str, str]) -> list[Finding]:
    import json

    frame = pl.read_parquet(data, columns=list(mapping.values()))
    bad = []
    for number, (tokens, tags) in enumerate(frame.select(mapping["tokens"], mapping["tags"]).iter_rows(), start=1):
        try:
            if len(json.loads(tokens or "[]")) != len(json.loads(tags or "[]")):
                bad.append(number)
        except (ValueError, TypeError):
            bad.append(number)
    if not bad:
        return []
    return [
        Finding(
            level="error", code="tags_do_not_fit", rows=bad[:MAX_ROWS_NAMED], count=len(bad),
            message=f"{len(bad)} rows do not have one tag for each token", hint="Give each token a tag; O where there is none.",
        )
    ]  # fmt: skip


def _long(role: str, told: dict[str, Any]) -> Finding:
    share = told["share_over_context"]
    return Finding(
        level="warning", code="long_texts", column=role,
        message=f"{share:.1%} of the {role} texts are longer than {told['context_tokens']} tokens",
        hint="They will be cut; shorten them, or choose a model with a longer context.",
    )  # fmt: skip


def _class_balance(frame: pl.LazyFrame, label: str | None) -> dict[str, int]:
    if label is None:
        return {}
    counts = (
        frame.group_by(pl.col(label).cast(pl.String)).len().sort("len", descending=True).head(MAX_CLASSES).collect()
    )
    return {("(empty)" if name is None else name): count for name, count in counts.iter_rows()}


def _imbalance(balance: dict[str, int]) -> list[Finding]:
    if len(balance) == 1:
        return [
            Finding(
                level="warning",
                code="one_class",
                message="All rows have the same class",
                hint="Add rows of other classes.",
            )
        ]
    if len(balance) > 1 and max(balance.values()) > 10 * min(balance.values()):
        most, least = max(balance, key=lambda k: balance[k]), min(balance, key=lambda k: balance[k])
        return [
            Finding(
                level="warning", code="imbalanced_classes",
                message=f"The classes are uneven: {most!r} has {balance[most]} rows, {least!r} has {balance[least]}",
                hint="Add rows of the rare classes; accuracy alone will mislead.",
            )
        ]  # fmt: skip
    return []
