"""S24: what users name as an address leads nowhere inside. Over 120 forms, a name server that changes its mind, redirects of
every kind, floods and silence; then the good way, through a real server. Stems from CVE-2023-48023, CVE-2023-43654,
CVE-2026-24779 and their like.
"""

from __future__ import annotations

import contextlib
import http.server
import itertools
import json
import re
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.conftest import ServerProcess
from tests.services import missing
from tunesmith.core.errors import InvalidInput, TooLarge, TunesmithError, Unavailable
from tunesmith.core.outbound import REDIRECTS, fetch
from tunesmith.features.accounts import oidc
from tunesmith.recipes.evaluate import judge
from tunesmith.recipes.evaluate.spec import Judge
from tunesmith.settings import Settings

SOURCE = Path(__file__).parent.parent.parent / "src" / "tunesmith"
ROWS = b"".join(b'{"question": "what is %d", "answer": "it is %d"}\n' % (n, n) for n in range(40))
PUBLIC = "93.184.215.14"


class Canary:
    """Listens on loopback, on both families; counts who comes."""

    def __init__(self) -> None:
        self.came: list[Any] = []
        self.sockets = [socket.create_server(("127.0.0.1", 0))]
        self.port = self.sockets[0].getsockname()[1]
        with contextlib.suppress(OSError):
            self.sockets.append(socket.create_server(("::1", self.port), family=socket.AF_INET6))
        self.over = threading.Event()
        self.threads = [threading.Thread(target=self._listen, args=(s,)) for s in self.sockets]
        for thread in self.threads:
            thread.start()

    def _listen(self, server: socket.socket) -> None:
        server.settimeout(0.1)
        while not self.over.is_set():
            with contextlib.suppress(TimeoutError):
                connection, peer = server.accept()
                self.came.append(peer)
                connection.close()

    def close(self) -> None:
        self.over.set()
        for thread in self.threads:
            thread.join()
        for server in self.sockets:
            server.close()


@pytest.fixture
def canary() -> Iterator[Canary]:
    made = Canary()
    yield made
    made.close()


