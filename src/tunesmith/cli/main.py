"""The list of commands; errors become one line, a hint and an exit code."""

from __future__ import annotations

import typer

from tunesmith.cli.serve import up
from tunesmith.core.errors import TunesmithError

app = typer.Typer(no_args_is_help=True, help="From a file of examples to a tuned model in use.")
app.command()(up)


@app.callback()
def root() -> None:
    """From a file of examples to a tuned model in use."""


def main() -> None:
    """The `tunesmith` command."""
    try:
        app()
    except TunesmithError as error:
        typer.echo(f"{error.message}\n{error.hint}", err=True)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
