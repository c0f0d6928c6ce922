"""Every route and method, asked for by everybody: who is let in stands in docs/permissions.md, and nowhere else."""

from __future__ import annotations

import re
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from tests.accounts.ground import Person, another, person, server_with, team, with_token
from tests.conftest import ServerProcess
from tunesmith.app import create_app
from tunesmith.core.acting import ROLE_SCOPES, Role, Scope
from tunesmith.features.accounts import tokens
from tunesmith.features.accounts.service import IMPLIED
from tunesmith.http.policy import Access, Policy, policies
from tunesmith.settings import Settings

TABLE = Path(__file__).parent.parent.parent / "docs" / "permissions.md"
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "FETCH")
ENDS_THE_LOGIN = ("logout", "logout_everywhere")


def all_policies() -> list[Policy]:
    with tempfile.TemporaryDirectory() as home:
        return policies(create_app(Settings(home=Path(home))))


POLICIES = all_policies()


def method_of(policy: Policy) -> str:
    return next(iter(policy.methods), "WS")


def address(policy: Policy) -> str:
    """With numbers and names of things that do not exist."""
    return re.sub(r"\{(\w+)(:\w+)?\}", lambda part: "987654" if part[1].endswith("_id") else "nothing", policy.path)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    yield from server_with(tmp_path_factory.mktemp("matrix") / "home")


@pytest.fixture(scope="module")
def people(server: ServerProcess) -> dict[str, Person]:
    return team(server)


@pytest.fixture(scope="module")
def credentials(
    server: ServerProcess, people: dict[str, Person]
) -> dict[str, tuple[str | None, frozenset[Scope] | None, bool]]:
    """Name → what is sent, the scopes it has (None: it is not good), and whether a person is behind it."""
    found: dict[str, tuple[str | None, frozenset[Scope] | None, bool]] = {"anonymous": (None, None, False)}
    for name, who in people.items():
        role = Role.MEMBER if name in ("member", "other") else Role(name)
        found[name] = (who.access, ROLE_SCOPES[role], True)
    secret, claims = tokens.load_secret(server.home, None), people["admin"]
    found["expired token"] = (tokens.sign(secret, "access", -1, sub=str(claims.user_id), sid="x"), None, False)
    key_id, revoked = people["admin"].key("admin")
    people["admin"].client.delete(f"/auth/keys/{key_id}")
    found["revoked key"] = (revoked, None, False)
    gone = another(server, people["admin"], "gone")
    people["admin"].client.patch(f"/users/{gone.user_id}", json={"disabled": True})
    found["disabled account"] = (gone.access, None, False)
    for scope in Scope:
        has = frozenset({scope, *IMPLIED.get(scope, set())})
        found[f"key: {scope}"] = (people["admin"].key(scope)[1], has, False)
    found["member's key: read"] = (people["member"].key("read")[1], frozenset({Scope.READ}), False)
    return found


def expected(policy: Policy, scopes: frozenset[Scope] | None, is_person: bool) -> int | None:
    """401, 403, or None for being let in."""
    if policy.needs == Access.PUBLIC:
        return None
    if scopes is None:
        return 401
    if policy.needs == Access.PERSON:
        return None if is_person else 403
    return None if policy.needs == Access.ACCOUNT or policy.needs in scopes else 403


HTTP = httpx.Client(timeout=60)
"""One for all: making a client takes longer than a request."""


def ask(server: ServerProcess, method: str, path: str, token: str | None, **headers: str) -> int:
    sent = {**({"Authorization": f"Bearer {token}"} if token else {}), **headers}
    if method in ("POST", "PUT", "PATCH"):
        sent["Content-Type"] = "application/json"
    content = b"{}" if "Content-Type" in sent else None
    with HTTP.stream(method, server.url + path, headers=sent, content=content) as answer:
        return answer.status_code


def spare(server: ServerProcess, admin: Person, name: str, scopes: frozenset[Scope], is_person: bool) -> str:
    """A login of the same kind that may be ended: the other cells still need theirs."""
    role = next(role for role, has in ROLE_SCOPES.items() if has >= scopes)
    made = another(server, admin, f"spare-{uuid.uuid4().hex[:8]}", role)
    return made.access if is_person else made.key(*scopes)[1]


def test_everybody_gets_what_the_table_says(
    server: ServerProcess,
    people: dict[str, Person],
    credentials: dict[str, tuple[str | None, frozenset[Scope] | None, bool]],
) -> None:
    wrong = []
    for policy in POLICIES:
        if not policy.methods:
            continue
        for name, (token, scopes, is_person) in credentials.items():
            wanted = expected(policy, scopes, is_person)
            if wanted is None and policy.action in ENDS_THE_LOGIN and token:
                token = spare(server, people["admin"], name, scopes or frozenset(), is_person)
            got = ask(server, method_of(policy), address(policy), token)
            refused = (
                got if got in (401, 403) and policy.needs != Access.PUBLIC else 0
            )  # wrong passwords are refused there
            failed = got >= 500 and got != 503  # no provider is set up for single sign-on
            if failed or (wanted or 0) != refused:
                wrong.append(f"{method_of(policy)} {policy.path} as {name}: {got}, not {wanted or 'let in'}")
    assert not wrong, "\n".join(wrong)


