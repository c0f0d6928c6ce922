"""`tunesmith up`: the one command that runs the server's own code."""

from __future__ import annotations

import gc
import logging
import socket
import threading
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from tunesmith.core.errors import Conflict, InvalidInput
from tunesmith.core.plain_text import PlainFormatter

if TYPE_CHECKING:
    from tunesmith.http.connections import Limits
    from tunesmith.settings import Settings

BACKLOG = 2048
WS_MAX_BYTES = 64 * 1024
"""Of one message from a browser: nothing that it says over a WebSocket is listened to."""


def check_host(settings: Settings) -> None:
    """Raise `InvalidInput` for an address that others could reach, directly or through a proxy, unless people have to log in."""
    from tunesmith.http.guard import is_loopback

    if settings.auth == "off" and settings.public_url:
        raise InvalidInput(
            f"Under {settings.public_url} others can reach this server, and without accounts whoever does may do everything.",
            hint="Set TUNESMITH_AUTH=on, so that people log in; or leave TUNESMITH_PUBLIC_URL out.",
        )
    if settings.auth == "off" and not is_loopback(settings.host):
        raise InvalidInput(
            f"On {settings.host} others can reach this server, and without accounts whoever does may do everything.",
            hint="Set TUNESMITH_AUTH=on, so that people log in; or leave --host out and come through an SSH tunnel: "
            "ssh -L 8000:localhost:8000 this-machine",
        )


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there. Raises `Conflict` when the port is taken."""
    from tunesmith.http.listener import Listener

    try:
        made = Listener(
            fileno=socket.create_server(
                (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=BACKLOG
            ).detach()
        )
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # else the second part of each answer waits 40 ms
        return made
    except OSError as error:
        raise Conflict(
            f"Port {port} cannot be opened: {error.strerror}.",
            hint="A Tunesmith may be up there already; otherwise choose another: tunesmith up --port 8001",
        ) from None


def limits_of(settings: Settings) -> Limits:
    """As the settings say and the files of this process reach; no address alone can take more than half."""
    from tunesmith.http.connections import Limits
    from tunesmith.http.listener import raise_file_limit

    num = min(settings.max_connections, raise_file_limit())
    return Limits(
        head_s=settings.request_head_s, body_s=settings.request_body_s, send_s=settings.response_s, num=num,
        num_per_address=min(settings.max_connections_per_address, max(1, num // 2)), trusted=settings.trusted_proxies,
    )  # fmt: skip


def _write_log(level: str) -> None:
    """All to standard error, in lines that nothing from outside can begin."""
    handler = logging.StreamHandler()
    handler.setFormatter(PlainFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=level, handlers=[handler])
    logging.captureWarnings(True)
    threading.excepthook = lambda told: logging.getLogger("tunesmith").error(
        "a thread has ended", exc_info=told.exc_value
    )


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
    from tunesmith.http.connections import Connections, HttpConnection, WebSocketConnection
    from tunesmith.settings import Settings
    from tunesmith.storage.outage import keep_quiet

    given = {key: value for key, value in (("host", host), ("port", port)) if value is not None}
    settings = Settings(**given)  # type: ignore[arg-type]
    check_host(settings)
    _write_log(settings.log_level)
    for chatty in ("alembic", "httpx"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    # It tells of connections that ended, with tracebacks: storage/outage.py tells of the database.
    logging.getLogger("sqlalchemy.pool").setLevel(logging.CRITICAL)
    app = create_app(settings)
    # The application does both again when it starts; done here first, what is wrong is one sentence and no traceback.
    app.state.tunesmith.database.take_process_lock()
    app.state.tunesmith.database.migrate()
    connections = Connections(limits_of(settings))
    config = uvicorn.Config(
        app, host=settings.host, port=settings.port, log_config=None, log_level="warning", timeout_graceful_shutdown=3,
        http=partial(HttpConnection, connections), ws=partial(WebSocketConnection, connections),  # type: ignore[arg-type]
        server_header=False, timeout_keep_alive=settings.keep_alive_s, ws_ping_interval=settings.keep_alive_s,
        ws_ping_timeout=settings.keep_alive_s, ws_max_size=WS_MAX_BYTES,
        proxy_headers=False,  # http/client_address.py reads them
    )  # fmt: skip
    for handler in (*logging.getLogger().handlers, *logging.getLogger("uvicorn").handlers):
        handler.addFilter(keep_quiet)
    listener = listen(settings.host, settings.port)
    place = f"[{settings.host}]" if ":" in settings.host else settings.host
    gc.freeze()
    gc.enable()
    typer.echo(f"Tunesmith is at http://{place}:{settings.port}  (Ctrl-C stops it)")
    if settings.auth == "on" and (link := app.state.doorkeeper.first_link()):
        typer.echo(f"There are no accounts yet. Create the first one, an administrator's, here: {link}")
    uvicorn.Server(config).run(sockets=[listener])
