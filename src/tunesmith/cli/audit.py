"""`tunesmith audit`: who did what."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Annotated, Literal

import typer

from tunesmith.cli.output import FAILED, exact, show, table, transfer
from tunesmith.sdk.client import Client

app = typer.Typer(no_args_is_help=True, help="The log of changes and logins, for administrators.")
User = Annotated[str | None, typer.Option("--user", "-u", help="Only what this account did.")]
Action = Annotated[str | None, typer.Option(help="Only this, such as delete_job.")]
About = Annotated[str | None, typer.Option(help='Only what was done to this, such as "job 7".')]
Result = Annotated[str | None, typer.Option(help="done, refused or failed.")]


@app.command("list")
def list_entries(
    user: User = None, action: Action = None, about: About = None, result: Result = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Most lines.")] = 50,
) -> None:  # fmt: skip
    """The newest lines."""
    with Client() as client:
        entries = client.audit.list(username=user, action=action, about=about, result=result)
        found = list(islice(entries, limit))
    rows = [(e.seq, exact(e.at), e.username, e.via, e.action, ", ".join(e.objects), e.address, e.result) for e in found]
    show(found, table(("line", "when", "who", "through", "what", "on what", "from", "result"), rows))


@app.command()
def verify() -> None:
    """Whether every line is there as it was written. Exits with 1 when one is not."""
    with Client() as client:
        found = client.audit.verify()
    show(found, found.message)
    if not found.ok:
        raise typer.Exit(FAILED)


@app.command()
def export(
    file: Annotated[Path, typer.Argument(help="Where to; .csv or .jsonl.")],
    user: User = None, action: Action = None, about: About = None, result: Result = None,
) -> None:  # fmt: skip
    """Write the log to a file, oldest first."""
    form: Literal["csv", "jsonl"] = "csv" if file.suffix == ".csv" else "jsonl"
    with Client() as client, transfer(file.name) as got:
        filters = {"username": user, "action": action, "about": about, "result": result}
        client.audit.export(file, kind=form, progress=got, **filters)
    show({"file": str(file)}, f"The log is in {file}.")
