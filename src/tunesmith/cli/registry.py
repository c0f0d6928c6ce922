"""`tunesmith registry`: versions of models, their aliases and stages."""

from __future__ import annotations

import typer

app = typer.Typer(no_args_is_help=True, help="Versions of models, their aliases and stages.")
