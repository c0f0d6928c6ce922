"""Accounts, passwords, tokens and keys, as programs use them, on both databases."""

from __future__ import annotations

import base64
import json
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import jwt
import pytest

from tests.accounts.ground import PASSWORD, another, first, log_in, person, with_token
from tests.cli.command import tunesmith
from tests.conftest import ServerProcess
from tunesmith.cli.serve import check_host
from tunesmith.core.errors import InvalidInput
from tunesmith.settings import Settings

Start = Callable[..., ServerProcess]
pytestmark = pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")


@pytest.fixture
def server(start_server: Start, database_url: str | None) -> ServerProcess:
    return start_server(TUNESMITH_AUTH="on", **({"TUNESMITH_DATABASE_URL": database_url} if database_url else {}))


@pytest.fixture
def alone(start_server: Start) -> ServerProcess:
    """On SQLite only."""
    return start_server(TUNESMITH_AUTH="on")


def test_the_first_account_is_the_administrators_and_others_need_an_invitation(server: ServerProcess) -> None:
    nobody = with_token(server, None)
    assert nobody.get("/jobs/").status_code == 401
    assert nobody.get("/auth/options").json()["has_users"] is False
    ada = first(server)
    assert ada.client.get("/auth/me").json()["role"] == "admin"
    body = {"username": "bob", "email": "bob@example.org", "password": PASSWORD}
    refused = nobody.post("/auth/register", json=body)
    assert refused.status_code == 403 and "invitation" in refused.json()["message"]

    link = ada.client.post("/invitations/", json={"role": "viewer"}).json()["link"]
    body["invitation"] = link.partition("#invitation=")[2]
    assert nobody.post("/auth/register", json=body).status_code == 201
    again = nobody.post("/auth/register", json=body | {"username": "carl", "email": "carl@example.org"})
    assert again.status_code == 403, "an invitation works once"
    assert person(server, "bob").client.get("/auth/me").json()["role"] == "viewer"
    assert log_in(server, "BOB@example.org")["token_type"] == "bearer", "by address, in either case"


NO_ACCOUNTS: list[tuple[dict[str, object], str]] = [
    ({"password": "short"}, "password"),
    ({"password": "password1"}, "password"),
    ({"password": "aaaaaaaa"}, "password"),
    ({"password": "grace hopper", "username": "grace hopper"}, "username"),
    ({"username": "../etc"}, "username"),
    ({"email": "nobody"}, "email"),
    ({"role": "admin"}, "role"),
    ({"id": 7}, "id"),
]


def test_what_cannot_be_an_account_is_told(alone: ServerProcess) -> None:
    """Too short, too common, bad names, and fields that nobody may set for themselves."""
    for change, loc in NO_ACCOUNTS:
        body = {"username": "grace", "email": "grace@example.org", "password": PASSWORD} | change
        answer = with_token(alone, None).post("/auth/register", json=body)
        assert answer.status_code == 422, change
        assert [detail["loc"] for detail in answer.json()["details"]] == [loc]
        assert PASSWORD not in answer.text and str(change.get("password", "no such text")) not in answer.text


def test_names_and_addresses_are_taken_once_whatever_their_case(server: ServerProcess) -> None:
    ada = first(server)
    for body in ({"username": "ADA"}, {"username": "other", "email": "Ada@Example.org"}):
        answer = ada.client.post("/users/", json=body)
        assert answer.status_code == 409 and answer.json()["details"][0]["message"] == "taken"


def test_a_refresh_token_works_once_and_a_second_use_ends_the_login(server: ServerProcess) -> None:
    first(server)
    tokens = log_in(server, "ada")
    nobody = with_token(server, None)
    renewed = nobody.post("/auth/refresh", json={"refresh_token": tokens["refresh_token"]})
    assert renewed.status_code == 200
    newest = with_token(server, renewed.json()["access_token"])
    assert newest.get("/auth/me").status_code == 200
    stolen = nobody.post("/auth/refresh", json={"refresh_token": tokens["refresh_token"]})
    assert stolen.status_code == 401 and "used before" in stolen.json()["message"]
    assert newest.get("/auth/me").status_code == 401, "the thief and the owner are both out"
    assert nobody.post("/auth/refresh", json={"refresh_token": renewed.json()["refresh_token"]}).status_code == 401


