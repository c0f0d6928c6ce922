"""Guessing passwords: slow for whoever guesses, from one address or from thousands, and no trouble for the account's owner."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.accounts.ground import PASSWORD
from tests.accounts.test_proxies import reached
from tests.conftest import lay_database
from tunesmith.app import create_app
from tunesmith.core.errors import TooMany
from tunesmith.features.accounts import throttle
from tunesmith.features.accounts.throttle import OF_ONE_ACCOUNT, Throttle, guesses, network_of
from tunesmith.settings import Settings

NEW = "plums and rye bread"


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def allowed(limiter: Throttle, tries: int, **about: Any) -> int:
    """How many of so many wrong guesses are looked at."""
    done = 0
    for _ in range(tries):
        try:
            limiter.take(*guesses("login", **{"account": "ada", "address": "203.0.113.9", "device": None, **about}))
        except TooMany:
            continue
        done += 1
    return done


def test_guesses_come_back_one_by_one_and_right_ones_cost_nothing() -> None:
    clock = Clock()
    limiter = Throttle(clock)
    for _ in range(50):
        limiter.give_back(limiter.take(*guesses("login", "ada", "203.0.113.9", None)))
    assert allowed(limiter, 50) == 10 and allowed(limiter, 1) == 0
    assert allowed(limiter, 50, account="bob") == 10, "one address, but another account"
    assert allowed(limiter, 50, account="carl") == 10 and allowed(limiter, 50, account="dora") == 0, (
        "30 from an address"
    )
    clock.now_s += 6
    assert allowed(limiter, 50) == 1
    clock.now_s += 60
    assert allowed(limiter, 50) == 10
    with pytest.raises(TooMany) as told:
        limiter.take(*guesses("login", "ada", "203.0.113.9", None))
    assert "Wait 6 s" in told.value.hint


def test_many_at_once_are_no_more_than_many_one_by_one() -> None:
    limiter = Throttle(Clock())
    with ThreadPoolExecutor(16) as pool:
        assert sum(pool.map(lambda _: allowed(limiter, 1), range(200))) == 10


def test_an_attack_from_everywhere_is_slow_and_the_owner_gets_in() -> None:
    """Ten thousand addresses and a network of IPv6, an hour long, against one account."""
    clock = Clock()
    limiter = Throttle(clock)
    assert sum(allowed(limiter, 1, address=f"2001:db8:1:{n:x}::1") for n in range(10_000)) <= 103, "one customer's /48"
    clock.now_s += 7200
    looked_at = sum(allowed(limiter, 20, address=f"10.0.{n}.1") for n in range(200))
    assert looked_at <= 100 + 3 * 200, "besides a hundred, each network has three"
    assert allowed(limiter, 1, address="10.0.7.1") == 0
    assert allowed(limiter, 1, address="198.51.100.20") == 1, "the owner on a new device, elsewhere"
    assert allowed(limiter, 50, account="1", device="d") == 10, "the owner's own device has tries of its own"
    assert allowed(limiter, 50, account="1", device="e") == 10


def test_addresses_of_one_customer_count_as_one() -> None:
    assert network_of("2001:db8::1") == network_of("2001:db8::ffff:1") != network_of("2001:db8:0:1::1")
    assert network_of("203.0.113.9") == "203.0.113.9" != network_of("203.0.113.10") and network_of("") == ""
    limiter = Throttle(Clock())
    assert sum(allowed(limiter, 1, address=f"2001:db8::{n:x}") for n in range(100)) == 10


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throttle, "MAX_PLACES", 1000)
    limiter = Throttle(Clock())
    for number in range(5000):
        limiter.take([(OF_ONE_ACCOUNT, f"{'x' * 1000}{number}")])
    assert len(limiter._used) == 1000 and all(len(key) == 16 for key in limiter._used)


@pytest.fixture
def here(tmp_path: Path) -> Iterator[TestClient]:
    """A server in this process with an account, `ada`; asked from 203.0.113.9."""
    lay_database(tmp_path / "h")
    app = create_app(Settings(home=tmp_path / "h", cpu_slots=0, auth="on"))
    app.state.doorkeeper.throttle = Throttle(Clock())  # what is counted does not drain, however slow this machine is
    with reached(app, "127.0.0.1") as local:
        body = {"username": "ada", "email": "ada@example.org", "password": PASSWORD}
        assert local.post("/api/v1/auth/register", json=body).status_code == 201
        yield reached(app, "203.0.113.9")


def log_in(client: TestClient, password: str = PASSWORD, name: str = "ada", **options: Any) -> int:
    answer = client.post("/api/v1/auth/login", json={"username": name, "password": password}, **options)
    if answer.status_code == 200:
        client.headers["authorization"] = f"Bearer {answer.json()['access_token']}"
    return int(answer.status_code)


def by_page(client: TestClient, password: str = PASSWORD) -> int:
    return client.post("/login", data={"username": "ada", "password": password}).status_code


def test_wrong_passwords_do_not_lock_the_right_one_out(here: TestClient) -> None:
    app = here.app
    owner = reached(app, "203.0.113.9")
    assert by_page(owner) == 303 and "tunesmith-device" in owner.cookies
    del owner.cookies["tunesmith"]
    wrong = [log_in(here, "not the password", headers={"x-forwarded-for": f"198.51.100.{n}"}) for n in range(12)]
    assert wrong[:10] == [401] * 10 and 429 in wrong[10:], "whatever address it claims to have"
    assert log_in(here) == 429, "nor does the attacker get in with the right one at once"
    assert log_in(reached(app, "198.51.100.7")) == 200, "the owner from elsewhere"
    assert by_page(owner) == 303, "the owner's own browser, behind the same address"
    other = reached(app, "203.0.113.9")
    other.cookies["tunesmith-device"] = owner.cookies["tunesmith-device"][:-4] + "AAAA"
    assert by_page(other) == 429, "a cookie that nobody has signed is none"


def test_a_new_password_ends_what_was_known_of_devices(here: TestClient) -> None:
    owner = reached(here.app, "203.0.113.9")
    assert by_page(owner) == 303
    door: Any = here.app.state.doorkeeper  # type: ignore[attr-defined]
    with door.database.unit_of_work(readonly=True) as session:
        user = door.accounts(session).users.named("ada")
    cookie = owner.cookies["tunesmith-device"]
    assert door._known_device(user, cookie) and not door._known_device(user, "")
    again = door.device_of(user.id, cookie)
    assert door._known_device(user, again) == door._known_device(user, cookie), "one browser stays one"
    assert log_in(here) == 200
    body = {"current_password": PASSWORD, "password": NEW}
    assert here.post("/api/v1/auth/password", json=body).status_code == 204
    with door.database.unit_of_work(readonly=True) as session:
        assert not door._known_device(door.accounts(session).users.named("ada"), cookie)
    answer = reached(here.app, "203.0.113.9").get("/", headers={"cookie": f"tunesmith-device={cookie}"})
    assert answer.status_code == 401, "and it never was a login"


def test_guessing_the_present_password_does_not_lock_the_login(here: TestClient) -> None:
    assert log_in(here) == 200
    body = {"current_password": "not this one", "password": NEW}
    tried = [here.post("/api/v1/auth/password", json=body).status_code for _ in range(12)]
    assert tried[:10] == [422] * 10 and 429 in tried[10:]
    assert log_in(reached(here.app, "203.0.113.9")) == 200


def reset(here: TestClient, **choice: bool) -> str:
    """Make a key, choose a new password with a link; the key."""
    key = here.post("/api/v1/auth/keys", json={"name": "k", "scopes": ["read"]}).json()["key"]
    token = here.post("/api/v1/users/1/password-link").json()["link"].partition("#token=")[2]
    anybody = reached(here.app, "203.0.113.9")
    body = {"token": token, "password": NEW, **choice}
    assert anybody.post("/api/v1/auth/reset-password", json=body).status_code == 204
    assert here.get("/api/v1/auth/me").status_code == 401, "every login has ended"
    return str(key)


@pytest.mark.parametrize("kept", [False, True])
def test_keys_end_with_a_reset_unless_they_are_kept(here: TestClient, kept: bool) -> None:
    assert log_in(here) == 200
    key = reset(here, **({"keep_api_keys": True} if kept else {}))
    with_key = reached(here.app, "203.0.113.9").get("/api/v1/jobs/", headers={"authorization": f"Bearer {key}"})
    assert with_key.status_code == (200 if kept else 401)


def test_good_links_and_invitations_pass_whoever_else_guesses(here: TestClient) -> None:
    assert log_in(here) == 200
    link = here.post("/api/v1/invitations/", json={}).json()["link"].partition("#invitation=")[2]
    token = here.post("/api/v1/users/1/password-link").json()["link"].partition("#token=")[2]
    nobody = reached(here.app, "203.0.113.9")
    bad = {"token": "x", "password": NEW}
    assert {nobody.post("/api/v1/auth/reset-password", json=bad).status_code for _ in range(40)} == {403, 429}
    body = {"username": "bob", "email": "bob@example.org", "password": PASSWORD}
    assert {nobody.post("/api/v1/auth/register", json=body).status_code for _ in range(12)} == {403, 429}
    assert nobody.post("/api/v1/auth/register", json=body | {"invitation": link}).status_code == 201
    assert nobody.post("/api/v1/auth/reset-password", json=bad | {"token": token}).status_code == 204


def test_who_knows_a_name_cannot_end_the_owners_links_or_fill_the_mailbox(here: TestClient) -> None:
    door: Any = here.app.state.doorkeeper  # type: ignore[attr-defined]
    with door.database.unit_of_work() as session:
        accounts = door.accounts(session)
        user = accounts.users.named("ada")
        made = [accounts.password_link(user, ends_others=False).token for _ in range(3)]
        assert [accounts.find_link_owner(token) for token in made] == [user] * 3
        latest = accounts.password_link(user).token
        assert [accounts.find_link_owner(token) for token in [*made, latest]] == [None] * 3 + [user]
    assert [door.may_mail(user.id) for _ in range(7)] == [True] * 5 + [False] * 2
