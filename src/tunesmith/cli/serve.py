"""`tunesmith up`: the one command that runs the server's own code."""

from __future__ import annotations

import gc
import logging
import socket
from typing import Annotated

import typer

from tunesmith.core.errors import Conflict, InvalidInput


def check_host(host: str) -> None:
    """Raise `InvalidInput` for an address that others on the network could reach."""
    if host not in ("127.0.0.1", "localhost", "::1"):
        raise InvalidInput(
            f"Tunesmith has no accounts yet, so it opens on this machine only, not on {host}.",
            hint="Leave --host out. From elsewhere, use an SSH tunnel: ssh -L 8000:localhost:8000 this-machine",
        )


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there. Raises `Conflict` when the port is taken."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise Conflict(
            f"Port {port} cannot be opened: {error.strerror}.",
            hint="A Tunesmith may be up there already; otherwise choose another: tunesmith up --port 8001",
        ) from None


def up(
    host: Annotated[str | None, typer.Option(help="Address to listen on; this machine only.")] = None,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Port to listen on.")] = None,
) -> None:
    """Start the server. Ctrl-C stops it; training goes on and is found again at the next start."""
    gc.disable()  # what is made while starting stays: looking through it for garbage takes a seventh of the time
    import uvicorn

    from tunesmith.app import create_app
    from tunesmith.settings import Settings

    given = {key: value for key, value in (("host", host), ("port", port)) if value is not None}
    settings = Settings(**given)  # type: ignore[arg-type]
    check_host(settings.host)
    logging.basicConfig(level=settings.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    app = create_app(settings)
    # The application does both again when it starts; done here first, what is wrong is one sentence and no traceback.
    app.state.tunesmith.database.take_process_lock()
    app.state.tunesmith.database.migrate()
    config = uvicorn.Config(
        app, host=settings.host, port=settings.port, log_level="warning", timeout_graceful_shutdown=3,
        ws="websockets-sansio", server_header=False,
    )  # fmt: skip
    listener = listen(settings.host, settings.port)
    place = f"[{settings.host}]" if ":" in settings.host else settings.host
    gc.freeze()
    gc.enable()
    typer.echo(f"Tunesmith is at http://{place}:{settings.port}  (Ctrl-C stops it)")
    uvicorn.Server(config).run(sockets=[listener])
