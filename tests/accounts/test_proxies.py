"""Where a request comes from: proxies that are believed and those that are not, and who counts as sitting at this machine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from tests.accounts.ground import PASSWORD
from tests.conftest import ServerProcess, lay_database
from tunesmith.app import create_app
from tunesmith.cli.serve import check_host
from tunesmith.core.errors import InvalidInput
from tunesmith.http.client_address import IS_LOCAL, ClientAddress
from tunesmith.settings import Settings

Make = Callable[..., TestClient]
BODY = {"username": "mallory", "email": "m@example.org", "password": PASSWORD}


def seen(peer: str, trusted: str = "", version: str = "1.1", kind: str = "http", **headers: str) -> dict[str, Any]:
    """What the application is told of a request."""
    told: dict[str, Any] = {}

    async def app(scope: Any, _receive: Any, _send: Any) -> None:
        told.update(scope)

    named = {"host": "localhost:8000"} | {name.replace("_", "-"): value for name, value in headers.items()}
    raw = [(n.encode(), line.encode()) for n, value in named.items() for line in value.split("|")]
    scope = {"type": kind, "client": (peer, 7), "scheme": kind, "headers": raw, "http_version": version}
    layer = ClientAddress(app, [ip_network(text) for text in trusted.split()])
    asyncio.run(layer(scope, None, None))  # type: ignore[arg-type]
    return told


@pytest.mark.parametrize(("peer", "trusted", "said", "address"), [
    ("127.0.0.1", "", "203.0.113.9", "127.0.0.1"),
    ("10.0.0.2", "127.0.0.1", "203.0.113.9", "10.0.0.2"),
    ("127.0.0.1", "127.0.0.1", "203.0.113.9", "203.0.113.9"),
    ("127.0.0.1", "127.0.0.1", "1.1.1.1, 203.0.113.9", "203.0.113.9"),
    ("127.0.0.1", "127.0.0.1", "1.1.1.1|203.0.113.9", "203.0.113.9"),
    ("127.0.0.1", "127.0.0.1 10.0.0.0/8", "1.1.1.1, 203.0.113.9, 10.9.9.9", "203.0.113.9"),
    ("127.0.0.1", "127.0.0.1 10.0.0.0/8", "10.1.1.1, 10.9.9.9", "10.1.1.1"),
    ("127.0.0.1", "127.0.0.1", "203.0.113.9, nonsense", "127.0.0.1"),
    ("127.0.0.1", "127.0.0.1 10.0.0.0/8", "203.0.113.9, , 10.9.9.9", "10.9.9.9"),
    ("127.0.0.1", "127.0.0.1", "", "127.0.0.1"),
    ("127.0.0.1", "127.0.0.1", "203.0.113.9:4711", "203.0.113.9"),
    ("::1", "::1", "[2001:db8::7]:4711", "2001:db8::7"),
    ("::1", "::1", "2001:DB8::7", "2001:db8::7"),
    ("::ffff:127.0.0.1", "127.0.0.1", "::ffff:203.0.113.9", "203.0.113.9"),
    ("127.0.0.1", "127.0.0.1", "fe80::1%eth0", "127.0.0.1"),
    ("127.0.0.1", "127.0.0.1", "203.0.113.9\x1b[31m", "127.0.0.1"),
])  # fmt: skip
def test_the_last_hop_that_is_not_trusted_is_who_asks(peer: str, trusted: str, said: str, address: str) -> None:
    assert seen(peer, trusted, x_forwarded_for=said)["client"] == (address, 7)


def test_only_a_trusted_proxy_says_how_it_was_reached() -> None:
    assert seen("127.0.0.1", x_forwarded_proto="https")["scheme"] == "http"
    assert seen("127.0.0.1", "127.0.0.1", x_forwarded_proto="http, https")["scheme"] == "https"
    assert seen("127.0.0.1", "127.0.0.1", x_forwarded_proto="javascript")["scheme"] == "http"
    assert seen("127.0.0.1", "127.0.0.1", kind="websocket", x_forwarded_proto="https")["scheme"] == "wss"
    other = seen("127.0.0.1", "127.0.0.1", forwarded="for=203.0.113.9", x_real_ip="203.0.113.9")
    assert other["client"][0] == "127.0.0.1", "one header is read, so that no two of them can differ"


SIGNS = {
    "forwarded": "for=203.0.113.9", "x-forwarded-for": "127.0.0.1", "x-forwarded-host": "localhost", "x-forwarded-proto": "http",
    "x-forwarded-port": "80", "x-forwarded": "for=::1", "x-real-ip": "127.0.0.1", "via": "1.1 proxy", "cf-connecting-ip": "::1",
    "true-client-ip": "127.0.0.1", "x-client-ip": "127.0.0.1", "x-original-forwarded-for": "127.0.0.1", "cdn-loop": "x",
}  # fmt: skip


def test_local_is_who_comes_from_this_machine_with_nothing_in_between() -> None:
    for peer in ("127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"):
        assert seen(peer)[IS_LOCAL], peer
    for peer in ("203.0.113.9", "10.0.0.1", "172.17.0.1", "", "testclient"):
        assert not seen(peer)[IS_LOCAL], peer
    for name, value in SIGNS.items():
        assert not seen("127.0.0.1", **{name: value})[IS_LOCAL], name
        assert not seen("127.0.0.1", "127.0.0.1", **{name: value})[IS_LOCAL], name
    assert not seen("127.0.0.1", "127.0.0.1")[IS_LOCAL], "a proxy on this machine is not its user"
    assert not seen("127.0.0.1", version="1.0")[IS_LOCAL], "as nginx asks when it is not told otherwise"
    assert not seen("127.0.0.1", host="tunes.example.org")[IS_LOCAL]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """A server in this process; what it is reached from is given with each client."""
    with ExitStack() as running:

        def made(**settings: Any) -> TestClient:
            home = tmp_path / f"h{len(list(tmp_path.iterdir()))}"
            lay_database(home)
            app = create_app(Settings(home=home, cpu_slots=0, **settings))
            return running.enter_context(reached(app, "127.0.0.1"))

        yield made


def reached(app: Any, peer: str) -> TestClient:
    return TestClient(app, client=(peer, 1), base_url="http://localhost", follow_redirects=False)


def test_a_stranger_behind_a_proxy_does_not_become_the_administrator(make: Make) -> None:
    """For each way in which a proxy shows itself, by the API and by the page; then somebody at the machine does."""
    here = make(auth="on", allowed_hosts=["tunes.example.org"])
    app: Any = here.app
    ways: list[dict[str, str]] = [{"x-forwarded-for": "203.0.113.9"}, {"via": "1.1 x"}, {"host": "tunes.example.org"}]
    for headers in ways:
        answer = here.post("/api/v1/auth/register", json=BODY, headers=headers)
        assert answer.status_code == 403 and "printed" in answer.json()["hint"], headers
        shown = here.get("/register", headers=headers)
        assert "needs the link that the server printed" in shown.text and "Invitation code" in shown.text
        form = here.post("/register", data=BODY, headers=headers)
        assert form.status_code == 403 and "__Host" not in form.headers.get("set-cookie", "") and not form.cookies
    assert reached(app, "203.0.113.9").post("/api/v1/auth/register", json=BODY).status_code == 403
    assert here.get("/api/v1/auth/options").json()["has_users"] is False
    assert "first account, so it becomes" in here.get("/register").text
    assert here.post("/api/v1/auth/register", json=BODY).status_code == 201


def test_with_a_public_address_nobody_is_local(make: Make) -> None:
    here = make(auth="on", public_url="https://tunes.example.org")
    for headers in ({}, {"host": "tunes.example.org"}):
        assert here.post("/api/v1/auth/register", json=BODY, headers=headers).status_code == 403
    link = here.app.state.doorkeeper.first_link()  # type: ignore[attr-defined]
    body = BODY | {"invitation": link.partition("#invitation=")[2]}
    assert here.post("/api/v1/auth/register", json=body, headers={"host": "tunes.example.org"}).status_code == 201


def test_without_accounts_only_this_machine_is_answered(make: Make, tmp_path: Path) -> None:
    here = make()
    assert here.get("/api/v1/jobs/").status_code == 200
    through = {"x-forwarded-for": "203.0.113.9"}
    for path in ("/api/v1/jobs/", "/api/v1/system/settings", "/v1/models"):
        answer = here.get(path, headers=through)
        assert answer.status_code == 403 and "TUNESMITH_AUTH=on" in answer.text, path
    assert here.post("/api/v1/jobs/", json={}, headers=through).status_code == 403
    shown = here.get("/", headers={**through, "accept": "text/html"})
    assert shown.status_code == 403 and "TUNESMITH_AUTH=on" in shown.text
    with (
        pytest.raises(WebSocketDisconnect) as closed,
        here.websocket_connect("/api/v1/system/live", headers={**through, "host": "localhost"}) as live,
    ):
        live.receive_json()
    assert closed.value.code == 4403
    with pytest.raises(InvalidInput, match="others can reach"):
        check_host(Settings(home=tmp_path, public_url="https://tunes.example.org"))


def test_a_forged_address_is_nowhere_believed(start_server: Callable[..., ServerProcess]) -> None:
    """On a real server, with a proxy's headers from this machine: not for logins, keys or the audit log."""
    server = start_server(TUNESMITH_AUTH="on")
    assert httpx.post(f"{server.url}/api/v1/auth/register", json=BODY, headers=SIGNS, timeout=60).status_code == 403
    assert httpx.post(f"{server.url}/api/v1/auth/register", json=BODY, timeout=60).status_code == 201
    forged = {"X-Forwarded-For": "203.0.113.9", "X-Real-IP": "203.0.113.9", "X-Forwarded-Proto": "https"}
    body = {"username": "mallory", "password": PASSWORD}
    tokens = httpx.post(f"{server.url}/api/v1/auth/login", json=body, headers=forged, timeout=60).json()
    mine = httpx.Client(timeout=60, headers={"Authorization": f"Bearer {tokens['access_token']}", **forged})
    assert {login["address"] for login in mine.get(f"{server.url}/api/v1/auth/logins").json()} == {"127.0.0.1"}
    assert {entry["address"] for entry in mine.get(f"{server.url}/api/v1/audit/").json()["items"]} == {"127.0.0.1"}


def test_a_trusted_proxy_is_believed_everywhere(make: Make) -> None:
    app: Any = make(auth="on", trusted_proxies=["10.0.0.0/8"], allowed_hosts=["tunes.example.org"]).app
    link = app.state.doorkeeper.first_link()
    proxy = reached(app, "10.0.0.2")
    proxy.headers.update({"host": "tunes.example.org", "x-forwarded-for": "6.6.6.6, 203.0.113.9"})
    body = BODY | {"invitation": link.partition("#invitation=")[2]}
    assert proxy.post("/api/v1/auth/register", json=body).status_code == 201
    answer = proxy.post("/api/v1/auth/login", json={"username": "mallory", "password": PASSWORD})
    proxy.headers["authorization"] = f"Bearer {answer.json()['access_token']}"
    assert proxy.get("/api/v1/auth/logins").json()[0]["address"] == "203.0.113.9"
    assert {entry["address"] for entry in proxy.get("/api/v1/audit/").json()["items"]} == {"203.0.113.9"}
