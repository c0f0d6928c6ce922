"""Logging in through another service, over real sockets, and mail that really arrives."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm

from tests.accounts.ground import PASSWORD, another, first, log_in, with_token
from tests.conftest import ServerProcess, free_port

Start = Callable[..., ServerProcess]


class Provider:
    """A small OpenID Connect provider, who lets in whom `person` says."""

    def __init__(self) -> None:
        self.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.person: dict[str, Any] = {
            "sub": "17",
            "preferred_username": "Grace H.",
            "email": "grace@example.org",
            "email_verified": True,
        }
        self.change: Callable[[dict[str, Any]], str | None] = lambda _claims: None
        self.codes: dict[str, dict[str, str]] = {}
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.issuer = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None: ...

            def _json(self, body: dict[str, Any]) -> None:
                self.send_response(200)
                self.end_headers()
                self.wfile.write(json.dumps(body).encode())

            def do_GET(self) -> None:
                at = urlsplit(self.path)
                if at.path == "/authorize":
                    query = {name: values[0] for name, values in parse_qs(at.query).items()}
                    provider.codes["c1"] = query
                    self.send_response(303)
                    self.send_header("Location", f"{query['redirect_uri']}?code=c1&state={query['state']}")
                    self.end_headers()
                elif at.path == "/keys":
                    public = json.loads(RSAAlgorithm.to_jwk(provider.key.public_key()))
                    self._json({"keys": [{**public, "kid": "k1", "use": "sig", "alg": "RS256"}]})
                else:
                    issuer = provider.issuer
                    self._json(
                        {
                            "issuer": issuer,
                            "authorization_endpoint": f"{issuer}/authorize",
                            "token_endpoint": f"{issuer}/token",
                            "jwks_uri": f"{issuer}/keys",
                        }
                    )

            def do_POST(self) -> None:
                import base64
                import hashlib

                sent = {
                    n: v[0] for n, v in parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode()).items()
                }
                asked = provider.codes.pop(sent["code"])
                challenge = (
                    base64.urlsafe_b64encode(hashlib.sha256(sent["code_verifier"].encode()).digest())
                    .rstrip(b"=")
                    .decode()
                )
                assert challenge == asked["code_challenge"] and sent["redirect_uri"] == asked["redirect_uri"]
                assert self.headers["Authorization"] == "Basic " + base64.b64encode(b"tunesmith:s3cret").decode()
                now = int(time.time())
                claims = {
                    "iss": provider.issuer,
                    "aud": "tunesmith",
                    "iat": now,
                    "exp": now + 60,
                    "nonce": asked["nonce"],
                    **provider.person,
                }
                token = provider.change(claims) or jwt.encode(claims, provider.key, "RS256", headers={"kid": "k1"})
                self._json({"id_token": token, "access_token": "x", "token_type": "Bearer"})

        return Handler


@pytest.fixture
def provider() -> Iterator[Provider]:
    made = Provider()
    yield made
    made.server.shutdown()


def server_for(start_server: Start, provider: Provider, **env: str) -> ServerProcess:
    return start_server(
        TUNESMITH_AUTH="on", TUNESMITH_OIDC_ISSUER=provider.issuer, TUNESMITH_OIDC_CLIENT_ID="tunesmith",
        TUNESMITH_OIDC_CLIENT_SECRET="s3cret", TUNESMITH_OIDC_NAME="the observatory", **env,
    )  # fmt: skip


def through(
    server: ServerProcess, provider: Provider, next_path: str = "/jobs", browser: httpx.Client | None = None
) -> httpx.Response:
    """What a browser does: there, and back again."""
    browser = browser or httpx.Client(base_url=server.url)
    begun = browser.get("/login/oidc", params={"next": next_path})
    assert begun.status_code == 303 and begun.headers["location"].startswith(provider.issuer), begun.text
    back = httpx.get(begun.headers["location"]).headers["location"]
    # The settings name port 8000 unless told: what matters is the path and what is asked.
    return browser.get(back.replace(urlsplit(back).netloc, urlsplit(server.url).netloc))


def test_people_of_another_service_get_in_and_keep_their_account(start_server: Start, provider: Provider) -> None:
    server = server_for(start_server, provider, TUNESMITH_REGISTRATION="open")
    assert with_token(server, None).get("/auth/options").json()["oidc"] == "the observatory"
    first(server)
    browser = httpx.Client(base_url=server.url)
    done = through(server, provider, browser=browser)
    assert done.status_code == 303 and done.headers["location"] == "/jobs"
    me = browser.get("/api/v1/auth/me").json()
    assert me["username"] == "Grace-H" and me["role"] == "member" and me["user"]["email"] == "grace@example.org"
    provider.person["preferred_username"] = "another name"
    again = httpx.Client(base_url=server.url)
    through(server, provider, browser=again)
    assert again.get("/api/v1/auth/me").json()["user"]["id"] == me["user"]["id"]
    assert through(server, provider, next_path="//evil.example").headers["location"] == "/"


def test_nobody_gets_an_account_that_was_not_given(start_server: Start, provider: Provider) -> None:
    server = server_for(start_server, provider)
    ada = first(server)
    assert through(server, provider).status_code == 403
    provider.person["email"] = "ada@example.org"
    assert through(server, provider).status_code == 403, "the same address alone gives nobody an account"
    browser = httpx.Client(base_url=server.url)
    entered = browser.post("/login", data={"username": "ada", "password": PASSWORD, "next": "/"})
    assert entered.status_code == 303
    assert through(server, provider, browser=browser).status_code == 303, "connected by who has logged in"
    later = httpx.Client(base_url=server.url)
    through(server, provider, browser=later)
    assert later.get("/api/v1/auth/me").json()["user"]["id"] == ada.user_id


LIES: list[Callable[[dict[str, Any]], Any]] = [
    lambda claims: jwt.encode(claims | {"nonce": "other"}, "x" * 32, "HS256", headers={"kid": "k1"}),
    lambda claims: jwt.encode(claims, None, "none"),
    lambda claims: claims.update(nonce="other"),
    lambda claims: claims.update(aud="somebody-else"),
    lambda claims: claims.update(iss="http://elsewhere.example"),
    lambda claims: claims.update(exp=1),
    lambda claims: claims.pop("sub") and None,
    lambda claims: jwt.encode(
        claims, rsa.generate_private_key(public_exponent=65537, key_size=2048), "RS256", headers={"kid": "k1"}
    ),
    lambda claims: "not.a.token",
]


def test_what_the_provider_has_not_signed_lets_nobody_in(start_server: Start, provider: Provider) -> None:
    server = server_for(start_server, provider, TUNESMITH_REGISTRATION="open")
    first(server)
    for number, lie in enumerate(LIES):
        provider.change = lie
        assert through(server, provider).status_code == 401, number


def test_an_answer_to_another_browsers_login_is_refused(start_server: Start, provider: Provider) -> None:
    server = server_for(start_server, provider, TUNESMITH_REGISTRATION="open")
    first(server)
    theirs = httpx.Client(base_url=server.url)
    begun = theirs.get("/login/oidc", params={"next": "/"})
    back = httpx.get(begun.headers["location"]).headers["location"]
    path = back.partition(urlsplit(back).netloc)[2]
    assert httpx.get(server.url + path).status_code == 401, "no login was begun there"
    mine = httpx.Client(base_url=server.url)
    mine.get("/login/oidc", params={"next": "/"})
    assert mine.get(path).status_code == 401, "another one was"


def test_links_come_by_mail(start_server: Start) -> None:
    from aiosmtpd.controller import Controller

    letters: list[Any] = []

    class Box:
        async def handle_DATA(self, _server: object, _session: object, envelope: Any) -> str:
            letters.append(envelope)
            return "250 OK"

    port = free_port()
    controller = Controller(Box(), hostname="127.0.0.1", port=port)
    controller.start()
    try:
        server = start_server(
            TUNESMITH_AUTH="on", TUNESMITH_SMTP_URL=f"smtp://127.0.0.1:{port}", TUNESMITH_MAIL_FROM="forge@example.org"
        )
        ada = first(server)
        bob = another(server, ada, "bob")
        made = ada.client.post("/invitations/", json={"email": "new@example.org"}).json()
        assert made["sent"] is True
        nobody = with_token(server, None)
        known, unknown = (
            nobody.post("/auth/forgot-password", json={"username": name}) for name in ("bob@example.org", "nobody")
        )
        assert known.status_code == unknown.status_code == 202 and known.text == unknown.text
        deadline = time.monotonic() + 20
        while len(letters) < 2 and time.monotonic() < deadline:
            time.sleep(0.1)
        texts = {
            letter.rcpt_tos[0]: letter.content.decode().replace("=\r\n", "").replace("=3D", "=") for letter in letters
        }
        assert set(texts) == {"new@example.org", "bob@example.org"}
        assert made["link"] in texts["new@example.org"]
        found = re.search(r"#token=(\S+)", texts["bob@example.org"])
        assert found
        reset = nobody.post("/auth/reset-password", json={"token": found[1], "password": "plums and rye bread"})
        assert reset.status_code == 204 and bob.client.get("/auth/me").status_code == 401
        assert log_in(server, "bob", "plums and rye bread")
    finally:
        controller.stop()