def test_logging_out_and_new_passwords_end_what_went_before_at_once(server: ServerProcess) -> None:
    ada = first(server)
    second = person(server, "ada")
    assert len(ada.client.get("/auth/logins").json()) == 2
    assert second.client.post("/auth/logout").status_code == 204
    assert second.client.get("/auth/me").status_code == 401
    assert ada.client.get("/auth/me").status_code == 200

    wrong = ada.client.post("/auth/password", json={"current_password": "not this", "password": "plums and rye bread"})
    assert wrong.status_code == 422 and wrong.json()["details"][0]["loc"] == "current_password"
    good = ada.client.post("/auth/password", json={"current_password": PASSWORD, "password": "plums and rye bread"})
    assert good.status_code == 204
    assert ada.client.get("/auth/me").status_code == 401
    assert (
        with_token(server, None).post("/auth/login", json={"username": "ada", "password": PASSWORD}).status_code == 401
    )
    again = with_token(server, log_in(server, "ada", "plums and rye bread")["access_token"])
    assert again.post("/auth/logout-everywhere").status_code == 204
    assert again.get("/auth/me").status_code == 401


def test_a_password_link_works_once(server: ServerProcess) -> None:
    ada = first(server)
    bob = another(server, ada, "bob")
    link = ada.client.post(f"/users/{bob.user_id}/password-link").json()["link"]
    token = link.partition("#token=")[2]
    nobody = with_token(server, None)
    short = nobody.post("/auth/reset-password", json={"token": token, "password": "no"})
    assert short.status_code == 422, "and the link is not used up by a password that cannot be used"
    done = nobody.post("/auth/reset-password", json={"token": token, "password": "plums and rye bread"})
    assert done.status_code == 204
    assert bob.client.get("/auth/me").status_code == 401
    assert log_in(server, "bob", "plums and rye bread")
    assert nobody.post("/auth/reset-password", json={"token": token, "password": "another one here"}).status_code == 403


def test_a_disabled_account_is_out_within_a_second(server: ServerProcess) -> None:
    ada = first(server)
    bob = another(server, ada, "bob")
    _, key = bob.key("read")
    keyed = with_token(server, key)
    assert keyed.get("/jobs/").status_code == 200
    assert ada.client.patch(f"/users/{bob.user_id}", json={"disabled": True}).status_code == 200
    assert [bob.client.get("/jobs/").status_code, keyed.get("/jobs/").status_code] == [401, 401]
    only = ada.client.patch(f"/users/{ada.user_id}", json={"role": "member"})
    assert only.status_code == 409 and "only administrator" in only.json()["message"]
    assert ada.client.delete(f"/users/{ada.user_id}").status_code == 409


def test_keys_are_shown_once_scoped_and_revoked(server: ServerProcess) -> None:
    ada = first(server)
    bob = another(server, ada, "bob")
    too_much = bob.client.post("/auth/keys", json={"name": "x", "scopes": ["admin"]})
    assert too_much.status_code == 403 and "scope" in too_much.json()["message"]
    key_id, key = bob.key("read", name="reader")
    listed = bob.client.get("/auth/keys").json()
    assert listed[0]["prefix"] == key[:14] and key not in json.dumps(listed)
    keyed = with_token(server, key)
    assert keyed.get("/datasets/").status_code == 200
    refused = keyed.put("/datasets/upload", params={"file_name": "a.jsonl"}, content=b"{}")
    assert refused.status_code == 403 and "'train'" in refused.json()["message"]
    assert keyed.get("/auth/keys").status_code == 403, "a key makes and lists no keys"
    assert keyed.post("/auth/password", json={"current_password": "x", "password": "y"}).status_code == 403
    assert bob.client.get("/auth/keys").json()[0]["last_used_from"] == "127.0.0.1"
    assert ada.client.delete(f"/auth/keys/{key_id}").status_code == 404, "not hers"
    assert bob.client.delete(f"/auth/keys/{key_id}").status_code == 204
    assert keyed.get("/datasets/").status_code == 401
    _, second = bob.key("train")
    assert with_token(server, second).post("/auth/logout").status_code == 204, "a key can end itself"
    assert with_token(server, second).get("/jobs/").status_code == 401


