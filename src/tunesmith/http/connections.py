"""What a connection may cost: so many at once, in all and from one address, and so long for each part of a request.

uvicorn has a limit for idle connections alone. Here, who sends half a head or half a body, or takes nothing of an answer, is
sent away; a body that moves, a stream that is silent and a WebSocket that answers pings may go on for as long as they like.
One look over all connections, about once a second, instead of timers for each.
"""

from __future__ import annotations

import asyncio
import fcntl
import ipaddress
import json
import logging
import struct
import termios
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Protocol

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.utils import get_remote_addr
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from tunesmith.core.errors import TooMany, TooSlow, TunesmithError, Unavailable

log = logging.getLogger(__name__)

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

SLOWEST = 100
"""Bytes a second that a body, or the reader of an answer, must at least make."""
LINGER_S = 0.5
"""How long one that was refused may take to read why."""
MAX_LINGERING = 100
MAX_UNREAD_BYTES = 1024**2
"""Of answers to pings that a WebSocket does not read."""
TELL_EVERY_S = 60.0


@dataclass(frozen=True)
class Limits:
    """See `Settings` for what each is."""

    head_s: float
    body_s: float
    send_s: float
    num: int
    num_per_address: int
    trusted: Sequence[Network] = ()
    """Proxies, from which many people come as one address."""


class Connection(Protocol):
    """What the look over all connections asks of one."""

    transport: asyncio.Transport

    def look(self, now_s: float) -> None:
        """End it when it is late."""


@dataclass
class Connections:
    """All of a server. Lives in its event loop."""

    limits: Limits
    _open: dict[asyncio.Transport, Connection] = field(default_factory=dict)
    _places: dict[asyncio.Transport, str] = field(default_factory=dict)
    _of: Counter[str] = field(default_factory=Counter)
    _timer: asyncio.TimerHandle | None = None
    _lingering: int = 0
    _refused: int = 0
    _told_s: float = -TELL_EVERY_S

    def admit(self, connection: Connection) -> TunesmithError | None:
        """Why it may not stay, or None."""
        address = _place(connection.transport)
        exempt = any(ipaddress.ip_address(address.partition("/")[0]) in net for net in self.limits.trusted if address)
        if len(self._open) >= self.limits.num:
            return Unavailable("The server has as many connections as it takes.", hint="Try again in a moment.")
        if not exempt and self._of[address] >= self.limits.num_per_address:
            return TooMany("Too many connections from your address.", hint="Close some, then try again.")
        self._of[address] += 1
        self._open[connection.transport], self._places[connection.transport] = connection, address
        if self._timer is None:
            self._look()
        return None

    def take_over(self, connection: Connection) -> None:
        """A WebSocket goes on with the connection that its handshake came over."""
        self._open[connection.transport] = connection

    def leave(self, transport: asyncio.Transport) -> None:
        if self._open.pop(transport, None) is not None:
            address = self._places.pop(transport)  # it cannot be asked for any more
            self._of[address] -= 1
            if self._of[address] <= 0:
                del self._of[address]

    def refuse(self, transport: asyncio.Transport, error: TunesmithError) -> None:
        """Say why and end it; the log says it once a minute."""
        self._refused += 1
        if time.monotonic() - self._told_s > TELL_EVERY_S:
            self._told_s = time.monotonic()
            log.warning("a connection is refused: %s (refused so far: %s)", error.message, self._refused)
        if self._lingering >= MAX_LINGERING:
            transport.abort()
            return
        self._lingering += 1
        transport.write(raw_answer(error))
        transport.write_eof()
        asyncio.get_running_loop().call_later(LINGER_S, self._end, transport)

    def _end(self, transport: asyncio.Transport) -> None:
        self._lingering -= 1
        transport.abort()

    def _look(self) -> None:
        now_s = time.monotonic()
        for connection in list(self._open.values()):
            connection.look(now_s)
        rest_s = min(1.0, self.limits.head_s / 4, self.limits.body_s / 4, self.limits.send_s / 4)
        self._timer = asyncio.get_running_loop().call_later(rest_s, self._look) if self._open else None


def raw_answer(error: TunesmithError) -> bytes:
    """A whole answer, after which the connection ends."""
    body = json.dumps(error.body()).encode()
    again = "Retry-After: 5\r\n" if error.status in (429, 503) else ""
    head = f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}\r\nContent-Type: application/json\r\n{again}"
    return f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body


