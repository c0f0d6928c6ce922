"""`tunesmith login` and what comes with it, as people type it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.accounts.ground import PASSWORD, another, first, with_token
from tests.conftest import ServerProcess


class Shell:
    """A user's terminal, with a home folder of its own."""

    def __init__(self, server: ServerProcess, home: Path) -> None:
        self.env = {
            **{name: value for name, value in os.environ.items() if not name.startswith("TUNESMITH")},
            "TUNESMITH_URL": server.url, "TUNESMITH_HOME": str(server.home), "TUNESMITH_AUTH": "on",
            "TUNESMITH_PORT": str(server.port), "XDG_CONFIG_HOME": str(home),
        }  # fmt: skip
        self.stored = home / "tunesmith" / "credentials.json"

    def run(self, *words: str, typed: str = "", code: int = 0, **env: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "tunesmith", *words], env=self.env | env, input=typed, capture_output=True, text=True,
            timeout=120, start_new_session=True,
        )  # fmt: skip
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout if code == 0 else done.stderr


@pytest.fixture
def server(start_server: Callable[..., ServerProcess]) -> ServerProcess:
    return start_server(TUNESMITH_AUTH="on")


@pytest.fixture
def shell(server: ServerProcess, tmp_path: Path) -> Shell:
    return Shell(server, tmp_path / "config")


def test_from_logging_in_to_logging_out(server: ServerProcess, shell: Shell) -> None:
    ada = first(server)
    refused = shell.run("jobs", "list", code=2)
    assert "Log in first" in refused and "tunesmith login" in refused
    assert "wrong" in shell.run("login", "-u", "ada", typed="not this\n", code=2)
    shell.run("login", "--username", "ada", typed=f"{PASSWORD}\n")
    assert (shell.stored.stat().st_mode & 0o777) == 0o600
    me = json.loads(shell.run("whoami", "--json"))
    assert (
        me["username"] == "ada"
        and me["via"] == "key"
        and {q["name"] for q in me["quotas"]} == {"storage_bytes", "jobs", "gpu_hours"}
    )
    assert len(ada.client.get("/auth/logins").json()) == 1, "the login that made the key has ended"

    link = json.loads(shell.run("users", "invite", "--role", "viewer", "--json"))["link"]
    body = {"username": "vera", "email": "v@example.org", "password": PASSWORD, "invitation": link.partition("=")[2]}
    assert with_token(server, None).post("/auth/register", json=body).status_code == 201
    assert "vera" in shell.run("users", "list")
    shell.run("users", "update", "vera", "--role", "member", "--quota-jobs", "3", "--quota-storage-gb", "1.5")
    vera = next(user for user in json.loads(shell.run("users", "list", "--json")) if user["username"] == "vera")
    assert (vera["role"], vera["quota_jobs"], vera["quota_storage_bytes"]) == ("member", 3, 1_500_000_000)
    shell.run("users", "update", "vera", "--no-quotas", "--disable")

    key = shell.run("keys", "create", "nightly", "--scope", "train", "-u", "ada", typed=f"{PASSWORD}\n").strip()
    assert key.startswith("tsk_") and with_token(server, key).get("/jobs/").status_code == 200
    assert "scope" in shell.run("users", "list", code=2, TUNESMITH_API_KEY=key), "the variable goes before the file"
    assert "nightly" in shell.run("keys", "list", "-u", "ada", typed=f"{PASSWORD}\n")

    assert "as they were written" in shell.run("audit", "verify")
    log = shell.stored.parent / "log.csv"
    shell.run("audit", "export", str(log), "--user", "ada")
    assert "create_invitation" in log.read_text() and key not in log.read_text()
    assert "update_user" in shell.run("audit", "list", "--action", "update_user")

    stored = json.loads(shell.stored.read_text())[server.url]["key"]
    shell.run("logout")
    assert with_token(server, stored).get("/jobs/").status_code == 401, "revoked, not only forgotten"
    assert "Log in first" in shell.run("whoami", code=2)


def test_a_key_goes_to_the_server_that_gave_it_and_to_no_other(
    server: ServerProcess, shell: Shell, start_server: Callable[..., ServerProcess], tmp_path: Path
) -> None:
    first(server)
    shell.run("login", "-u", "ada", typed=f"{PASSWORD}\n")
    other = start_server(tmp_path / "other", TUNESMITH_AUTH="on")
    assert "Log in first" in shell.run("jobs", "list", code=2, TUNESMITH_URL=other.url)


def test_who_is_locked_out_gets_a_link_on_the_server_itself(server: ServerProcess, shell: Shell) -> None:
    """With the server running, and without anybody logging in."""
    ada = first(server)
    another(server, ada, "bob")
    link = shell.run("users", "reset-password", "ada", "--local").strip()
    assert link.startswith(f"http://127.0.0.1:{server.port}/reset-password#token=")
    token = link.partition("=")[2]
    nobody = with_token(server, None)
    assert (
        nobody.post("/auth/reset-password", json={"token": token, "password": "plums and rye bread"}).status_code == 204
    )
    shell.run("login", "-u", "ada", typed="plums and rye bread\n")
    entries = json.loads(shell.run("audit", "list", "--action", "make_password_link", "--json"))
    assert "command line" in entries[0]["username"] and entries[0]["objects"][0] == "user ada"
    assert "no account" in shell.run("users", "reset-password", "nobody", "--local", code=4)
    assert "#token=" in shell.run("users", "reset-password", "bob")
