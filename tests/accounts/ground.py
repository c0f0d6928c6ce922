"""A server with accounts, and people who use it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.conftest import ServerProcess

PASSWORD = "larks over the moor"


@dataclass
class Person:
    """Somebody with an account, logged in as a program."""

    name: str
    user_id: int
    access: str
    refresh: str
    client: httpx.Client

    def key(self, *scopes: str, name: str = "a key") -> tuple[int, str]:
        """Number and text of a new API key."""
        made = self.client.post("/auth/keys", json={"name": name, "scopes": scopes})
        assert made.status_code == 201, made.text
        return made.json()["id"], made.json()["key"]


def with_token(server: ServerProcess, token: str | None) -> httpx.Client:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return httpx.Client(base_url=f"{server.url}/api/v1", headers=headers, timeout=60)


def log_in(server: ServerProcess, name: str, password: str = PASSWORD) -> dict[str, Any]:
    answer = with_token(server, None).post("/auth/login", json={"username": name, "password": password})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def person(server: ServerProcess, name: str) -> Person:
    """Log in somebody who has an account."""
    tokens = log_in(server, name)
    client = with_token(server, tokens["access_token"])
    return Person(
        name, client.get("/auth/me").json()["user"]["id"], tokens["access_token"], tokens["refresh_token"], client
    )


def first(server: ServerProcess, name: str = "ada") -> Person:
    """The first account: an administrator's."""
    body = {"username": name, "email": f"{name}@example.org", "password": PASSWORD}
    answer = with_token(server, None).post("/auth/register", json=body)
    assert answer.status_code == 201, answer.text
    return person(server, name)


def another(server: ServerProcess, admin: Person, name: str, role: str = "member") -> Person:
    body = {"username": name, "email": f"{name}@example.org", "password": PASSWORD, "role": role}
    answer = admin.client.post("/users/", json=body)
    assert answer.status_code == 201, answer.text
    return person(server, name)


def team(server: ServerProcess) -> dict[str, Person]:
    """An administrator, two members and a viewer."""
    ada = first(server)
    return {
        "admin": ada,
        "member": another(server, ada, "bob"),
        "other": another(server, ada, "eve"),
        "viewer": another(server, ada, "vera", "viewer"),
    }


def rows(count: int = 12) -> bytes:
    return "".join(
        json.dumps({"question": f"What is {n}?", "answer": f"It is {n}."}) + "\n" for n in range(count)
    ).encode()


def dataset(who: Person, name: str = "numbers") -> int:
    """Upload a file and wait until it is read."""
    answer = who.client.put("/datasets/upload", params={"file_name": f"{name}.jsonl"}, content=rows())
    assert answer.status_code == 201, answer.text
    made = int(answer.json()["id"])
    wait_until(who, f"/datasets/{made}", "ready")
    return made


def wait_until(who: Person, path: str, *statuses: str) -> dict[str, Any]:
    import time

    for _ in range(600):
        found = who.client.get(path).json()
        if found.get("status") in statuses:
            return dict(found)
        time.sleep(0.2)
    raise AssertionError(f"{path} is {found}")


def server_with(home: Path, **env: str) -> Iterator[ServerProcess]:
    """A server on which people log in; for fixtures of a module."""
    from tests.conftest import kill_processes_of

    server = ServerProcess(home, {"TUNESMITH_AUTH": "on", **env}).start()
    yield server
    server.stop()
    server.client.close()
    kill_processes_of(home)
