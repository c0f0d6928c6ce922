"""Host and Origin on every bind address: exact names only, nothing decided by anything else."""

from __future__ import annotations

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect

from tunesmith.http.guard import HostOriginGuard


def page(_request: object) -> PlainTextResponse:
    return PlainTextResponse("in")


async def socket(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.send_text("in")
    await websocket.close()


client = TestClient(
    HostOriginGuard(
        Starlette(routes=[Route("/", page, methods=["GET", "POST", "DELETE"]), WebSocketRoute("/ws", socket)]),
        allowed_hosts=["tunes.example"],
    )
)

GOOD_HOSTS = ["localhost", "localhost:8000", "127.0.0.1", "127.0.0.1:1", "[::1]:8000", "LOCALHOST:80", "tunes.example"]
BAD_HOSTS = [
    "evil.com", "localhost.evil.com", "evil.localhost", "localhost.", "localhost:8000.evil.com", "127.0.0.1.nip.io",
    "2130706433", "0x7f.1", "0.0.0.0", "0", "127.1", "[::]", "[::ffff:127.0.0.1]", "a/?x=", "x/admin", "localhost/x",
    "user@localhost", "localhost@evil.com", "localhost:x", "localhost:99999", "", " localhost", "localhost#", "tunes.example.evil.com",
]  # fmt: skip


@pytest.mark.parametrize("host", GOOD_HOSTS)
def test_hosts_that_get_in(host: str) -> None:
    assert client.get("/", headers={"host": host}).status_code == 200
    with client.websocket_connect("/ws", headers={"host": host}) as ws:
        assert ws.receive_text() == "in"


@pytest.mark.parametrize("host", BAD_HOSTS)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_hosts_that_do_not(host: str, method: str) -> None:
    answer = client.request(method, "/", headers={"host": host})
    assert answer.status_code == 400 and answer.json()["hint"]
    with pytest.raises(WebSocketDisconnect), client.websocket_connect("/ws", headers={"host": host}):
        pass


@pytest.mark.parametrize(
    "origin",
    ["http://evil.com", "null", "http://localhost:8001", "http://localhost", "http://localhost:8000.evil.com",
     "https://localhost:8000@evil.com", "file://", "localhost:8000", ""],
)  # fmt: skip
def test_origins_that_do_not_get_in(origin: str) -> None:
    headers = {"host": "localhost:8000", "origin": origin}
    assert client.post("/", headers=headers).status_code == 403
    with pytest.raises(WebSocketDisconnect), client.websocket_connect("/ws", headers=headers):
        pass


def test_the_servers_own_pages_get_in() -> None:
    headers = {"host": "localhost:8000", "origin": "http://localhost:8000"}
    assert client.post("/", headers=headers).status_code == 200


def test_two_host_headers_are_refused() -> None:
    answer = client.get("/", headers=[("host", "localhost"), ("host", "evil.com")])
    assert answer.status_code == 400


MORE_HOSTS = [
    "tunes.example:8000", "TUNES.example", "tunes.example.", "xn--localhost.example", "localhost%00", "[::1", "::1", "127.0.0.1 ", "[::1]x",
]  # fmt: skip
HOSTS = [*GOOD_HOSTS, *BAD_HOSTS, *MORE_HOSTS]
ORIGINS = [
    *(f"http://{host}" for host in HOSTS[:28]), "https://localhost", "https://localhost:8000", "http://LOCALHOST:8000", "null", "",
    "http://", "//localhost", "ftp://localhost:8000/x", "http://localhost/", "http://localhost:8000/", "http://[::1]:8000", "data:text/html,x",
]  # fmt: skip


def gets_in(host: str, origin: str) -> bool:
    """As declared: a known host, and an origin that is exactly that host over either scheme."""
    known = host in GOOD_HOSTS or host in ("tunes.example:8000", "TUNES.example")
    return known and origin.lower() in (f"http://{host.lower()}", f"https://{host.lower()}")


def test_every_host_with_every_origin() -> None:
    assert len(HOSTS) >= 40 and len(ORIGINS) >= 40
    wrong = []
    for host in HOSTS:
        for number, origin in enumerate(ORIGINS):
            headers = {"host": host, "origin": origin}
            if (client.post("/", headers=headers).status_code == 200) != gets_in(host, origin):
                wrong.append((host, origin))
            if number % 10:
                continue
            try:
                with client.websocket_connect("/ws", headers=headers) as ws:
                    entered = ws.receive_text() == "in"
            except WebSocketDisconnect:
                entered = False
            if entered != gets_in(host, origin):
                wrong.append((host, origin, "WebSocket"))
    assert not wrong
