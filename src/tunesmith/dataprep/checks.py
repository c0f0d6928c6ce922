"""Validation: what is wrong with a version, with row numbers, and what to do about it. Rows count from 1."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl

from tunesmith.core.errors import BadData
from tunesmith.core.words import plural
from tunesmith.dataprep.bad_rows import empty, misfits, read_unusual, required_columns
from tunesmith.dataprep.conversion import ANSWER_LIST, CONVERSATIONAL, TEXTS
from tunesmith.dataprep.folding import letters_hash
from tunesmith.dataprep.profile import TokenCounter, lengths
from tunesmith.dataprep.shapes import unused_columns
from tunesmith.dataprep.tables import MAX_ROWS_NAMED
from tunesmith.schemas.datasets import Finding, ValidationReport

FEW_ROWS = 100
MAX_CLASSES = 1_000
CHARS = "chars_"


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
    split_column: str | None = None,
) -> ValidationReport:
    """All findings on a stored version."""
    columns = pl.read_parquet_schema(data)
    findings = [_missing(role, list(columns)) for role in missing] + list(found_while_reading)
    usable = {role: column for role, column in mapping.items() if column in columns}
    texts = text_columns(shape, usable)
    required = required_columns(shape, usable)
    rows = _marks(data, texts, required)
    if rows.is_empty():
        findings.append(Finding(level="error", code="no_rows", message="The file has a header but no rows."))
        return ValidationReport(valid=False, findings=findings)
    findings += _empty_rows(rows, required) + _unreadable(rows) + _duplicates(rows)
    if shape in (*CONVERSATIONAL, *TEXTS) and not missing:
        findings += _unusable(data, shape, usable)
        findings += _unused([name for name in columns if name != split_column], usable)
    if shape == "tokens_tags" and len(usable) == 2:
        findings += _tags(data, usable)
    if rows.height < FEW_ROWS:
        findings.append(
            Finding(
                level="warning", code="few_rows", count=rows.height,
                message=f"Only {plural(rows.height, 'row')}; a model learns little from fewer than {FEW_ROWS}",
                hint="Add examples, or train for more epochs and watch the held-out loss.",
            )
        )  # fmt: skip
    counter = TokenCounter(tokenizer_path)
    characters = {role: rows[f"{CHARS}{role}"] for role in texts}
    found_lengths = lengths(data, texts, characters, max_context_tokens, counter)
    if counter.problem:
        findings.append(counter.problem)
    findings += [_long(role, told) for role, told in found_lengths.items() if told["share_over_context"] > 0]
    balance = _class_balance(data, usable.get("label"))
    findings += _imbalance(balance) + _near_duplicates(rows)
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


def _marks(data: Path, texts: dict[str, str], required: list[str]) -> pl.DataFrame:
    """What one pass over all cells tells of each row: `row`, `empty`, `lost` and `wrong` characters, a `hash` of its cells
    and one of the letters of its texts, and the number of characters of each role (`chars_…`)."""
    frame = pl.scan_parquet(data)
    schema = frame.collect_schema()
    strings = [column for column in texts.values() if schema[column] == pl.String]
    lost = [pl.col(c).str.contains("\ufffd", literal=True) for c in strings]
    wrong = [pl.col(c).str.contains_any(list(MOJIBAKE)) for c in strings]
    no = pl.lit(value=False)
    return (
        frame.with_row_index("__row", offset=1)
        .select(
            pl.col("__row"),
            empty(schema, required).alias("empty"),
            pl.any_horizontal(no, *lost).alias("lost"),
            pl.any_horizontal(no, *wrong).alias("wrong"),
            row_hash(schema.names()).alias("hash"),
            (letters_hash(list(texts.values())) if texts else pl.lit(None, pl.UInt64)).alias("letters"),
            *[pl.col(c).cast(pl.String).str.len_chars().alias(f"{CHARS}{role}") for role, c in texts.items()],
        )
        .collect(engine="streaming")
    )


def _empty_rows(rows: pl.DataFrame, required: list[str]) -> list[Finding]:
    found = rows.filter("empty")["__row"].to_list()
    if not found:
        return []
    return [
        Finding(
            level="error", code="empty_rows", message=plural(len(found), "empty row"), count=len(found),
            rows=found[:MAX_ROWS_NAMED], hint=f"Fill in {' and '.join(required) or 'at least one cell'}, or drop these rows.",
        )
    ]  # fmt: skip


MOJIBAKE = ("Ã¤", "Ã¶", "Ã¼", "ÃŸ", "Ã©", "Ã¨", "Ã ", "Ã±", "â€™", "â€œ", "â€\x9d", "â€“", "Â ", "ðŸ")
"""What UTF-8 looks like when it was read as Windows-1252."""


def _unreadable(rows: pl.DataFrame) -> list[Finding]:
    """Characters lost in decoding, and text that was decoded wrongly before it came here."""
    lost, wrong = (rows.filter(kind)["__row"].to_list() for kind in ("lost", "wrong"))
    findings = []
    if lost:
        findings.append(
            Finding(
                level="warning", code="unreadable_characters", count=len(lost), rows=lost[:MAX_ROWS_NAMED],
                message=f"{plural(len(lost), 'row')} with characters that could not be decoded",
                hint="Save the file as UTF-8 and upload it again, or fix these rows.",
            )
        )  # fmt: skip
    if wrong:
        findings.append(
            Finding(
                level="warning", code="mojibake", count=len(wrong), rows=wrong[:MAX_ROWS_NAMED],
                message=f"{plural(len(wrong), 'row')} decoded wrongly before the upload (such as Ã© for é)",
                hint="Restore the characters.",
            )
        )  # fmt: skip
    return findings


def row_hash(columns: list[str]) -> pl.Expr:
    """64 bits over all cells of a row; two different rows of a million collide with a chance under 1 in 30 million."""
    return pl.struct(columns).hash(seed=7)


def _duplicates(rows: pl.DataFrame) -> list[Finding]:
    found = rows.filter(~pl.col("hash").is_first_distinct())["__row"].to_list()
    if not found:
        return []
    return [
        Finding(
            level="warning", code="duplicates", message=plural(len(found), "duplicate row"), count=len(found), rows=found[:MAX_ROWS_NAMED],
            hint="Drop the repeats: they weigh more than they should and leak into held-out rows.",
        )
    ]  # fmt: skip


def _near_duplicates(rows: pl.DataFrame) -> list[Finding]:
    """Rows that are equal but for case, punctuation, digits and blanks: a random split puts some on both sides."""
    once = rows.filter(pl.col("letters").is_not_null() & pl.col("hash").is_first_distinct())
    found = once.filter(~pl.col("letters").is_first_distinct())["__row"].to_list()
    if not found:
        return []
    return [
        Finding(
            level="info", code="near_duplicates", count=len(found), rows=found[:MAX_ROWS_NAMED],
            message=f"{plural(len(found), 'near-duplicate row')}: equal to another but for case, punctuation or numbers",
            hint="A random held-out split puts some of them on both sides, which makes the held-out loss look better than it is.",
        )
    ]  # fmt: skip


def _unusable(data: Path, shape: str, mapping: dict[str, str]) -> list[Finding]:
    """Rows that training would refuse, by the very function that it asks, but for the empty ones; and what that function says
    of the others."""
    bad: list[tuple[int, BadData]] = []
    rated_bad: list[int] = []
    said: dict[str, list[int]] = {}
    for number, example in read_unusual(data, shape, mapping):
        if isinstance(example, BadData):
            bad.append((number, example))
            continue
        for remark in example.remarks:
            said.setdefault(remark.partition(":")[0], []).append(number)
        if not example.is_good:
            rated_bad.append(number)
    lists = [each for each in bad if each[1].hint == ANSWER_LIST]
    others = [each for each in bad if each[1].hint != ANSWER_LIST]
    findings = [_bad(some, shape, mapping) for some in (lists, others) if some]
    findings += [
        Finding(
            level="info", code="remark", message=f"{plural(len(rows), 'row')}: {remark.rstrip('.')}", rows=rows[:MAX_ROWS_NAMED],
            count=len(rows),
        )
        for remark, rows in said.items()
    ]  # fmt: skip
    if shape in ("kto", "preference"):
        findings.append(_rated(shape, rated_bad))
    return findings


def _bad(bad: list[tuple[int, BadData]], shape: str, mapping: dict[str, str]) -> Finding:
    number, first = bad[0]
    listed = shape in ("messages", "conversations")
    usual = (
        'Each conversation needs [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]. Fix these rows, or '
        "drop them."
        if listed
        else "Fix these rows, or drop them."
    )
    return Finding(
        level="error", code="answer_lists" if first.hint == ANSWER_LIST else "bad_conversation" if listed else "bad_rows",
        column=mapping.get(shape), rows=[row for row, _ in bad[:MAX_ROWS_NAMED]], count=len(bad),
        message=f"{plural(len(bad), 'conversation' if listed else 'row')} cannot be used for training. Row {number}: {first.message}",
        hint=first.hint or usual,
    )  # fmt: skip


def _rated(shape: str, rated_bad: list[int]) -> Finding:
    what = (
        "Each row has a better and a worse answer"
        if shape == "preference"
        else f"The label rates answers: {len(rated_bad)} are bad"
    )
    return Finding(
        level="info", code="rated_answers", message=what, rows=rated_bad[:MAX_ROWS_NAMED], count=len(rated_bad),
        hint="Methods that learn from examples refuse such rows, unless a job sets rated_rows: good to learn the good answers.",
    )  # fmt: skip


def _unused(columns: list[str], mapping: dict[str, str]) -> list[Finding]:
    """Columns that nothing is learned from; a warning for those whose names change what a row means."""
    findings = []
    for names, level in zip(unused_columns(columns, mapping), ("warning", "info"), strict=True):
        if names:
            are = "columns are" if len(names) > 1 else "column is"
            findings.append(
                Finding(
                    level=level, code="unused_columns", count=len(names), message=f"{len(names)} {are} not used: {', '.join(names[:12])}",
                    hint="Give them a role in the column mapping where they belong to what is learned.",
                )
            )  # fmt: skip
    return findings


def _tags(data: Path, mapping: dict[str, str]) -> list[Finding]:
    bad = misfits(pl.read_parquet(data, columns=list(mapping.values())), mapping)
    if not bad:
        return []
    return [
        Finding(
            level="error", code="tags_do_not_fit", rows=bad[:MAX_ROWS_NAMED], count=len(bad),
            message=f"{plural(len(bad), 'row')} without one tag for each token",
            hint="Give each token a tag (O where there is none), or drop these rows.",
        )
    ]  # fmt: skip


def _long(role: str, told: dict[str, Any]) -> Finding:
    share = told["share_over_context"]
    return Finding(
        level="warning", code="long_texts", column=role,
        message=f"{share:.1%} of the {role} texts are longer than {told['context_tokens']} tokens",
        hint="They will be cut; shorten them, or choose a model with a longer context.",
    )  # fmt: skip


def _class_balance(data: Path, label: str | None) -> dict[str, int]:
    if label is None:
        return {}
    counts = (
        pl.scan_parquet(data)
        .group_by(pl.col(label).cast(pl.String))
        .len()
        .sort("len", descending=True)
        .head(MAX_CLASSES)
        .collect()
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