def test_unknown_names_take_as_long_as_wrong_passwords(alone: ServerProcess) -> None:
    first(alone)
    nobody = with_token(alone, None)

    def took_s(name: str) -> float:
        began = time.perf_counter()
        answer = nobody.post("/auth/login", json={"username": name, "password": "not the password"})
        assert answer.status_code == 401 and "wrong" in answer.json()["message"]
        return time.perf_counter() - began

    known, unknown = [], []
    for number in range(5):
        known.append(took_s("ada"))
        unknown.append(took_s(f"nobody{number}"))
    assert 0.4 < statistics.median(known) / statistics.median(unknown) < 2.5


def forged(server: ServerProcess, access: str) -> list[str]:
    """Tokens that nobody has signed, or that were signed for something else."""
    body = jwt.decode(access, options={"verify_signature": False})
    raw = lambda header, claims: ".".join(  # noqa: E731
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in (header, claims)
    )
    head, claims, signature = access.split(".")
    late, admin = body | {"exp": int(time.time()) + 10**6}, body | {"sub": "1"}
    found = [
        raw({"typ": "at+jwt", "alg": alg}, late) + f".{tail}"
        for alg in ("none", "None", "NONE", "nOnE", "")
        for tail in ("", signature)
    ]
    keys: list[str | bytes] = [
        "",
        "secret",
        "tunesmith",
        "at+jwt",
        signature,
        "a" * 32,
        (server.home / "secret.key").read_text(),
    ]
    for key in keys:
        for algorithm in ("HS256", "HS384", "HS512"):
            found.append(jwt.encode(late, key or "x" * 32, algorithm, headers={"typ": "at+jwt"}))
    for extra in (
        {"jku": "http://127.0.0.1/k"},
        {"kid": "../../secret.key"},
        {"crit": ["exp"]},
        {"jwk": {"kty": "oct", "k": ""}},
        {"x5u": "http://127.0.0.1/"},
        {"b64": False},
        {"zip": "DEF"},
        {"cty": "JWT"},
    ):
        found.append(raw({"typ": "at+jwt", "alg": "HS256", **extra}, late) + f".{signature}")
    found += [
        raw({"typ": "at+jwt", "alg": "HS256"}, claim) + f".{signature}"
        for claim in (
            late,
            admin,
            body | {"iss": "other"},
            body | {"aud": "other"},
            body | {"aud": ["access", "x"]},
            body | {"iat": -1},
            {key: value for key, value in body.items() if key != "exp"},
            body | {"exp": 10**30},
            body | {"exp": "never"},
            {},
            [],
            "x",
        )
    ]
    found += [
        head + "." + claims,
        head + "." + claims + ".",
        claims,
        access + "A",
        access[:-2],
        f"{access}.{access}",
        "a.b.c",
        "..",
        ".",
        "eyJ" * 2000,
        access.replace(".", ","),
        access.upper(),
        "tsk_",
        "tsk_0000000000_",
        "tsk_" + "0" * 60,
    ]
    found += [
        jwt.encode(body | {"enc": "x"}, "k" * 32, "HS256", headers={"typ": typ})
        for typ in ("JWT", "rt+jwt", "st+jwt", "oidc+jwt")
    ]
    return [token for token in found if token]


def test_no_forged_token_is_let_in(alone: ServerProcess) -> None:
    ada = first(alone)
    tokens = forged(alone, ada.access)
    assert len(set(tokens)) >= 60
    for token in [*tokens, ada.refresh]:
        answer = httpx.get(f"{alone.url}/api/v1/jobs/", headers={"Authorization": f"Bearer {token}"})
        assert answer.status_code == 401, token
    assert (
        httpx.get(f"{alone.url}/api/v1/jobs/", params={"token": ada.access, "access_token": ada.access}).status_code
        == 401
    )
    assert httpx.get(f"{alone.url}/api/v1/jobs/", headers={"Authorization": f"Basic {ada.access}"}).status_code == 401


