"""`tunesmith deploy` and `tunesmith deployments`."""

from __future__ import annotations

import typer

app = typer.Typer(no_args_is_help=True, help="Models in use: local servers, Ollama, LM Studio, the hub, the cloud.")
