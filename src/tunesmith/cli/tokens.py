"""Rows as a model reads them, for a terminal."""

from __future__ import annotations

from itertools import groupby

from rich.table import Table
from rich.text import Text

from tunesmith.schemas.datasets import DatasetTokens, ShownText

STYLES = {"masked": "dim", "learned": "green", "cut": "red strike"}
BRACKETS = {"masked": ("", ""), "learned": ("⟦", "⟧"), "cut": ("✂", "")}
"""Around stretches, for terminals and files without colors."""


def tokens_told(found: DatasetTokens) -> Table:
    """One line for each text: its row, how many tokens it has, and the text; learned stretches stand in ⟦ ⟧, cut ones after ✂."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("row", "tokens", "learned", "cut", "text"):
        made.add_column(column, overflow="fold")
    for row in found.rows:
        if row.problem:
            made.add_row(str(row.row), "", "", "", Text(f"{row.problem} {row.hint}", "red"))
        for text in row.texts:
            counts = (text.num_tokens, text.num_learned, text.num_cut)
            made.add_row(str(row.row), *map(str, counts), _colored(text))
        for remark in row.remarks:
            made.add_row(str(row.row), "", "", "", Text(remark, "dim"))
    used = ", ".join(f"{column} as {role}" for role, column in found.used_columns.items())
    made.add_row("", "", "", "", Text(f"Used: {used}. Not used: {', '.join(found.unused_columns) or 'none'}.", "dim"))
    return made


def _colored(text: ShownText) -> Text:
    made = Text()
    for kind, tokens in groupby(text.tokens, lambda token: token.kind):
        before, after = BRACKETS[kind]
        made.append(before + "".join(token.text for token in tokens).replace("\n", "↵\n") + after, STYLES[kind])
    if len(text.tokens) < text.num_tokens:
        made.append(f" … {text.num_tokens - len(text.tokens)} more tokens", "dim")
    for note in text.notes:
        made.append(f"\n{note}", "dim")
    return made
