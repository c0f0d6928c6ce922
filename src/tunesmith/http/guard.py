"""Only requests that name this host and come from its own pages get in.

A web page elsewhere must not reach the server through the user's browser: DNS rebinding is stopped by the `Host` list,
cross-site requests by `Origin`. Decided on the ASGI scope (never on `request.url`, which `Host` can poison).
"""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from tunesmith.core.errors import BadRequest, PermissionDenied, TunesmithError
from tunesmith.http.errors import error_answer
from tunesmith.settings import Settings

LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})


class HostOriginGuard:
    """Outermost ASGI layer; HTTP and WebSocket alike."""

    def __init__(self, app: ASGIApp, allowed_hosts: Iterable[str] = ()) -> None:
        self.app = app
        self.hosts = LOOPBACK | {h.lower() for h in allowed_hosts}

    def problem(self, headers: Headers) -> TunesmithError | None:
        """Why this request is refused, or None."""
        hosts = headers.getlist("host")
        if len(hosts) != 1 or host_name(hosts[0]) not in self.hosts:
            return BadRequest(
                "This server does not answer to that host name.",
                hint='Open it as localhost, or add the name to TUNESMITH_ALLOWED_HOSTS (for example ["my-host"]).',
            )
        origin = headers.get("origin")
        if origin is not None and (origin == "null" or origin.partition("://")[2].lower() != hosts[0].lower()):
            return PermissionDenied("Requests from other web sites are refused.", hint="Use Tunesmith's own pages.")
        return None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            problem = self.problem(Headers(scope=scope))
            if "\0" in scope["path"] or b"%00" in scope["query_string"]:
                problem = problem or BadRequest("An address must not hold NUL characters.", hint="Remove %00 from it.")
            if problem and scope["type"] == "http":
                await error_answer(scope["path"], problem)(scope, receive, send)
                return
            if problem:
                await send({"type": "websocket.close", "code": 1008, "reason": "host or origin refused"})
                return
        await self.app(scope, receive, send)


def own_names(settings: Settings) -> list[str]:
    """Names that the settings give this server without listing them as allowed: its public address, and the one that it
    listens on."""
    names = [host_name(settings.public_url.partition("://")[2].rstrip("/"))] if settings.public_url else []
    if settings.host not in ("0.0.0.0", "::"):
        names.append(f"[{settings.host}]" if ":" in settings.host else settings.host.lower())
    return names


def is_loopback(host: str) -> bool:
    """Whether a server that listens there is for its own machine."""
    return host in ("127.0.0.1", "localhost", "::1")


def host_name(host: str) -> str:
    """`localhost` of `localhost:8000`; lower case. Anything odd comes back as it is and will not be on the list."""
    try:
        parts = urlsplit(f"//{host}")
        port = parts.port
    except ValueError:
        return host
    bare = host.removesuffix(f":{port}") if port is not None else host
    return bare.lower()