class Site(http.server.BaseHTTPRequestHandler):
    """A web server of this machine; the path says what it does."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        self.server.seen.append((self.path, dict(self.headers)))  # type: ignore[attr-defined]
        with contextlib.suppress(OSError):
            self.answer()

    def answer(self) -> None:
        word, _, rest = self.path.lstrip("/").partition("/")
        if word == "redirect":
            code, _, target = rest.partition("/")
            self.told(int(code), b"", Location=self.server.targets[target])  # type: ignore[attr-defined]
        elif word == "loop":
            self.told(302, b"", Location=f"/loop/{int(rest or 0) + 1}")
        elif word == "status":
            self.told(int(rest), b"the secret of the other server")
        elif word == "flood":
            self.send_response(200)
            self.end_headers()
            while True:
                self.wfile.write(b"x" * 65536)
        elif word == "drip":
            self.send_response(200)
            self.end_headers()
            while True:
                self.wfile.write(b"x")
                time.sleep(0.1)
        elif word == "large":
            self.send_response(200)
            self.send_header("Content-Length", str(10**12))
            self.end_headers()
        elif word == "nonsense":
            self.wfile.write(b"the secret of the other server\r\n\r\n")
            self.close_connection = True
        elif word == "short":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"x")
            self.close_connection = True
        else:
            self.told(200, ROWS)

    def told(self, code: int, body: bytes, **headers: str) -> None:
        self.send_response(code)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def site() -> Iterator[Any]:
    server: Any = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site)
    server.daemon_threads = True
    server.seen, server.targets = [], {}
    server.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def get(url: str, **options: Any) -> bytes:
    return b"".join(fetch(url, **{"max_bytes": 10**6, "timeout_s": 10.0, **options}))


def forms(port: int) -> list[str]:
    """Addresses inside, in every writing that some program somewhere understands."""
    hosts = [
        "127.0.0.1",
        "127.0.0.2",
        "127.255.255.254",
        "127.1",
        "127.0.1",
        "2130706433",
        "017700000001",
        "0x7f000001",
        "0x7F.1",
        "0177.0.0.1",
        "0177.1",
        "0x7f.0x0.0x0.0x1",
        "0x7f.0.0.1",
        "127.0.0.01",
        "127.00.0.1",
        "00000177.0.0.1",
        "127.0.0.1.",
        "127.0x1",
        "127.0.0x1",
        "0.0.0.0",
        "0",
        "0x0",
        "00",
        "0.0",
        "localhost",
        "LOCALHOST",
        "LocalHost.",
        "localhost.localdomain",
        "ip6-localhost",
        "127。0。0。1",
        "127．0．0．1",
        "127｡0｡0｡1",
        "１２７.０.０.１",
        "①②⑦.⓪.⓪.①",
        "⑯⑨。②⑤④。⑯⑨｡②⑤④",
        "10.0.0.1",
        "10.255.255.255",
        "172.16.0.1",
        "172.31.255.255",
        "192.168.0.1",
        "192.168.255.255",
        "100.64.0.1",
        "100.100.100.200",
        "100.127.255.255",
        "169.254.169.254",
        "169.254.170.2",
        "169.254.0.1",
        "2852039166",
        "0xa9fea9fe",
        "0251.0376.0251.0376",
        "0xa9.0xfe.0xa9.0xfe",
        "169.254.43518",
        "169.16689662",
        "168.63.129.16",
        "192.0.0.192",
        "192.0.0.1",
        "192.0.2.1",
        "192.88.99.1",
        "198.18.0.1",
        "198.19.255.255",
        "198.51.100.1",
        "203.0.113.1",
        "224.0.0.1",
        "239.255.255.255",
        "240.0.0.1",
        "255.255.255.255",
        "0.0.0.1",
        "0.255.255.255",
        "4294967295",
        "256.0.0.1",
        "127.0.0.1.2",
        "1.2.3",
        "[::1]",
        "[::]",
        "[0:0:0:0:0:0:0:1]",
        "[0000::0001]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::FFFF:127.0.0.1]",
        "[0:0:0:0:0:ffff:7f00:1]",
        "[::127.0.0.1]",
        "[::7f00:1]",
        "[::ffff:0:127.0.0.1]",
        "[::ffff:169.254.169.254]",
        "[::ffff:a9fe:a9fe]",
        "[::ffff:10.0.0.1]",
        "[64:ff9b::127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "[64:ff9b::a9fe:a9fe]",
        "[64:ff9b:1::7f00:1]",
        "[64:ff9b:1:ffff::1]",
        "[64:ff9b::10.0.0.1]",
        "[2002:7f00:1::]",
        "[2002:7f00:0001::1]",
        "[2002:a9fe:a9fe::]",
        "[2002:0a00:0001::]",
        "[2001:0:7f00:1::]",
        "[2001::1]",
        "[2001:db8::1]",
        "[2001:10::1]",
        "[2001:20::1]",
        "[3fff::1]",
        "[fe80::1]",
        "[fe80::1%25lo]",
        "[fe80::1%25eth0]",
        "[fe80::1%lo]",
        "[fec0::1]",
        "[fc00::1]",
        "[fd00::1]",
        "[fd00:ec2::254]",
        "[ff02::1]",
        "[ff0e::1]",
        "[100::1]",
        "[::ffff:0.0.0.0]",
        "[::2]",
        "[5f00::1]",
        "[4000::1]",
        "[fd12:3456:789a::1]",
        "[::1%25lo]",
        "[::1%lo]",
        "[::ffff:127.0.0.1%25lo]",
        "[0:0:0:0:0:0:7f00:1]",
        "[::ffff:0x7f.1]",
        "[::1].",
    ]
    found = [f"http://{host}:{port}/rows.jsonl" for host in hosts]
    found += [f"https://{host}:{port}/" for host in ("127.0.0.1", "[::1]", "localhost", "2130706433")]
    found += [
        form.format(port=port)
        for form in (
            "http://user@127.0.0.1:{port}/", "http://user:password@127.0.0.1:{port}/", "http://@127.0.0.1:{port}/", "http://:@127.0.0.1:{port}/",
            "http://example.org@127.0.0.1:{port}/", "http://127.0.0.1:{port}@example.org/", "http://example.org:80@127.0.0.1:{port}/",
            "http://127.0.0.1:{port}\\@example.org/", "http://example.org\\@127.0.0.1:{port}/", "http://127.0.0.1:{port}#@example.org/",
            "http://127.0.0.1:{port}?@example.org/", "http:\\\\127.0.0.1:{port}/", "http:/127.0.0.1:{port}/", "http:127.0.0.1:{port}/",
            "http:///127.0.0.1:{port}/", "http:////127.0.0.1:{port}/", "//127.0.0.1:{port}/", "127.0.0.1:{port}/", "http://127.0.0.1 :{port}/",
            " http://127.0.0.1:{port}/", "http://127.0.0.1:{port}/ ", "http://127.0.0.1\t:{port}/", "http://127.0.0.1\n:{port}/",
            "http://127.0.0.1\r\nHost: example.org:{port}/", "http://127.0.0.1%00.example.org:{port}/", "http://127.0.0.1%2eexample:{port}/",
            "http://%31%32%37.0.0.1:{port}/", "http://127%2e0%2e0%2e1:{port}/", "http://loc%61lhost:{port}/", "http://127.0.0.1%23@example.org:{port}/",
            "ftp://127.0.0.1:{port}/", "file:///etc/passwd", "file://127.0.0.1/etc/passwd", "gopher://127.0.0.1:{port}/_x", "dict://127.0.0.1:{port}/",
            "unix:///run/x.sock", "http+unix://%2Frun%2Fx.sock/", "data:text/plain,hello", "javascript:1", "ldap://127.0.0.1:{port}/", "ws://127.0.0.1:{port}/",
            "jar:http://127.0.0.1:{port}/!/", "netdoc:///etc/passwd", "HTTP://127.0.0.1:{port}/", "hTTp://LocalHost:{port}/", "http://[::1:{port}/",
            "http://::1:{port}/", "http://127.0.0.1:0/", "http://127.0.0.1:{port}:80/", "http://127.0.0.1:-1/", "http://127.0.0.1:99999/",
            "http://127.0.0.1:８０/", "http://", "http:", "", "http://.", "http://..", "http://-", "http://{{port}}/", "http://*:{port}/", "http://[127.0.0.1]:{port}/",
            "http://[v1.127]:{port}/", "http://127.0.0.1;example.org:{port}/", "http://127.0.0.1,example.org:{port}/", "http://127.0.0.1&x:{port}/",
            "http://127.0.0.1:{port}/" + "x" * 3000,
        )
    ]  # fmt: skip
    return found


def test_no_form_of_an_address_inside_is_connected_to(canary: Canary) -> None:
    every = forms(canary.port)
    assert len(set(every)) >= 120
    for url in every:
        with pytest.raises(TunesmithError) as caught:
            get(url, timeout_s=5)
        told = caught.value
        unknown = isinstance(told, Unavailable) and "is known" in told.message  # a name that no server here knows
        assert isinstance(told, InvalidInput) or unknown, (url, told)
        if isinstance(told, InvalidInput):
            assert told.details[0]["loc"] == "url" and told.hint, url
    time.sleep(0.2)
    assert not canary.came


def test_names_that_lead_inside_are_refused_whatever_else_they_lead_to(
    canary: Canary, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every address of a name counts, not the first alone."""
    inside = ("127.0.0.1", "169.254.169.254", "10.0.0.1", "::1", "::ffff:127.0.0.1", "fe80::1", "64:ff9b::7f00:1")
    for address, first in itertools.product(inside, (True, False)):
        addresses = [address, PUBLIC] if first else [PUBLIC, address]
        answer = [entry(a, canary.port) for a in addresses]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, answer=answer, **__: answer)
        with pytest.raises(InvalidInput):
            get(f"http://rows.example.org:{canary.port}/")
    assert not canary.came