def test_what_is_not_declared_is_closed(
    server: ServerProcess, credentials: dict[str, tuple[str | None, frozenset[Scope] | None, bool]]
) -> None:
    """Other methods of every path, and paths that do not exist: 401 for strangers, and never 5xx for anybody."""
    declared = {(method, policy.path) for policy in POLICIES for method in policy.methods}
    token = credentials["member"][0]
    wrong = []
    for path in sorted({policy.path for policy in POLICIES if policy.methods}):
        for method in METHODS:
            if (method, path) in declared:
                continue
            shown = re.sub(r"\{(\w+)(:\w+)?\}", lambda part: "987654" if part[1].endswith("_id") else "nothing", path)
            got = ask(server, method, shown, None), ask(server, method, shown, token)
            # Another route may take it: /models/{name} takes what /models/search does not.
            if (
                (got[0] != 401 and not any(method in p.methods and p.needs == Access.PUBLIC for p in POLICIES))
                or got[1] >= 500
                or (got[0] != 401 and method not in ("GET",))
            ):
                wrong.append(f"{method} {path}: {got}")
    for path in (
        "/api/v1/nothing",
        "/api/v2/jobs/",
        "/.env",
        "/static",
        "/api",
        "//jobs",
        "/jobs/../users",
        "/%2e%2e/etc/passwd",
    ):
        if ask(server, "GET", path, None) != 401:
            wrong.append(f"GET {path}")
    assert not wrong, "\n".join(wrong)


def test_other_sites_are_refused_whoever_sends(server: ServerProcess, people: dict[str, Person]) -> None:
    """Every changing route, with a good token and a foreign origin."""
    token = people["admin"].access
    for policy in POLICIES:
        if policy.methods and not policy.methods <= {"GET"}:
            for origin in ("https://evil.example", "null", f"{server.url}.evil.example", "http://127.0.0.1"):
                assert ask(server, method_of(policy), address(policy), token, Origin=origin) == 403, policy.path


@pytest.mark.parametrize("who", ["anonymous", "expired token", "revoked key", "disabled account"])
def test_web_sockets_are_closed_to_strangers(
    server: ServerProcess, credentials: dict[str, tuple[str | None, frozenset[Scope] | None, bool]], who: str
) -> None:
    url, token = f"ws://127.0.0.1:{server.port}/api/v1/jobs/1/live", credentials[who][0]
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    with pytest.raises(InvalidStatus), connect(url, additional_headers=headers):
        pass
    if token:
        with pytest.raises(InvalidStatus), connect(f"{url}?token={token}&access_token={token}"):
            pass
    good = {"Authorization": f"Bearer {credentials['member'][0]}"}
    with pytest.raises(InvalidStatus), connect(url, additional_headers=good, origin="https://evil.example"):  # type: ignore[arg-type]
        pass
    with connect(url, additional_headers=good) as socket:
        assert _close_code(socket) == 4404


def _close_code(socket: object) -> int:
    from websockets.exceptions import ConnectionClosed

    try:
        socket.recv(timeout=10)  # type: ignore[attr-defined]
    except ConnectionClosed as closed:
        return closed.rcvd.code if closed.rcvd else 0
    return 0


def test_no_route_is_missing_from_the_table() -> None:
    """`python -m tests.permissions` writes it."""
    from tests.permissions import table

    assert TABLE.read_text().endswith(table(POLICIES)), "docs/permissions.md is old: python -m tests.permissions"


def test_a_route_that_says_nothing_does_not_start() -> None:
    from fastapi import FastAPI

    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    app.get("/open-to-all")(lambda: None)
    with pytest.raises(LookupError, match="GET /open-to-all"):
        policies(app)


def test_numbers_of_what_is_not_yours_and_of_what_is_not_there_look_the_same(
    server: ServerProcess, people: dict[str, Person]
) -> None:
    made = people["member"].client.post("/datasets/uploads", json={"name": "a", "size_bytes": 3}).json()["id"]
    eve = people["other"].client
    theirs, none = (
        eve.get(f"/datasets/uploads/{made}"),
        eve.get("/datasets/uploads/00000000-0000-4000-8000-000000000000"),
    )
    assert theirs.status_code == none.status_code == 404
    assert theirs.json() == none.json()


def test_a_session_that_is_used_lasts(server: ServerProcess) -> None:
    """Its last use is noted, at most once a minute."""
    who = person(server, "bob")
    time.sleep(0.1)
    logins = who.client.get("/auth/logins").json()
    assert [login["is_this"] for login in logins].count(True) == 1
    assert with_token(server, who.access).get("/auth/me").json()["via"] == "token"
