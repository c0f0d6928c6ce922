"""`tunesmith doctor`: what is wrong here, and how to mend it. Needs no server."""

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
        try:
            health = client.system.health()
            found.append(
                {
                    "name": "server",
                    "status": "ok",
                    "message": f"answers at {client.connection.url}, version {health['version']}",
                    "remedy": "",
                }
            )
        except (ServerUnreachable, TunesmithError) as error:
            found.append(
                {
                    "name": "server",
                    "status": "warning",
                    "message": error.message,
                    "remedy": "Start it with: tunesmith up",
                }
            )
    rows = [(item["status"], item["name"], item["message"], item["remedy"]) for item in found]
    show(found, table(("status", "check", "found", "remedy"), rows))
    raise typer.Exit(FAILED if any(item["status"] == "error" for item in found) else 0)
