"""How commands speak: tables and sentences for people, `--json` for programs, one line and a hint for what went wrong."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import BaseModel
from rich.console import Console
from rich.table import Table

from tunesmith.core import errors
from tunesmith.sdk.connection import ServerUnreachable

OK, FAILED, BAD_INPUT, UNREACHABLE, NOT_FOUND, CONFLICT = range(6)
"""Exit codes: 0 all well, 1 a job failed or something else went wrong, 2 bad input or usage, 3 no server, 4 not there,
5 not in this state."""

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


class Output:
    """Set once by the root command's `--json`."""

    as_json = False


def plain(value: Any) -> Any:
    """Models as what JSON can hold."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def show(value: Any, text: str | Table | None = None) -> None:
    """`value` as JSON, or `text` for a person."""
    if Output.as_json:
        sys.stdout.write(json.dumps(plain(value), ensure_ascii=False) + "\n")
    elif text is not None:
        out.print(text, markup=False) if isinstance(text, str) else out.print(text)


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Table:
    """A table without markup in its cells: names are users' text."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        made.add_column(column, overflow="fold")
    for row in rows:
        made.add_row(*["" if cell is None else _escaped(str(cell)) for cell in row])
    return made


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def size(num_bytes: float | None) -> str:
    """`1.5 MB`"""
    if num_bytes is None:
        return ""
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.1f} TB"


def duration(seconds: float | None) -> str:
    """`1 h 02 min`, `3 min 05 s`, `12 s`"""
    if seconds is None:
        return ""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 60} min {whole % 60:02d} s" if whole >= 60 else f"{whole} s"


def exit_code(error: errors.TunesmithError) -> int:
    if isinstance(error, ServerUnreachable):
        return UNREACHABLE
    if isinstance(error, errors.NotFound):
        return NOT_FOUND
    if isinstance(error, errors.Conflict):
        return CONFLICT
    if 400 <= error.status < 500:
        return BAD_INPUT
    return FAILED


def complain(error: errors.TunesmithError) -> int:
    """Say what went wrong; returns the exit code."""
    if Output.as_json:
        sys.stderr.write(json.dumps(error.body(), ensure_ascii=False) + "\n")
        return exit_code(error)
    err.print(f"[bold red]Error:[/] {_escaped(error.message)}")
    for detail in error.details[:10]:
        where = detail.get("loc") or (f"row {detail['row']}" if "row" in detail else "")
        err.print(f"  {_escaped(str(where))}: {_escaped(str(detail.get('message', '')))}")
    if error.hint:
        err.print(f"[dim]{_escaped(error.hint)}[/]")
    return exit_code(error)
