"""Who has connected: the address of a request's sender, whether it came by TLS, and whether it comes from this machine.

A proxy in between says in headers for whom it asks. Anybody can write such headers, so they are believed from the proxies
of `TUNESMITH_TRUSTED_PROXIES` alone, read from the right: the last entry that no trusted proxy has written is the client.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from tunesmith.http.guard import LOOPBACK, host_name

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

IS_LOCAL = "tunesmith.is_local"
"""Key of the ASGI scope: whether somebody at this machine asks, with nothing in between."""
FORWARDING = frozenset(
    [
        "forwarded",
        "forwarded-for",
        "via",
        "x-real-ip",
        "x-client-ip",
        "x-cluster-client-ip",
        "client-ip",
        "true-client-ip",
        "cf-connecting-ip",
        "cf-connecting-ipv6",
        "cf-ray",
        "cdn-loop",
        "fastly-client-ip",
        "fly-client-ip",
        "x-azure-clientip",
        "x-azure-socketip",
        "x-appengine-user-ip",
        "x-envoy-external-address",
        "x-original-host",
        "x-original-url",
        "x-proxyuser-ip",
        "x-request-start",
    ]
)
"""Headers that only something in between writes; besides those that begin with `x-forwarded` or `x-original-forwarded`."""


class ClientAddress:
    """ASGI layer: puts the sender's address and the scheme into the scope, and whether the sender is local."""

    def __init__(self, app: ASGIApp, trusted: Sequence[Network] = (), *, may_be_local: bool = True) -> None:
        """`may_be_local`: False where the settings say already that others come here too."""
        self.app, self.trusted, self.may_be_local = app, trusted, may_be_local

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            headers = Headers(scope=scope)
            peer = as_address((scope.get("client") or ("",))[0])
            scope[IS_LOCAL] = self.may_be_local and self._is_local(peer, headers, scope.get("http_version", ""))
            if peer is not None:
                scope["client"] = (str(self._sender(peer, headers)), (scope.get("client") or ("", 0))[1])
            if self._is_trusted(peer) and (scheme := _told_scheme(headers)):
                is_secure = scheme == "https"
                plain, secure = ("ws", "wss") if scope["type"] == "websocket" else ("http", "https")
                scope["scheme"] = secure if is_secure else plain
        await self.app(scope, receive, send)

    def _is_trusted(self, address: Address | None) -> bool:
        return address is not None and any(
            address.version == network.version and address in network for network in self.trusted
        )

    def _sender(self, peer: Address, headers: Headers) -> Address:
        """From the right, the first address that is no trusted proxy's. What cannot be read ends the search: the proxy that
        has passed it on is as far as is known."""
        hops = [hop for line in headers.getlist("x-forwarded-for") for hop in line.split(",")]
        known = peer
        while hops and self._is_trusted(known):
            said = as_address(hops.pop().strip())
            if said is None:
                break
            known = said
        return known

    def _is_local(self, peer: Address | None, headers: Headers, http_version: str) -> bool:
        """By the connection, and by what a request through a proxy has and one from a browser here has not: a header that
        says so, another host name, or a version of HTTP that only proxies still speak."""
        if peer is None or not peer.is_loopback or self._is_trusted(peer) or http_version == "1.0":
            return False
        if host_name(headers.get("host", "")) not in LOOPBACK:
            return False
        return not any(
            name in FORWARDING or name.startswith(("x-forwarded", "x-original-forwarded")) for name in headers
        )


def as_address(text: str) -> Address | None:
    """An address as a proxy writes it, with or without a port; an IPv4 address within IPv6 as the former. None for what is
    none."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    with contextlib.suppress(ValueError):
        address = ip_address(text)
        if isinstance(address, IPv6Address):
            return None if address.scope_id else address.ipv4_mapped or address
        return address
    return None


def _told_scheme(headers: Headers) -> str:
    """What the nearest proxy says; empty when it says nothing that can be used."""
    lines: Iterable[str] = headers.getlist("x-forwarded-proto")
    told = [part.strip().lower() for line in lines for part in line.split(",")]
    return told[-1] if told and told[-1] in ("http", "https") else ""
