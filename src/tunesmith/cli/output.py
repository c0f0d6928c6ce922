"""How commands speak: tables and sentences for people, `--json` for programs, one line and a hint for what went wrong."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any

from pydantic import BaseModel
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from rich.table import Table
from rich.text import Text

from tunesmith.core import errors
from tunesmith.core.plain_text import BUT_LINES, lines, one_line
from tunesmith.sdk.connection import NotTunesmith, ServerUnreachable

OK, FAILED, BAD_INPUT, UNREACHABLE, NOT_FOUND, CONFLICT = range(6)
"""Exit codes: 0 all well, 1 a job failed or something else went wrong, 2 bad input or usage, 3 no server, 4 not there,
5 not in this state."""


class PlainConsole(Console):
    """Writes what others have written as text alone: no escape sequence of theirs reaches the terminal."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(lines(text), **options)


out = PlainConsole(highlight=False)
err = PlainConsole(stderr=True, highlight=False)


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
        sys.stdout.write(as_json(plain(value)) + "\n")
    elif text is not None:
        say(text) if isinstance(text, str) else out.print(text)


def as_json(value: Any) -> str:
    """On one line; what a terminal would act on stands in it as `\\u009b`."""
    return BUT_LINES.sub(lambda found: f"\\u{ord(found[0]):04x}", json.dumps(value, ensure_ascii=False))


def say(text: str, style: str | None = None, end: str = "\n") -> None:
    """Text as it is: names are users' text, and a path that is cut in two cannot be copied."""
    out.print(text, style=style, end=end, markup=False, soft_wrap=True)


@contextlib.contextmanager
def transfer(name: str) -> Iterator[Callable[[int, int], None]]:
    """A bar for bytes that go over the wire; gives what is told `(bytes so far, bytes in all, or 0 where nobody knows)`."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=err, disable=Output.as_json, transient=True) as bar:
        task = bar.add_task(one_line(name), total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total or None)


@contextlib.contextmanager
def waiting(what: str) -> Iterator[Callable[[float], None]]:
    """A bar for work that somebody else does; gives what is told the share that is done, 0 to 1."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn())
    with Progress(*columns, console=err, disable=Output.as_json, transient=True) as bar:
        task = bar.add_task(one_line(what), total=None)
        yield lambda share: bar.update(task, completed=share, total=1.0 if share else None)


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Table:
    """A table without markup in its cells: names are users' text."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        made.add_column(column, overflow="fold")
    for row in rows:
        made.add_row(*["" if cell is None else _escaped(one_line(str(cell))) for cell in row])
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


def exact(moment: datetime) -> str:
    """`2026-01-31 14:05:09 CET`, on this machine's clock."""
    return f"{moment.astimezone():%Y-%m-%d %H:%M:%S %Z}"


def duration(seconds: float | None) -> str:
    """`1 h 02 min`, `3 min 05 s`, `12 s`"""
    if seconds is None:
        return ""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 60} min {whole % 60:02d} s" if whole >= 60 else f"{whole} s"


def exit_code(error: errors.TunesmithError) -> int:
    if isinstance(error, ServerUnreachable | NotTunesmith):
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
        sys.stderr.write(as_json(error.body()) + "\n")
        return exit_code(error)
    err.print(f"[bold red]Error:[/] {_escaped(error.message)}", soft_wrap=True)
    for detail in error.details[:10]:
        where = detail.get("loc") or (f"row {detail['row']}" if "row" in detail else "")
        err.print(f"  {_escaped(str(where))}: {_escaped(str(detail.get('message', '')))}", soft_wrap=True)
    if error.hint:
        err.print(f"[dim]{_escaped(error.hint)}[/]", soft_wrap=True)
    return exit_code(error)
