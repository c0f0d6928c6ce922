"""The one way to addresses that users give: each is looked up once, every address that comes back is checked, and the
connection is made to the checked address itself, so that no name server can change it in between.

Nothing inside the company is reached (loopback, private and link-local networks, a cloud's metadata) unless an administrator
has named it in `TUNESMITH_ALLOWED_ADDRESSES`. No proxies, cookies or credentials; redirects are followed by hand, each
with the same check; size and time are limited while the bytes come. What a server says is never part of an error.

`fetch` gets a file; `CheckedTransport` is for clients that talk to one place, such as a judge's endpoint.
"""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import Any

import httpcore
import httpx

from tunesmith.core.errors import InvalidInput, TooLarge, Unavailable
from tunesmith.core.version import VERSION

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

MAX_REDIRECTS = 5
MAX_URL_CHARS = 2048
SILENCE_S = 30.0
"""Longest wait for a connection, and for the next bytes."""
CHUNK_BYTES = 64 * 1024
REDIRECTS = (301, 302, 303, 307, 308)
HEADERS = [("User-Agent", f"tunesmith/{VERSION}"), ("Accept", "*/*"), ("Accept-Encoding", "identity")]

REFUSED_V4 = [
    IPv4Network(text)
    for text in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
        "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24",
        "224.0.0.0/4", "240.0.0.0/4",
        "168.63.129.16/32",  # a cloud's own service for its machines, under a public number
    )
]  # fmt: skip
"""The IANA registry of special-purpose addresses: none of them is a server on the internet."""
PUBLIC_V6 = IPv6Network("2000::/3")
REFUSED_V6 = [IPv6Network(text) for text in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")]
"""Within the public part: tunnels that carry an IPv4 address (Teredo, 6to4), documentation, other special purposes."""
CARRIES_V4 = [IPv6Network(text) for text in ("::ffff:0:0/96", "::/96", "64:ff9b::/96")]
"""Mapped, compatible and translated addresses: what counts is the IPv4 address in the last 32 bits."""


def fetch(url: str, *, max_bytes: int, timeout_s: float, allowed_private: Sequence[str] = ()) -> Iterator[bytes]:
    """The file at `url`, in pieces as they come. `allowed_private`: host names or networks that may be inside.

    Raises `InvalidInput` (with `url` as the place) for an address that may not be fetched from or holds no file, `TooLarge`,
    and `Unavailable` when nobody answers or it takes longer than `timeout_s`.
    """
    deadline = Deadline(timeout_s)
    place = checked_url(url)
    for _ in range(MAX_REDIRECTS + 1):
        backend = _CheckedBackend(allowed_private, deadline)
        with (
            httpcore.ConnectionPool(ssl_context=ssl.create_default_context(), network_backend=backend) as pool,
            _told(place),
            pool.stream("GET", _as_read(place), headers=[("Host", place.netloc.decode()), *HEADERS]) as answer,
        ):
            if answer.status not in REDIRECTS:
                yield from _body(answer, place, max_bytes)
                return
            place = _next_place(place, answer)
    raise refused(f"{place.host} sends elsewhere more than {MAX_REDIRECTS} times.")


def checked_url(url: str) -> httpx.URL:
    """Raises `InvalidInput` for all but plain addresses of the web: what programs read in different ways is refused."""
    if len(url) > MAX_URL_CHARS or any(ord(c) <= 32 or c in '\\"<>^`{|}' or ord(c) == 127 for c in url):
        raise refused("This is no address of the web: it has blanks, backslashes or the like, or is too long.")
    try:
        place = httpx.URL(url)
        port = place.port
    except (httpx.InvalidURL, ValueError):
        raise refused("This is no address of the web.") from None
    if place.scheme not in ("http", "https") or not place.host:
        raise refused("Only addresses that begin with http:// or https:// can be fetched.")
    if place.userinfo or re.search(r"//[^/?#]*@", url):
        raise refused("An address must not hold a name or password.")
    if port not in (None, *range(1, 65536)) or not _is_plain_host(place.raw_host.decode("ascii")):
        raise refused(f"{place.host[:100]!r} is not a host name, nor an IP address as it is usually written.")
    return place.copy_with(fragment=None)


def _is_plain_host(host: str) -> bool:
    """Whether a host is a name, or an address in its one usual form: not decimal, octal, hexadecimal, short, or scoped."""
    last = host.rstrip(".").rpartition(".")[2]
    if ":" in host or last.isdigit() or last.lower().startswith("0x"):
        with contextlib.suppress(ValueError):
            address = ip_address(host)
            return address.version == 4 or address.scope_id is None
        return False
    return all(c.isalnum() or c in "-._" for c in host)


def why_refused(address: Address, allowed: Iterable[Network] = ()) -> str:
    """Why no connection is made there; empty when it may be."""
    if any(address.version == network.version and address in network for network in allowed):
        return ""
    if isinstance(address, IPv6Address) and any(address in network for network in CARRIES_V4):
        return why_refused(IPv4Address(int(address) & 0xFFFFFFFF), allowed)
    if isinstance(address, IPv4Address):
        return "is not on the internet" if any(address in network for network in REFUSED_V4) else ""
    public = address.scope_id is None and address in PUBLIC_V6 and not any(address in network for network in REFUSED_V6)
    return "" if public else "is not on the internet"


def refused(message: str) -> InvalidInput:
    return InvalidInput(
        message,
        hint="Give a public address. For a server inside the company the administrator sets TUNESMITH_ALLOWED_ADDRESSES.",
        details=[{"loc": "url", "message": message}],
    )


class Deadline:
    """A point in time by which all must be done."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s, self._at_s = timeout_s, time.monotonic() + timeout_s

    def left_s(self) -> float:
        """How long the next wait may be, seconds. Raises `Unavailable` once the time is over."""
        left_s = self._at_s - time.monotonic()
        if left_s <= 0:
            raise Unavailable(
                f"The file did not come within {self._timeout_s:g} s.", hint="Download it yourself and upload it."
            )
        return min(left_s, SILENCE_S)


class Patience(Deadline):
    """No point in time: each wait alone has an end."""

    def left_s(self) -> float:
        return self._timeout_s


class CheckedTransport(httpx.BaseTransport):
    """For an `httpx.Client`: whatever name it asks, each connection is made to an address that was checked a moment before.
    Raises, as `fetch` does, errors of this program in place of httpx's."""

    def __init__(self, allowed_private: Sequence[str], timeout_s: float) -> None:
        """`allowed_private`: host names or networks that may be inside; `EVERYWHERE` leaves only the checks of the address's
        form. `timeout_s`: longest wait for a connection, and for the next bytes."""
        backend = _CheckedBackend(allowed_private, Patience(timeout_s))
        self._pool = httpcore.ConnectionPool(ssl_context=httpx.create_ssl_context(), network_backend=backend)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        asked = request  # ours, not one that has come to the server
        place = checked_url(str(asked.url))
        assert isinstance(asked.stream, httpx.SyncByteStream)
        with _told(place):
            answer = self._pool.handle_request(
                httpcore.Request(
                    asked.method, _as_read(place), headers=asked.headers.raw, content=asked.stream,
                    extensions=asked.extensions,
                )
            )  # fmt: skip
            return httpx.Response(answer.status, headers=answer.headers, stream=_Come(answer, place))

    def close(self) -> None:
        self._pool.close()


class _Come(httpx.SyncByteStream):
    """The body of an answer, as it comes."""

    def __init__(self, answer: httpcore.Response, place: httpx.URL) -> None:
        self._answer, self._place = answer, place

    def __iter__(self) -> Iterator[bytes]:
        with _told(self._place):
            yield from self._answer.iter_stream()

    def close(self) -> None:
        self._answer.close()


EVERYWHERE = ("0.0.0.0/0", "::/0")
"""All networks, for whoever may ask inside as well."""


def _next_place(place: httpx.URL, answer: httpcore.Response) -> httpx.URL:
    """Where a redirect leads, checked like the first address."""
    target = _headers(answer).get(b"location", b"")
    try:
        return checked_url(str(place.join(target.decode("ascii"))))
    except (httpx.InvalidURL, UnicodeDecodeError, ValueError):
        raise refused(f"{place.host} sends to something that is no address of the web.") from None


def _as_read(place: httpx.URL) -> httpcore.URL:
    """In parts: what was checked is not read a second time by another reader."""
    return httpcore.URL(scheme=place.raw_scheme, host=place.raw_host, port=place.port, target=place.raw_path)


def _headers(answer: httpcore.Response) -> dict[bytes, bytes]:
    return {name.lower(): value for name, value in answer.headers}


def _body(answer: httpcore.Response, place: httpx.URL, max_bytes: int) -> Iterator[bytes]:
    if answer.status != 200:
        raise refused(f"{place.host} answers {answer.status}: there is no file at this address for us.")
    too_large = TooLarge(f"The file is larger than {max_bytes} bytes.", hint="Split it, or raise the server's limit.")
    told = _headers(answer).get(b"content-length", b"")
    if told.isdigit() and int(told) > max_bytes:
        raise too_large
    come = 0
    for piece in answer.iter_stream():
        come += len(piece)
        if come > max_bytes:
            raise too_large
        yield piece


@contextlib.contextmanager
def _told(place: httpx.URL) -> Iterator[None]:
    """What went wrong on the way, in words that hold nothing of what the server said."""
    try:
        yield
    except ssl.SSLError:
        raise Unavailable(
            f"{place.host} cannot prove who it is.", hint="Check the address, or download the file yourself."
        ) from None
    except (OSError, httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError) as error:
        kind = "took too long" if isinstance(error, TimeoutError) else "did not answer, or broke off"
        raise Unavailable(f"{place.host} {kind}.", hint="Check the address and try again later.") from None


class _CheckedBackend(httpcore.NetworkBackend):
    """Looks a host up once, checks what comes back, and connects to exactly that."""

    def __init__(self, allowed: Sequence[str], deadline: Deadline) -> None:
        self._names = {text.lower().rstrip(".") for text in allowed}
        self._networks = list(_networks(allowed))
        self._deadline = deadline

    def connect_tcp(
        self, host: str, port: int, timeout: float | None = None, local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:  # fmt: skip
        """Raises `InvalidInput` when any address of the host is one that may not be reached."""
        addresses = look_up(host, port, self._deadline)
        if host.lower().rstrip(".") not in self._names:
            for address in addresses:
                if why := why_refused(address, self._networks):
                    raise refused(f"{host} cannot be fetched from: its address {why}.")
        problem: OSError = OSError("no address")
        for address in addresses:
            try:
                return _Stream(_connected(address, port, self._deadline), self._deadline)
            except OSError as error:
                problem = error
        raise problem


def _networks(allowed: Iterable[str]) -> Iterator[Network]:
    for text in allowed:
        with contextlib.suppress(ValueError):
            yield ip_network(text, strict=False)


def look_up(host: str, port: int, deadline: Deadline) -> list[Address]:
    """Every address of a host, in the order of preference. The system's own resolver knows no time limit: it is left behind."""
    found: list[Any] = []

    def ask() -> None:
        try:
            found.append(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:
            found.append(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(deadline.left_s())
    if not found or isinstance(found[0], Exception):
        raise Unavailable(f"No server by the name {host} is known.", hint="Check the address and the network.")
    return list(dict.fromkeys(ip_address(entry[4][0]) for entry in found[0]))


def _connected(address: Address, port: int, deadline: Deadline) -> socket.socket:
    """To this very address: numbers are not looked up again."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    with contextlib.ExitStack() as opened:
        connection = opened.enter_context(socket.socket(family, socket.SOCK_STREAM))
        connection.settimeout(deadline.left_s())
        connection.connect((str(address), port))
        opened.pop_all()  # it is the caller's now
        return connection


class _Stream(httpcore.NetworkStream):
    """One connection. Every wait ends with the deadline."""

    def __init__(self, connection: socket.socket, deadline: Deadline) -> None:
        self._connection, self._deadline = connection, deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        self._connection.settimeout(self._deadline.left_s())
        return self._connection.recv(min(max_bytes, CHUNK_BYTES))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._connection.settimeout(self._deadline.left_s())
        self._connection.sendall(buffer)

    def close(self) -> None:
        self._connection.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        self._connection.settimeout(self._deadline.left_s())
        return _Stream(ssl_context.wrap_socket(self._connection, server_hostname=server_hostname), self._deadline)

    def get_extra_info(self, info: str) -> Any:
        """httpcore asks whether a kept connection is readable, and for TLS which protocol was agreed on."""
        return {"ssl_object": self._connection if isinstance(self._connection, ssl.SSLSocket) else None}.get(info)
