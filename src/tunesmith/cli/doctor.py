"""`tunesmith doctor`: what is wrong here, and how to fix it. Needs no server."""

from __future__ import annotations

import typer

from tunesmith.cli.output import FAILED, show, table
from tunesmith.core.errors import TunesmithError
from tunesmith.sdk.client import Client
from tunesmith.sdk.connection import ServerUnreachable


def doctor() -> None:
    """Check Python, libraries, disk, memory, GPU, models and settings; ends with code 1 when something is broken."""
    from tunesmith.features.monitoring.service import doctor as check
    from tunesmith.settings import Settings

    found = [item.model_dump(mode="json") for item in check(Settings())]
    with Client(timeout_s=3) as client:
        found.append(_server(client))
    rows = [(item["status"], item["name"], item["message"], item["remedy"]) for item in found]
    show(found, table(("status", "check", "found", "remedy"), rows))
    raise typer.Exit(FAILED if any(item["status"] == "error" for item in found) else 0)


def _server(client: Client) -> dict[str, str]:
    try:
        health = client.system.health()
    except ServerUnreachable as error:
        status, message, remedy = "warning", error.message, "Start it with: tunesmith up"
    except TunesmithError as error:
        status, message, remedy = "warning", error.message, error.hint
    else:
        status, message, remedy = "ok", f"answers at {client.connection.url}, version {health['version']}", ""
    return {"name": "server", "status": status, "message": message, "remedy": remedy}