def _place(transport: asyncio.Transport) -> str:
    """What is counted as one address: of IPv6 the network of one household, with its size."""
    told = get_remote_addr(transport)
    if told is None:
        return ""
    address = ipaddress.ip_address(told[0].partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    if mapped is not None or isinstance(address, ipaddress.IPv4Address):
        return str(mapped or address)
    return f"{ipaddress.ip_network((address, 64), strict=False).network_address}/64"


@dataclass
class Sending:
    """Whether the reader of an answer takes it."""

    since_s: float = field(default_factory=time.monotonic)
    left: int = 0
    taken: int = 0

    def is_stuck(self, transport: asyncio.Transport, now_s: float, limit_s: float) -> bool:
        """True when next to nothing has been taken for so long of what waits to be sent."""
        waits = transport.get_write_buffer_size()
        left = waits + _in_kernel(transport) if waits else 0
        self.taken += max(0, self.left - left)
        self.left = left
        if not waits or self.taken >= SLOWEST * limit_s:
            self.since_s, self.taken = now_s, 0
        return now_s - self.since_s > limit_s


def _in_kernel(transport: asyncio.Transport) -> int:
    """Bytes that the other side has not acknowledged."""
    try:
        descriptor = transport.get_extra_info("socket").fileno()
        return int(struct.unpack("i", fcntl.ioctl(descriptor, termios.TIOCOUTQ, b"\0" * 4))[0])
    except OSError:
        return 0


class HttpConnection(H11Protocol):
    """uvicorn's, with limits."""

    def __init__(self, connections: Connections, **made: Any) -> None:
        super().__init__(**made)
        self._all, self._sending = connections, Sending()
        self._head_since_s: float | None = time.monotonic()
        """Since when the head of a request is awaited; None between requests and within them."""
        self._body_since_s, self._body_bytes = time.monotonic(), 0
        self._is_refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if error := self._all.admit(self):
            self._is_refused = True
            self._all.refuse(transport, error)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._all.leave(self.transport)

    def data_received(self, data: bytes) -> None:
        if self._is_refused or self.transport.is_closing():
            return
        if self.conn.their_state is h11.IDLE and self._head_since_s is None:
            self._head_since_s = time.monotonic()
        self._body_bytes += len(data)
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._head_since_s = None

    def look(self, now_s: float) -> None:
        limits = self._all.limits
        if self._sending.is_stuck(self.transport, now_s, limits.send_s):
            self.transport.abort()
        elif self.transport.is_closing():
            return
        elif self.conn.their_state is h11.IDLE:
            has_begun = bool(self.conn.trailing_data[0])
            if self._head_since_s is None and has_begun:  # behind the request before
                self._head_since_s = now_s
            if self._head_since_s is not None and now_s - self._head_since_s > limits.head_s:
                self._end("The head of the request did not arrive in time.", tell=has_begun)
        if self._is_body_awaited():
            if now_s - self._body_since_s > limits.body_s:
                if self._body_bytes < SLOWEST * limits.body_s:
                    self._end("The body of the request did not go on arriving.", tell=True)
                self._body_since_s, self._body_bytes = now_s, 0
        else:
            self._body_since_s, self._body_bytes = now_s, 0

    def _is_body_awaited(self) -> bool:
        """Whether it is the sender that the request waits for."""
        is_ours = self.flow.read_paused or (self.cycle is not None and self.cycle.waiting_for_100_continue)
        return self.conn.their_state is h11.SEND_BODY and not is_ours

    def _end(self, why: str, *, tell: bool) -> None:
        """The application is told that the sender has gone."""
        is_begun = False
        if self.cycle is not None and not self.cycle.response_complete:
            is_begun = self.cycle.response_started
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if tell and not is_begun and self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.write(raw_answer(TooSlow(why, hint="Send it again, without long pauses.")))
        self.transport.close()


class WebSocketConnection(WebSocketsSansIOProtocol):
    """uvicorn's, which pings the other side and ends without an answer; counted with the rest."""

    def __init__(self, connections: Connections, **made: Any) -> None:
        super().__init__(**made)
        self._all, self._sending = connections, Sending()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._all.take_over(self)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._all.leave(self.transport)

    def data_received(self, data: bytes) -> None:
        if self.transport.get_write_buffer_size() > MAX_UNREAD_BYTES:
            self.transport.abort()
            return
        super().data_received(data)

    def look(self, now_s: float) -> None:
        if self._sending.is_stuck(self.transport, now_s, self._all.limits.send_s):
            self.transport.abort()