def test_an_access_token_runs_out(start_server: Start) -> None:
    server = start_server(TUNESMITH_AUTH="on", TUNESMITH_ACCESS_TOKEN_S="30")
    ada = first(server)
    claims = jwt.decode(ada.access, options={"verify_signature": False})
    assert claims["exp"] - claims["iat"] == 30
    from tunesmith.features.accounts import tokens

    secret = tokens.load_secret(server.home, None)
    old = tokens.sign(secret, "access", -5, sub=claims["sub"], sid=claims["sid"])
    answer = with_token(server, old).get("/jobs/")
    assert answer.status_code == 401 and "expired" in answer.json()["message"]
    good = tokens.sign(secret, "access", 5, sub=claims["sub"], sid=claims["sid"])
    assert with_token(server, good).get("/jobs/").status_code == 200, "so it was the time that was wrong with it"


def test_secrets_lie_hashed_and_for_the_owner_alone(alone: ServerProcess) -> None:
    ada = first(alone)
    _, key = ada.key("read")
    link = ada.client.post("/invitations/", json={}).json()["link"].partition("=")[2]
    assert ((alone.home / "secret.key").stat().st_mode & 0o777) == 0o600
    stored = b"".join(path.read_bytes() for path in alone.home.rglob("*") if path.is_file())
    for secret in (PASSWORD, key, key[14:], ada.access, ada.refresh, link):
        assert secret.encode() not in stored, "neither in the database nor in any log"
    assert re.search(rb"\$argon2id\$", stored)
    assert json.dumps(ada.client.get("/audit/").json()).count(PASSWORD) == 0


def test_without_accounts_a_wider_address_is_refused(tmp_path: Path) -> None:
    done = tunesmith(tmp_path, "up", "--host", "0.0.0.0")
    assert done.returncode == 2 and "TUNESMITH_AUTH=on" in done.stderr
    for host in ("::", "192.0.2.1", "example.org"):
        with pytest.raises(InvalidInput, match="without accounts") as refused:
            check_host(Settings(home=tmp_path, host=host))
        assert "TUNESMITH_AUTH=on" in refused.value.hint


def test_one_name_is_given_once_however_many_ask_for_it(server: ServerProcess) -> None:
    from concurrent.futures import ThreadPoolExecutor

    ada = first(server)

    def make(number: int) -> int:
        name = "grace" if number % 2 else "GRACE"
        return ada.client.post("/users/", json={"username": name, "email": f"g{number}@example.org"}).status_code

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(make, range(16))) == [201, *[409] * 15]


NOT_THEIRS: list[tuple[str, str, dict[str, object]]] = [
    ("PATCH", "/auth/me", {"role": "admin"}),
    ("PATCH", "/auth/me", {"quota_jobs": 99}),
    ("PATCH", "/auth/me", {"username": "root"}),
    ("POST", "/auth/keys", {"name": "k", "scopes": ["read"], "user_id": 1}),
    ("POST", "/datasets/uploads", {"name": "a", "size_bytes": 1, "owner_id": 1}),
    ("POST", "/jobs/", {"model": "a/b", "owner": "ada", "visibility": "team"}),
    ("POST", "/ratings/", {"model": "a/b", "messages": [], "answer": "", "verdict": "up", "owner_id": 1}),
]


def test_nobody_sets_what_is_not_theirs_to_set(alone: ServerProcess) -> None:
    ada = first(alone)
    bob = another(alone, ada, "bob")
    for method, path, body in NOT_THEIRS:
        answer = bob.client.request(method, path, json=body)
        assert answer.status_code == 422, answer.text
        assert any(detail["type"] == "extra_forbidden" for detail in answer.json()["details"]), path
    user = bob.client.get("/auth/me").json()["user"]
    assert (user["role"], user["quota_jobs"], user["username"]) == ("member", None, "bob")
