"""What is somebody else's alone: nobody else rates it, and a name that it has is taken without a word on whose it is."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.accounts.ground import PASSWORD
from tests.accounts.test_proxies import reached
from tests.conftest import lay_database
from tunesmith.app import create_app
from tunesmith.core.clock import utc_now
from tunesmith.features.datasets.tables import DatasetRow
from tunesmith.features.deployments.tables import DeploymentRow, RevisionRow
from tunesmith.features.jobs.tables import JobRow
from tunesmith.features.registry.tables import RegisteredRow, VersionRow
from tunesmith.settings import Settings

JOB = 7
NAMES = ["job:7", "bobs-bot@1.0.0", "bobs-bot@latest", "bobs-bot"]
UNKNOWN = ["job:987654", "no-such@1.0.0", "no-such@latest", "no-such"]
RATING = {"messages": [{"role": "user", "content": "?"}], "answer": "!", "verdict": "down"}


def rows(owner: dict[str, Any]) -> Iterator[Any]:
    """A job, its model as a version of the registry, a deployment of it and two datasets."""
    now, number = utc_now(), itertools.count(1)
    yield JobRow(
        id=JOB, name="bobs", method="lora", hyperparameters={}, reasons={}, request={}, spec={}, resources={}, tags=[],
        output_name="bobs", status="completed", created_at=now, queued_at=now, **owner,
    )  # fmt: skip
    yield RegisteredRow(name="bobs-bot", created_at=now, **owner)
    yield VersionRow(
        id=3, name="bobs-bot", version="1.0.0", number=10**12, kind="model", framework="x", job_id=JOB, lineage={}, files={},
        architecture={}, hyperparameters={}, size_bytes=0, digest="0" * 64, metrics={}, scores={}, tags=[], created_at=now, **owner,
    )  # fmt: skip
    yield DeploymentRow(
        id=5, name="secret-plan", target="local", wanted="running", status="failed", settings={}, sampling={},
        auto_rollback=False, timeout_s=60.0, created_at=now, updated_at=now, **owner,
    )  # fmt: skip
    for name in ("secret data", "plain data"):
        yield DatasetRow(
            id=next(number), name=name, status="failed", file_name="x", size_bytes=1, sha256="0" * 64, created_at=now,
            updated_at=now, **owner,
        )  # fmt: skip


@pytest.fixture
def people(tmp_path: Path) -> Iterator[dict[str, TestClient]]:
    """`ada`, the administrator, and `bob`, whose everything is, and `eve`."""
    lay_database(tmp_path / "h")
    settings = Settings(home=tmp_path / "h", cpu_slots=0, auth="on", hub_offline=True)
    with reached(create_app(settings), "127.0.0.1") as first:
        found: dict[str, TestClient] = {}
        for name in ("ada", "bob", "eve"):
            body = {"username": name, "email": f"{name}@example.org", "password": PASSWORD}
            path, asks = ("users/", found["ada"]) if found else ("auth/register", first)
            assert asks.post(f"/api/v1/{path}", json=body).status_code == 201
            told = first.post("/api/v1/auth/login", json={"username": name, "password": PASSWORD}).json()
            found[name] = reached(first.app, "127.0.0.1")
            found[name].headers["authorization"] = f"Bearer {told['access_token']}"
        with database(found).unit_of_work() as session:
            session.add_all(rows({"owner_id": 2, "owner": "bob"}))
        yield found


def database(people: dict[str, TestClient]) -> Any:
    return next(iter(people.values())).app.state.tunesmith.database  # type: ignore[attr-defined]


def test_only_what_one_may_see_is_rated(people: dict[str, TestClient]) -> None:
    """Somebody else's model is as one that does not exist; nor does a rating of it reach its version's scores."""
    bob, eve = people["bob"], people["eve"]
    for name in NAMES + UNKNOWN:
        refused = eve.post("/api/v1/ratings/", json={**RATING, "model": name})
        assert refused.status_code == 404, name
        battle = {"models": ["org/base", name], "prompt": "?"}
        assert eve.post("/api/v1/evaluations/arena/battles", json=battle).status_code == 404, name
    same = [eve.post("/api/v1/ratings/", json={**RATING, "model": name}).json() for name in ("bobs-bot", "no-such")]
    assert str(same[0]).replace("bobs-bot", "no-such") == str(same[1])
    assert eve.get("/api/v1/ratings/").json()["items"] == []
    assert bob.get("/api/v1/registry/bobs-bot/versions/1.0.0").json()["scores"] == {}
    for name in NAMES:
        for person in ("bob", "ada"):
            made = people[person].post("/api/v1/ratings/", json={**RATING, "model": name})
            assert made.status_code == 201, (person, name, made.text)
    assert bob.get("/api/v1/registry/bobs-bot/versions/1.0.0").json()["scores"] != {}
    assert eve.post("/api/v1/ratings/", json={**RATING, "model": "org/base"}).status_code == 201, (
        "the hub is everybody's"
    )
    share(people, JobRow, VersionRow, RegisteredRow)
    assert eve.post("/api/v1/ratings/", json={**RATING, "model": "job:7"}).status_code == 201


def share(people: dict[str, TestClient], *kinds: Any, visibility: str = "team") -> None:
    with database(people).unit_of_work() as session:
        for kind in kinds:
            session.query(kind).update({"visibility": visibility})


def test_a_taken_name_tells_nothing_of_whose_it_is(people: dict[str, TestClient]) -> None:
    """The same words for one's own thing, the team's, and somebody else's that is private."""
    bob, eve = people["bob"], people["eve"]
    body = {"name": "secret-plan", "model": "org/base", "target": "local"}
    with database(people).unit_of_work() as session:
        mine = DatasetRow(
            id=9, name="eves", status="failed", file_name="x", size_bytes=1, sha256="0" * 64, created_at=utc_now(),
            updated_at=utc_now(), owner_id=3, owner="eve",
        )  # fmt: skip
        session.add(mine)
    deployments, datasets = set(), set()
    for visibility in ("private", "team"):
        share(people, DeploymentRow, DatasetRow, visibility=visibility)
        for who, own in ((bob, 2), (eve, 9)):
            answer = who.post("/api/v1/deployments/", json=body)
            deployments.add((answer.status_code, answer.text))
            answer = who.patch(f"/api/v1/datasets/{own}", json={"name": "secret data"})
            datasets.add((answer.status_code, answer.text))
    for (status, text), *others in (deployments, datasets):
        assert status == 409 and not others and "taken" in text and "bob" not in text


def test_what_needs_a_version_is_not_named_when_it_is_not_yours_to_see(people: dict[str, TestClient]) -> None:
    """A version of the team's that somebody's private deployment runs: its page says that it is needed, not under which name."""
    share(people, VersionRow, RegisteredRow)
    with database(people).unit_of_work() as session:
        session.add(
            RevisionRow(
                deployment_id=5, number=1, model="bobs-bot@1.0.0", version_id=3, model_ref={}, role="live", percent=100.0, plan={},
                status="failed", result={}, created_at=utc_now(),
            )
        )  # fmt: skip
    told = {name: who.get("/api/v1/registry/bobs-bot/versions/1.0.0").text for name, who in people.items()}
    assert "deployment secret-plan" in told["bob"] and "deployment secret-plan" in told["ada"]
    assert "secret-plan" not in told["eve"] and "a deployment of somebody else" in told["eve"]
