"""Generated requests against every operation on a server with accounts, by strangers and by every role: never 5xx, never let in
without a right, and never a word of what is somebody else's."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.core.failures import FailureGroup

from tests.accounts.ground import PASSWORD
from tests.conftest import kill_processes_of
from tests.jobs.conftest import SCRIPT
from tests.jobs.serving_app import serve
from tests.test_schemathesis import CHECKS, EXAMPLES, SEED
from tunesmith.app import create_app
from tunesmith.settings import Settings

MARK = "zebra-crossing-1887"
"""Stands in names and rows of what is private."""
NOT_FOR_THIS = (
    "logout",
    "/auth/password",
    "/auth/reset",
    "/auth/login",
    "/auth/register",
    "/auth/forgot",
    "/auth/refresh",
    "/system/settings",
)
"""Operations that would end the login that the others need, or that are limited to ten a minute."""


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, dict[str, str | None]]]:
    """A server on which `bob` has a private dataset and job; tokens by name."""
    home = tmp_path_factory.mktemp("home")
    app = create_app(Settings(home=home, auth="on", hub_offline=True, custom_scripts=True, custom_network=True))
    with serve(app) as host, httpx.Client(base_url=f"http://{host}/api/v1") as client:
        tokens: dict[str, str | None] = {"anonymous": None}
        client.post("/auth/register", json={"username": "ada", "email": "ada@example.org", "password": PASSWORD})
        tokens["admin"] = log_in(client, "ada")
        for name, role in (("bob", "admin"), ("member", "member"), ("viewer", "viewer")):
            body = {"username": name, "password": PASSWORD, "role": role}
            client.post("/users/", json=body, headers=bearer(tokens["admin"])).raise_for_status()
            tokens[name] = log_in(client, name)
        fill(client, home, bearer(tokens.pop("bob")))  # a script of his own takes an administrator
        client.patch("/users/2", json={"role": "member"}, headers=bearer(tokens["admin"])).raise_for_status()
        yield f"http://{host}", tokens
    kill_processes_of(home)


def log_in(client: httpx.Client, name: str) -> str:
    return str(client.post("/auth/login", json={"username": name, "password": PASSWORD}).json()["access_token"])


def bearer(token: str | None) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"} if token else {}


def fill(client: httpx.Client, _home: Path, who: dict[str, str]) -> None:
    rows = "".join(json.dumps({"question": f"What is {n}?", "answer": f"{MARK} {n}"}) + "\n" for n in range(30))
    client.post("/datasets/", files={"file": (f"{MARK}.jsonl", rows)}, headers=who).raise_for_status()
    body = {
        "name": MARK,
        "tags": [MARK],
        "method": "custom",
        "hyperparameters": {"script": SCRIPT.format(steps=3, pause=0)},
    }
    for start in ("now", "manual"):
        client.post("/jobs/", json={**body, "start": start}, headers=who).raise_for_status()


@pytest.mark.parametrize("name", ["anonymous", "viewer", "member", "admin"])
def test_whoever_sends_them(api: tuple[str, dict[str, str | None]], name: str) -> None:
    url, tokens = api
    document = httpx.get(f"{url}/openapi.json", headers=bearer(tokens["admin"])).json()
    schema = schemathesis.openapi.from_dict(document).exclude(path_regex="stream$|" + "|".join(NOT_FOR_THIS))
    operations = sorted(
        (found.ok() for found in schema.get_all_operations()), key=lambda o: o.method.upper() == "DELETE"
    )
    answers: Counter[int] = Counter()
    problems: list[str] = []
    for operation in operations:
        for mode in GenerationMode:
            try:
                send(operation, mode, url, name, tokens[name], answers)
            except Unsatisfiable:
                continue
            except (AssertionError, schemathesis.errors.SchemathesisError, FailureGroup, httpx.HTTPError) as error:
                problems.append(f"{operation.label} ({mode.value}): {error}")
    assert not problems, "\n\n".join(problems)
    assert answers[5] == 0 and answers[4] > len(operations)
    assert name == "anonymous" or answers[2] > len(operations) / 4


def send(operation: Any, mode: GenerationMode, url: str, name: str, token: str | None, answers: Counter[int]) -> None:
    @seed(SEED)
    @settings(
        max_examples=max(2, EXAMPLES // 4),
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )
    @given(case=operation.as_strategy(generation_mode=mode), number=st.integers(0, 3))
    def each(case: Any, number: int) -> None:
        for parameter in ("job_id", "dataset_id"):
            if number and parameter in (case.path_parameters or {}):
                case.path_parameters[parameter] = number
        case.headers.pop("Authorization", None)
        if name != "admin" and "user_id" in (case.path_parameters or {}):
            case.path_parameters["user_id"] = 1
        elif "user_id" in (case.path_parameters or {}):
            case.path_parameters["user_id"] = 99  # nobody is to be shut out by chance
        answer = case.call_and_validate(base_url=url, checks=CHECKS, headers=bearer(token), timeout=60)
        answers[answer.status_code // 100] += 1
        if name == "anonymous":
            public = operation.definition.raw["security"] == []
            assert public or answer.status_code == 401, f"{answer.status_code} for a stranger"
        if name != "admin":
            assert MARK not in answer.text, "what is private to somebody else"

    each()