def entry(address: str, port: int) -> tuple[Any, ...]:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    rest = (0, 0) if family == socket.AF_INET6 else ()
    return (family, socket.SOCK_STREAM, 6, "", (address, port, *rest))


def test_a_name_server_that_changes_its_mind_is_asked_once(canary: Canary, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rebinding: public when it is checked, loopback when it is connected to. What is checked is what is connected to."""
    tried: list[Any] = []
    real_connect = socket.socket.connect

    class Watched(socket.socket):
        def connect(self, address: Any) -> None:
            tried.append(address)
            if address[0] == PUBLIC:
                raise ConnectionRefusedError("this test leaves the machine for nobody")
            real_connect(self, address)

    for turn in range(6):
        answers = itertools.cycle([PUBLIC, "127.0.0.1"] if turn % 2 == 0 else ["127.0.0.1", PUBLIC])
        asked: list[str] = []

        def resolve(host: str, port: int, *_: Any, answers: Any = answers, asked: list[str] = asked, **__: Any) -> Any:
            asked.append(host)
            return [entry(next(answers), port)]

        with monkeypatch.context() as patched:
            patched.setattr(socket, "getaddrinfo", resolve)
            patched.setattr(socket, "socket", Watched)
            with pytest.raises((InvalidInput, Unavailable)):
                get(f"http://rebind.example.org:{canary.port}/")
        assert asked == ["rebind.example.org"]
    assert not canary.came and {address[0] for address in tried} == {PUBLIC}


@pytest.mark.parametrize("code", REDIRECTS)
def test_no_redirect_leads_inside(code: int, site: Any, canary: Canary) -> None:
    """From a server that may be fetched from to others on this machine that may not."""
    inside = {
        "loopback": f"http://127.0.0.1:{canary.port}/", "own": f"http://127.0.0.1:{site.server_port}/rows.jsonl", "six": f"http://[::1]:{canary.port}/",
        "mapped": f"http://[::ffff:127.0.0.1]:{canary.port}/", "zero": f"http://0.0.0.0:{canary.port}/", "octal": f"http://0177.0.0.1:{canary.port}/",
        "link": "http://169.254.10.10/", "metadata": "http://169.254.169.254/latest/meta-data/", "private": "http://192.168.1.1/",
        "file": "file:///etc/passwd", "gopher": f"gopher://127.0.0.1:{canary.port}/_x", "user": f"http://a:b@localhost:{canary.port}/",
        "relative": f"//127.0.0.1:{canary.port}/", "backslash": f"http:\\\\127.0.0.1:{canary.port}/", "decimal": f"http://2130706433:{canary.port}/",
    }  # fmt: skip
    site.targets = inside
    for target in inside:
        with pytest.raises(InvalidInput) as caught:
            get(f"http://localhost:{site.server_port}/redirect/{code}/{target}", allowed_private=["localhost"])
        assert caught.value.details[0]["loc"] == "url"
    assert not canary.came and all(path.startswith("/redirect/") for path, _ in site.seen)


@pytest.mark.parametrize("code", REDIRECTS)
def test_a_redirect_that_may_be_followed_is(code: int, site: Any) -> None:
    site.targets = {"rows": "/rows.jsonl", "whole": f"{site.url}/rows.jsonl"}
    for target in site.targets:
        assert get(f"{site.url}/redirect/{code}/{target}", allowed_private=["127.0.0.1"]) == ROWS
    with pytest.raises(InvalidInput, match="more than 5 times"):
        get(f"{site.url}/loop/0", allowed_private=["127.0.0.1"])
    assert sum(path.startswith("/loop") for path, _ in site.seen) == 6


def test_size_and_time_are_limited_while_it_comes(site: Any) -> None:
    allowed = {"allowed_private": ["127.0.0.0/8"]}
    come = 0
    with pytest.raises(TooLarge):
        for piece in fetch(f"{site.url}/flood", max_bytes=300_000, timeout_s=10, **allowed):
            come += len(piece)
    assert come <= 300_000
    with pytest.raises(TooLarge):
        get(f"{site.url}/large", **allowed)
    began_s = time.monotonic()
    with pytest.raises(Unavailable):
        get(f"{site.url}/drip", timeout_s=1.0, **allowed)
    assert time.monotonic() - began_s < 3


def test_a_server_that_accepts_and_says_nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began_s = time.monotonic()
        with pytest.raises(Unavailable):
            get(f"http://127.0.0.1:{silent.getsockname()[1]}/", timeout_s=1.0, allowed_private=["127.0.0.1"])
        assert time.monotonic() - began_s < 3
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: time.sleep(30))
    began_s = time.monotonic()
    with pytest.raises(Unavailable):
        get("http://slow.example.org/", timeout_s=0.5)
    assert time.monotonic() - began_s < 3


def test_nothing_that_the_server_says_is_in_an_error(site: Any) -> None:
    for path in ("status/404", "status/500", "status/401", "status/204", "status/304", "nonsense", "short"):
        with pytest.raises((InvalidInput, Unavailable)) as caught:
            get(f"{site.url}/{path}", allowed_private=["127.0.0.1"])
        assert "secret" not in str(caught.value.body()), path


def test_no_proxy_no_cookie_and_no_credentials_go_out(
    site: Any, canary: Canary, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{canary.port}")
    monkeypatch.setenv("HF_TOKEN", "hf_canary")
    assert get(f"{site.url}/rows.jsonl", allowed_private=["127.0.0.1"]) == ROWS
    (_, headers) = site.seen[-1]
    assert {name.lower() for name in headers} == {"host", "user-agent", "accept", "accept-encoding"}, headers
    assert headers["Host"] == site.url.removeprefix("http://") and "canary" not in str(headers) and not canary.came


def test_what_the_administrator_allows_is_allowed_and_no_more(site: Any) -> None:
    port = site.server_port
    for allowed, url in {
        "127.0.0.1": site.url, "127.0.0.0/8": site.url, "localhost": f"http://localhost:{port}", "LOCALHOST.": f"http://localhost:{port}",
        "127.0.0.0/30": f"http://[::ffff:127.0.0.1]:{port}",
    }.items():  # fmt: skip
        assert get(f"{url}/rows.jsonl", allowed_private=[allowed]) == ROWS, (allowed, url)
    for allowed in ("localhost", "127.0.0.2", "10.0.0.0/8", "", "0.0.0.0/33", "*", "127.0.0.1.example.org"):
        with pytest.raises(InvalidInput):
            get(f"{site.url}/rows.jsonl", allowed_private=[allowed])


def test_a_certificate_is_checked_against_the_name_in_the_address(tmp_path: Path) -> None:
    """The connection goes to a number; who answers must still prove the name."""
    if shutil.which("openssl") is None:
        missing("openssl", "no certificate can be made.")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost", "-keyout", "key.pem",
         "-addext", "subjectAltName=DNS:localhost", "-out", "cert.pem"], cwd=tmp_path, check=True, capture_output=True,
    )  # fmt: skip
    server: Any = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site)
    server.seen, server.targets = [], {}
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        with pytest.MonkeyPatch.context() as patched:
            patched.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
            url = f"https://localhost:{server.server_port}/rows.jsonl"
            assert get(url, allowed_private=["localhost"]) == ROWS
            with pytest.raises(Unavailable, match="prove"):
                get(url.replace("localhost", "127.0.0.1"), allowed_private=["127.0.0.1"])
        with pytest.raises(Unavailable, match="prove"):
            get(url, allowed_private=["localhost"])
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


# -- clients that talk to one place -----------------------------------------------------------------------------------------


def resolver(monkeypatch: pytest.MonkeyPatch, *answers: str) -> list[str]:
    """A name server of the test's own, which says something else each time; the names that it was asked for."""
    said, names = itertools.cycle(answers), list[str]()

    def resolve(host: str, port: int, *_: Any, **__: Any) -> Any:
        names.append(host)
        return [entry(next(said), port)]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    return names


def judge_at(url: str, *, public_only: bool) -> Judge:
    return Judge(base_url=url, model="m", public_only=public_only)


def test_a_judge_that_moves_inside_is_not_asked(canary: Canary, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its name was public when the job was made, and leads to loopback, to the metadata service, or there through IPv6, since."""
    for address in ("127.0.0.1", "::1", "::ffff:127.0.0.1", "169.254.169.254", "0.0.0.0", "64:ff9b::7f00:1"):
        with monkeypatch.context() as patched:
            names = resolver(patched, address)
            with (
                judge._client(judge_at(f"http://judge.example.org:{canary.port}/v1", public_only=True)) as client,
                pytest.raises(InvalidInput),
            ):
                client.post("/chat/completions", json={})
            assert names == ["judge.example.org"]
    time.sleep(0.2)
    assert not canary.came


def test_a_judge_is_connected_to_where_it_was_checked(canary: Canary, monkeypatch: pytest.MonkeyPatch) -> None:
    """Public when it is looked up, loopback a moment later: there is no second look."""
    tried: list[Any] = []

    class Watched(socket.socket):
        def connect(self, address: Any) -> None:
            tried.append(address[0])
            raise ConnectionRefusedError("this test leaves the machine for nobody")

    monkeypatch.setattr(socket, "socket", Watched)
    names = resolver(monkeypatch, PUBLIC, "127.0.0.1")
    with (
        judge._client(judge_at(f"http://judge.example.org:{canary.port}/v1", public_only=True)) as client,
        pytest.raises(Unavailable),
    ):
        client.post("/chat/completions", json={})
    assert names == ["judge.example.org"] and tried == [PUBLIC] and not canary.came


def test_a_judge_that_sends_elsewhere_is_not_followed(site: Any, canary: Canary) -> None:
    site.targets = {"inside": f"http://127.0.0.1:{canary.port}/"}
    with judge._client(judge_at(f"{site.url}/redirect/302", public_only=False)) as client:
        answer = client.get("/inside")
    assert answer.status_code == 302 and not canary.came
    with judge._client(judge_at(site.url, public_only=False)) as client:
        assert client.get("/rows.jsonl").content == ROWS, "who may ask inside gets an answer"


def test_a_provider_names_no_place_inside_but_itself(
    site: Any, canary: Canary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a login service says of its endpoints is checked like any address; its own host is the administrator's word."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    url = f"http://localhost:{site.server_port}"
    settings = Settings(home=tmp_path, auth="on", oidc_issuer=url, oidc_client_id="x")
    door: Any = SimpleNamespace(settings=settings, is_on=True)
    provider = oidc.Provider(door)
    with pytest.raises(Unavailable):
        provider._ask("GET", f"{url}/rows.jsonl")
    assert [path for path, _ in site.seen] == ["/rows.jsonl"], "reached, though what it says is no JSON object"
    for other in (
        f"http://127.0.0.1:{canary.port}/keys",
        "http://169.254.169.254/latest/",
        f"http://[::1]:{canary.port}/",
    ):
        with pytest.raises(Unavailable):
            provider._ask("GET", other)
    assert not canary.came


# -- through a server -----------------------------------------------------------------------------------------------------


def ready(server: ServerProcess, dataset_id: int) -> dict[str, Any]:
    return dict(server.wait_for(f"/datasets/{dataset_id}", lambda d: d["status"] != "processing"))


def test_a_dataset_from_an_address_that_is_allowed(site: Any, start_server: Callable[..., ServerProcess]) -> None:
    server = start_server(TUNESMITH_ALLOWED_ADDRESSES='["127.0.0.1"]', TUNESMITH_MAX_UPLOAD_BYTES="1000000")
    answer = server.client.post("/datasets/from-url", json={"url": f"{site.url}/folder/my%20rows.jsonl?x=1"})
    assert answer.status_code == 201, answer.text
    made = ready(server, answer.json()["id"])
    assert (made["status"], made["num_rows"], made["file_name"], made["name"]) == (
        "ready",
        40,
        "my rows.jsonl",
        "my rows",
    )
    assert server.client.get(f"/datasets/{made['id']}/download").content == ROWS
    named = {"url": f"{site.url}/rows.jsonl", "name": "Ours", "description": "as told"}
    second = server.client.post("/datasets/from-url", json=named).json()
    assert (second["name"], second["description"]) == ("Ours", "as told")

    from tunesmith import Client

    with Client(server.url) as client:
        assert client.datasets.from_url(f"{site.url}/rows.jsonl").num_rows == 40
        with pytest.raises(InvalidInput):
            client.datasets.from_url(f"http://127.0.0.2:{server.port}/api/v1/system/info")

    command = [
        sys.executable,
        "-m",
        "tunesmith",
        "--json",
        "datasets",
        "fetch",
        f"{site.url}/rows.jsonl",
        "--name",
        "By command",
    ]
    done = subprocess.run(command, env={**server.env, "TUNESMITH_URL": server.url}, capture_output=True, text=True)
    assert done.returncode == 0 and json.loads(done.stdout)["name"] == "By command", done.stderr

    for path, status in (("flood", 413), ("large", 413), ("status/404", 422), ("short", 503), ("nonsense", 503)):
        answer = server.client.post("/datasets/from-url", json={"url": f"{site.url}/{path}"})
        assert answer.status_code == status and answer.json()["hint"], (path, answer.text)
        assert "secret" not in answer.text
    assert not list((server.home / "uploads").iterdir()), "nothing is left of what was not kept"


def test_by_default_nothing_inside_is_fetched(site: Any, sqlite_server: ServerProcess) -> None:
    for url in (
        f"{site.url}/rows.jsonl",
        sqlite_server.url,
        "http://169.254.169.254/latest/",
        "file:///etc/passwd",
        "x",
    ):
        answer = sqlite_server.client.post("/datasets/from-url", json={"url": url})
        told = answer.json()
        assert answer.status_code == 422 and told["error"] == "invalid_input", (url, told)
        assert told["details"][0]["loc"] == "url" and told["hint"]
    assert not site.seen and sqlite_server.client.get("/datasets/").json()["total"] == 0


def test_the_server_answers_others_while_it_fetches(site: Any, start_server: Callable[..., ServerProcess]) -> None:
    server = start_server(TUNESMITH_ALLOWED_ADDRESSES='["127.0.0.1"]')
    with contextlib.ExitStack() as sockets:
        for _ in range(4):  # as many as are fetched at the same time; a client that goes away is noticed
            connection = sockets.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            body = b'{"url": "%s/drip"}' % site.url.encode()
            connection.sendall(
                b"POST /api/v1/datasets/from-url HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
            )
        deadline_s = time.monotonic() + 10
        while sum(path == "/drip" for path, _ in site.seen) < 4:
            assert time.monotonic() < deadline_s, site.seen
            time.sleep(0.05)
        began_s = time.monotonic()
        assert server.client.put("/datasets/upload", params={"file_name": "a.jsonl"}, content=ROWS).status_code == 201
        assert server.client.post("/datasets/from-url", json={"url": f"{site.url}/rows.jsonl"}).status_code == 429
        assert time.monotonic() - began_s < 5
    deadline_s = time.monotonic() + 15
    while (
        answer := server.client.post("/datasets/from-url", json={"url": f"{site.url}/rows.jsonl"})
    ).status_code == 429:
        assert time.monotonic() < deadline_s, "clients that are gone are not noticed"
        time.sleep(0.2)
    assert answer.status_code == 201


# -- nobody goes another way -----------------------------------------------------------------------------------------------

OWN_WAYS = {
    "core/outbound.py": "the one way to addresses that users give",
    "sdk/connection.py": "from a user's machine to the server",
    "sdk/stream.py": "the same, as it comes",
    "features/chat/api.py": "to the server's own serving processes",
    "features/catalog/starter.py": "to the hub that is configured",
    "features/catalog/hub.py": "to the hub that is configured",
    "features/accounts/oidc.py": "to the provider that the administrator has configured, by the checked transport",
    "features/accounts/mail.py": "to the mail server that the administrator has configured",
    "features/catalog/asking.py": "to the hub that is configured",
    "features/catalog/fetching.py": "to the hub that is configured, and where it says that its files are",
    "features/deployments/targets/huggingface.py": "to the hub that is configured",
    "features/deployments/targets/building.py": "nowhere: it looks for files that are here already",
    "features/deployments/targets/cloud_files.py": "nowhere: it writes scripts for their reader's own machine",
    "recipes/compress/making.py": "to the hub that is configured",
    "features/deployments/running.py": "to the server's own serving processes",
    "features/deployments/gateway.py": "to the server's own serving processes",
    "features/deployments/targets/ollama.py": "to the Ollama that the administrator has configured",
    "serving/llama_cpp.py": "to its own server",
    "serving/vllm.py": "to its own child",
    "recipes/evaluate/judge.py": "to a judge, by the checked transport",
}
"""Files that may open HTTP connections, and to whom: none of them to an address from a request, but the first."""
CLIENTS = re.compile(
    r"^\s*(import|from)\s+(requests|urllib3|aiohttp|httpcore|urllib\.request|http\.client|pycurl)\b"
    r"|\burlopen\(|\burlretrieve\(|\bhttpx\.(get|post|put|patch|delete|head|options|request|stream|Client|AsyncClient)\("
    r"|\bcreate_connection\(|\bopen_connection\(|\bfsspec\b|^\s*(import|from)\s+(smtplib|ftplib|telnetlib|paramiko|boto3)\b"
    r"|(?<!def )\b(HfApi|hf_hub_download|snapshot_download|http_get|get_session)\("
)


def test_there_is_no_other_way_out() -> None:
    found = {
        f"{path.relative_to(SOURCE)}:{number}: {line.strip()}"
        for path in SOURCE.rglob("*.py")
        if str(path.relative_to(SOURCE)) not in OWN_WAYS
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if CLIENTS.search(line)
    }
    assert not found, "use tunesmith.core.outbound"
