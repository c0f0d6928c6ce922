"""`tunesmith evaluate` and `tunesmith evaluations`."""

from __future__ import annotations

import typer

app = typer.Typer(no_args_is_help=True, help="Scores of models, and how they compare.")
