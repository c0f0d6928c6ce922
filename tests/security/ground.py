"""What all attacks share: how many of them run, what must not be touched, and requests that no client library would send."""

from __future__ import annotations

import hashlib
import http.client
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

import psutil

from tests.conftest import ServerProcess, kill_processes_of

TIMES = int(os.environ.get("TUNESMITH_SOAK", "1"))
"""A tenth of the attacks; `make soak` sets 10 and runs all of them."""
SECRET = "CANARY-7f3a9c51d2"
Item = TypeVar("Item")


def share(items: Sequence[Item], always: int = 1) -> list[Item]:
    """A tenth of them, evenly chosen and `always` at least; all of them in the soak."""
    wanted = min(len(items), max(always, len(items) * TIMES // 10))
    return [items[place * len(items) // wanted] for place in range(wanted)]


class Outside:
    """Folders beside a home that nobody may read or write: a secret, a place to write, and one whose name begins alike."""

    def __init__(self, home: Path) -> None:
        self.folder, self.sibling, self.home = home.parent / "outside", Path(f"{home}-evil"), home
        for place in (self.folder, self.folder / "writable", self.sibling):
            place.mkdir(parents=True)
        self.secret = self.folder / "secret.txt"
        for place in (self.secret, self.sibling / "secret.txt"):
            place.write_text(SECRET)
        self._before = self._state()

    def _state(self) -> dict[str, str]:
        found = {}
        for root, names, files in os.walk(self.home.parent):
            if Path(root) == self.home.parent:
                names[:] = [name for name in names if name != self.home.name]
            for name in files:
                path = Path(root, name)
                found[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "special"
        return found

    def check_untouched(self) -> None:
        """Nothing outside the home was written, changed or removed."""
        assert self._state() == self._before


_kept = threading.local()
"""The open connections of a thread, by port: thousands of requests need not begin anew each time."""


def raw(port: int, method: str, target: str, body: bytes = b"", **headers: str) -> tuple[int, dict[str, str], bytes]:
    """One request with exactly this target: `(status, headers, body)`. Nothing is normalised."""
    kept: dict[int, http.client.HTTPConnection] = _kept.__dict__.setdefault("connections", {})
    connection = kept.pop(port, None)
    if connection is not None:
        try:
            return _exchange(kept, connection, method, target, body, headers)
        except (http.client.HTTPException, OSError):
            connection.close()  # the server had closed it
    return _exchange(kept, http.client.HTTPConnection("127.0.0.1", port, timeout=60), method, target, body, headers)


def _exchange(
    kept: dict[int, http.client.HTTPConnection], connection: http.client.HTTPConnection, method: str, target: str,
    body: bytes, headers: dict[str, str],
) -> tuple[int, dict[str, str], bytes]:  # fmt: skip
    connection.putrequest(method, target, skip_host="host" in headers, skip_accept_encoding=True)
    for name, value in headers.items():
        connection.putheader(name.replace("_", "-"), value)
    connection.putheader("content-length", str(len(body)))
    connection.endheaders(body)
    answer = connection.getresponse()
    found = answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    if answer.will_close:
        connection.close()
    else:
        kept[connection.port] = connection
    return found


def in_address(text: str) -> list[str]:
    """`text` as part of an address: as it is wherever that can be sent, and with all of it escaped."""
    plain = quote(text, safe="/\\.%:;=~@!$&'()*+,[]{}|^`\"<>", errors="replace")
    return list(dict.fromkeys([plain, quote(text, safe="", errors="replace")]))


@contextmanager
def serving(home: Path, kind: type[ServerProcess] = ServerProcess, **env: str) -> Iterator[ServerProcess]:
    """A server for all tests of a module."""
    server = kind(home, env)
    try:
        yield server.start()
    finally:
        server.stop()
        server.client.close()
        kill_processes_of(home)


class Watch:
    """Asks for something plain again and again while something hostile happens; tells how long that took."""

    def __init__(self, server: ServerProcess) -> None:
        self._server, self._stop, self.took_s = server, threading.Event(), [0.0]
        self.most_child_bytes = 0
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join(60)

    def _run(self) -> None:
        assert self._server.process
        process = psutil.Process(self._server.process.pid)
        while not self._stop.wait(0.03):
            began_s = time.monotonic()
            raw(self._server.port, "GET", "/api/v1/system/health")
            self.took_s.append(time.monotonic() - began_s)
            for child in process.children():
                try:
                    self.most_child_bytes = max(self.most_child_bytes, child.memory_info().rss)
                except psutil.Error:
                    continue

    @property
    def p99_s(self) -> float:
        return sorted(self.took_s)[int(0.99 * (len(self.took_s) - 1))]
