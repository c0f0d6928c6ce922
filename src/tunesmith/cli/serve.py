"""`tunesmith up`: the one command that runs the server's own code."""

from __future__ import annotations

import gc
import logging
import socket
from typing import TYPE_CHECKING, Annotated

import typer

from tunesmith.core.errors import Conflict, InvalidInput

if TYPE_CHECKING:
    from tunesmith.settings import Settings


def check_host(settings: Settings) -> None:
    """Raise `InvalidInput` for an address that others on the network could reach, unless people have to log in."""
    if settings.auth == "off" and settings.host not in ("127.0.0.1", "localhost", "::1"):
        raise InvalidInput(
            f"On {settings.host} others can reach this server, and without accounts whoever does may do everything.",
            hint="Set TUNESMITH_AUTH=on, so that people log in; or leave --host out and come through an SSH tunnel: "
            "ssh -L 8000:localhost:8000 this-machine",
        )


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there. Raises `Conflict` when the port is taken."""
    try:
        made = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # else the second part of each answer waits 40 ms
        return made
    except OSError as error:
        raise Conflict(
            f"Port {port} cannot be opened: {error.strerror}.",
            hint="A Tunesmith may be up there already; otherwise choose another: tunesmith up --port 8001",
        ) from None


def up(
    host: Annotated[
        str | None, typer.Option(help="Address to listen on; others than this machine's need TUNESMITH_AUTH=on.")
    ] = None,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Port to listen on.")] = None,
) -> None:
    """Start the server. Ctrl-C stops it; training goes on and is found again at the next start."""
    gc.disable()  # what is made while starting stays: looking through it for garbage takes a seventh of the time
    import uvicorn

    from tunesmith.app import create_app
    from tunesmith.settings import Settings
    from tunesmith.storage.outage import keep_quiet

    given = {key: value for key, value in (("host", host), ("port", port)) if value is not None}
    settings = Settings(**given)  # type: ignore[arg-type]
    check_host(settings)
    logging.basicConfig(level=settings.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for chatty in ("alembic", "httpx"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    logging.getLogger("sqlalchemy.pool").setLevel(
        logging.CRITICAL
    )  # connections that end: the database tells it itself
    app = create_app(settings)
    # The application does both again when it starts; done here first, what is wrong is one sentence and no traceback.
    app.state.tunesmith.database.take_process_lock()
    app.state.tunesmith.database.migrate()
    config = uvicorn.Config(
        app, host=settings.host, port=settings.port, log_level="warning", timeout_graceful_shutdown=3,
        ws="websockets-sansio", server_header=False,
    )  # fmt: skip
    for handler in (*logging.getLogger().handlers, *logging.getLogger("uvicorn").handlers):
        handler.addFilter(keep_quiet)
    listener = listen(settings.host, settings.port)
    place = f"[{settings.host}]" if ":" in settings.host else settings.host
    gc.freeze()
    gc.enable()
    typer.echo(f"Tunesmith is at http://{place}:{settings.port}  (Ctrl-C stops it)")
    if settings.auth == "on" and (link := app.state.doorkeeper.first_link()):
        typer.echo(f"There are no accounts yet. The first one, an administrator's, is made here: {link}")
    uvicorn.Server(config).run(sockets=[listener])
