"""Who may run which method: every way into the queue × everybody who may ask, on a server that allows custom scripts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.accounts.ground import Person, another, person, server_with, team, with_token
from tests.cli.command import tunesmith
from tests.conftest import ServerProcess
from tunesmith.core.acting import ROLE_SCOPES, Act, Identity, Role, Scope, acting
from tunesmith.core.errors import PermissionDenied
from tunesmith.core.job_status import JobStatus
from tunesmith.core.recipe import Recipe
from tunesmith.features.jobs.lifecycle import Lifecycle
from tunesmith.features.jobs.tables import JobRow
from tunesmith.live.bus import Bus
from tunesmith.recipes.catalog import RECIPES

STEAL = "import sys; print(open('/home/secret.key').read())"
BODY = {"method": "custom", "hyperparameters": {"script": STEAL}}
WHO_MAY = {
    "viewer": False, "member": False, "member's key: train": False, "member's key: deploy": False,
    "administrator's key: train": False, "administrator": True, "administrator's key: admin": True,
}  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    home = tmp_path_factory.mktemp("methods") / "home"
    yield from server_with(home, TUNESMITH_CUSTOM_SCRIPTS="true", TUNESMITH_CPU_SLOTS="0")


@pytest.fixture(scope="module")
def people(server: ServerProcess) -> dict[str, Person]:
    return team(server)


@pytest.fixture(scope="module")
def clients(server: ServerProcess, people: dict[str, Person]) -> dict[str, httpx.Client]:
    admin, member = people["admin"], people["member"]
    return {
        "viewer": people["viewer"].client,
        "member": member.client,
        "member's key: train": with_token(server, member.key("train")[1]),
        "member's key: deploy": with_token(server, member.key("deploy")[1]),
        "administrator's key: train": with_token(server, admin.key("train")[1]),
        "administrator": admin.client,
        "administrator's key: admin": with_token(server, admin.key("admin")[1]),
    }


@pytest.fixture(scope="module")
def seen_by_all(people: dict[str, Person]) -> int:
    """A custom job of the administrator that the team sees."""
    made = people["admin"].client.post("/jobs/", json={**BODY, "start": "manual"}).json()
    people["admin"].client.patch(f"/jobs/{made['id']}", json={"visibility": "team"})
    return int(made["id"])


WAYS: dict[str, tuple[str, Any]] = {
    "submit": ("/jobs/", BODY),
    "save for later": ("/jobs/", {**BODY, "start": "manual"}),
    "at night": ("/jobs/", {**BODY, "start": "off_peak"}),
    "plan": ("/jobs/plan", BODY),
    "batch": ("/jobs/batch", {"jobs": [BODY, BODY]}),
    "clone": ("/jobs/{id}/clone", {}),
    "clone with changes": ("/jobs/{id}/clone", {"changes": {"hyperparameters": {"script": "print(1)"}}}),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_in_asks_who_it_is(clients: dict[str, httpx.Client], seen_by_all: int, way: str) -> None:
    path, body = WAYS[way]
    before = clients["administrator"].get("/jobs/").json()["total"]
    for who, client in clients.items():
        answer = client.post(path.format(id=seen_by_all), json=body)
        if WHO_MAY[who]:
            assert answer.status_code in (200, 201), (way, who, answer.text)
            continue
        assert answer.status_code == 403, (way, who, answer.text)
        if who not in ("viewer", "member's key: deploy"):  # those may not submit anything at all
            assert "Custom script is for administrators" in answer.json()["message"], (way, who, answer.text)
    made = clients["administrator"].get("/jobs/").json()["total"] - before
    assert made == {"plan": 0, "batch": 4}.get(way, 2), "nothing is left of what was refused"


@pytest.mark.parametrize("ask", ["start", "resume"])
def test_who_is_no_administrator_any_more_starts_none_of_their_own(
    server: ServerProcess, people: dict[str, Person], ask: str
) -> None:
    once = another(server, people["admin"], f"once-{ask}", "admin")
    job_id = once.client.post("/jobs/", json={**BODY, "start": "manual" if ask == "start" else "now"}).json()["id"]
    if ask == "resume":
        assert once.client.post(f"/jobs/{job_id}/pause").status_code == 200
    assert people["admin"].client.patch(f"/users/{once.user_id}", json={"role": "member"}).status_code == 200
    answer = person(server, once.name).client.post(f"/jobs/{job_id}/{ask}")
    assert answer.status_code == 403 and "administrators" in answer.json()["message"], answer.text
    assert people["admin"].client.post(f"/jobs/{job_id}/{ask}").status_code == 200


def test_a_follow_up_is_never_a_script(clients: dict[str, httpx.Client]) -> None:
    for client in (clients["member's key: train"], clients["administrator"]):
        follow = {
            "method": "lora",
            "model": "x",
            "follow_up": [{"method": "custom", "hyperparameters": {"script": "x"}}],
        }
        assert client.post("/jobs/", json=follow).status_code == 422


def test_the_list_says_who_may(clients: dict[str, httpx.Client]) -> None:
    for who, client in clients.items():
        listed = {method["name"]: method for method in client.get("/jobs/methods").json()}
        assert ("administrators" in listed["custom"]["why_not"]) != WHO_MAY[who], who
        assert {name for name, method in listed.items() if method["permission"] == "admin"} == {"custom"}
        assert not listed["lora"]["why_not"] or any(word in who for word in ("viewer", "deploy", "read")), who


def test_the_form_offers_it_to_nobody_else(server: ServerProcess, clients: dict[str, httpx.Client]) -> None:
    for who in ("member", "administrator"):
        page = clients[who].get(f"{server.url}/jobs/new", follow_redirects=True)
        assert page.status_code == 200
        choice = page.text.partition('value="custom"')[2].partition(">")[0]
        assert choice and ("disabled" in choice) != WHO_MAY[who], who


def test_a_configuration_is_a_request_like_any_other(
    server: ServerProcess, people: dict[str, Person], tmp_path: Path
) -> None:
    (tmp_path / "job.yaml").write_text("method: custom\nhyperparameters:\n  script: print(1)\n")
    key = people["member"].key("train")[1]
    told = {"TUNESMITH_URL": server.url, "TUNESMITH_API_KEY": key}
    done = tunesmith(tmp_path, "train", "--config", "job.yaml", **told)
    assert done.returncode and "Custom script is for administrators" in done.stdout + done.stderr, done
    listed = tunesmith(tmp_path, "jobs", "methods", **told)
    assert "administrators" in listed.stdout


def test_no_job_enters_the_queue_in_a_name_that_may_not_run_it() -> None:
    """Whatever leads there, now or later: a schedule, a follow-up, a restart that somebody asks for."""
    for role, scopes in ROLE_SCOPES.items():
        who = Identity(7, "eve", role, scopes, "system")
        for recipe in RECIPES:
            job = JobRow(id=1, method=recipe.name, status=JobStatus.CREATED, owner_id=7)
            with acting(Act(who)):
                if recipe.permission in scopes:
                    continue
                with pytest.raises(PermissionDenied):
                    Lifecycle(None, Bus()).enqueue(job)  # type: ignore[arg-type]
            assert job.status == JobStatus.CREATED
    assert Scope.TRAIN not in ROLE_SCOPES[Role.VIEWER]


def test_a_recipe_that_does_not_say_cannot_be_made() -> None:
    custom = next(recipe for recipe in RECIPES if recipe.name == "custom")
    said = {
        name: getattr(custom, name)
        for name in ("name", "title", "sentence", "params", "train", "tasks", "data", "outputs")
    }
    with pytest.raises(TypeError, match="permission"):
        Recipe(**said)
