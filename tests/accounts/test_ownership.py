"""Whose things are, who sees them, and how much one may have."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.accounts.ground import Person, another, dataset, first, server_with, team, wait_until, with_token
from tests.conftest import ServerProcess
from tests.ui.ground import TINY, add_tiny_model

SETTINGS = {"max_steps": 2, "batch_size": 2, "max_length": 64}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[ServerProcess]:
    home = tmp_path_factory.mktemp("team") / "home"
    add_tiny_model(home, tiny_model)
    yield from server_with(home)


@pytest.fixture(scope="module")
def people(server: ServerProcess) -> dict[str, Person]:
    return team(server)


@pytest.fixture(scope="module")
def data(people: dict[str, Person]) -> int:
    return dataset(people["member"])


@pytest.fixture(scope="module")
def job(people: dict[str, Person], data: int) -> int:
    """A job of `member`'s that has made a model."""
    body = {"name": "counting", "model": TINY, "dataset_id": data, "hyperparameters": SETTINGS}
    made = people["member"].client.post("/jobs/", json=body)
    assert made.status_code == 201, made.text
    wait_until(people["member"], f"/jobs/{made.json()['id']}", "completed")
    return int(made.json()["id"])


def everything_about(job: int, data: int) -> list[str]:
    return [
        f"/datasets/{data}", f"/datasets/{data}/validation", f"/datasets/{data}/statistics", f"/datasets/{data}/preview",
        f"/datasets/{data}/versions", f"/datasets/{data}/download", f"/datasets/{data}/overlap?held_out={data}",
        f"/jobs/{job}", f"/jobs/{job}/status", f"/jobs/{job}/events", f"/jobs/{job}/metrics", f"/jobs/{job}/resources",
        f"/jobs/{job}/timeline", f"/jobs/{job}/logs", f"/jobs/{job}/logs/search?q=a", f"/jobs/{job}/logs/download",
        f"/jobs/{job}/checkpoints", f"/jobs/{job}/artifacts", f"/jobs/{job}/report", f"/jobs/{job}/config",
        f"/jobs/{job}/download", f"/jobs/{job}/stream", f"/jobs/compare?ids={job}", f"/models/job:{job}",
        f"/models/detail?name=job:{job}", f"/models/checksums?name=job:{job}", f"/jobs/{job}/artifacts/report/report.html",
    ]  # fmt: skip


def pages_about(job: int, data: int) -> list[str]:
    return [f"/datasets/{data}", f"/jobs/{job}", f"/jobs/compare?ids={job}", f"/models/job:{job}"]


def status(who: Person, path: str) -> int:
    with who.client.stream("GET", path) as answer:
        return answer.status_code


def test_what_is_not_yours_is_not_there(server: ServerProcess, people: dict[str, Person], job: int, data: int) -> None:
    """For every way of looking at a thing: 200 for its owner and the administrator, 404 for anybody else."""
    for path in everything_about(job, data):
        found = {name: status(who, path) for name, who in people.items()}
        assert found == {"admin": 200, "member": 200, "other": 404, "viewer": 404}, path
    for name in ("other", "viewer"):
        client = people[name].client
        assert client.get("/jobs/").json()["total"] == client.get("/datasets/").json()["total"] == 0
        assert [m["name"] for m in client.get("/models/").json()["items"] if m["kind"] == "tuned"] == []
        overview = client.get("/system/overview").json()
        assert not any(overview["jobs"].values()) and not any(overview["datasets"].values())
        assert client.get("/datasets/tags").json() == client.get("/jobs/columns").json() == []
        assert client.get("/jobs/groups?group=status").json()["groups"] == []
        assert (
            client.post(
                "/models/chat", json={"model": f"job:{job}", "messages": [{"role": "user", "content": "?"}]}
            ).status_code
            == 404
        )
        assert (
            client.post(f"/jobs/{job}/chat", json={"messages": [{"role": "user", "content": "?"}]}).status_code == 404
        )
    eve = people["other"].client
    body = {"model": TINY, "dataset_id": data, "hyperparameters": SETTINGS, "start": "manual"}
    refused = eve.post("/jobs/", json=body)
    assert refused.status_code == 422 and refused.json()["details"][0]["loc"] == "dataset_id"
    after = eve.post("/jobs/", json={**body, "dataset_id": None, "after_job_id": job})
    assert "after_job_id" in [detail["loc"] for detail in after.json()["details"]]
    for method, path in (("DELETE", f"/jobs/{job}"), ("PATCH", f"/jobs/{job}"), ("POST", f"/jobs/{job}/stop"), ("DELETE", f"/datasets/{data}"),
                         ("PATCH", f"/datasets/{data}"), ("POST", f"/jobs/{job}/clone"), ("POST", f"/datasets/{data}/edit")):  # fmt: skip
        body = {"changes": {}} if path.endswith("clone") else {"drop_rows": [1]} if path.endswith("edit") else {}
        assert eve.request(method, path, json=body).status_code == 404, path
    bulk = eve.post("/datasets/bulk", json={"ids": [data], "action": "delete"}).json()
    assert "404" in json.dumps(bulk) or "not_found" in json.dumps(bulk)


def test_pages_too(server: ServerProcess, people: dict[str, Person], job: int, data: int) -> None:
    """Programs may fetch pages with their tokens."""
    for path in pages_about(job, data):
        found = {
            n: httpx.get(server.url + path, headers=dict(p.client.headers), timeout=60).status_code
            for n, p in people.items()
        }
        assert found == {"admin": 200, "member": 200, "other": 404, "viewer": 404}, path
    home = httpx.get(server.url, headers=dict(people["other"].client.headers))
    assert "counting" not in home.text and "numbers" not in home.text


def test_what_the_team_sees_only_its_owner_changes(people: dict[str, Person], job: int, data: int) -> None:
    bob, eve, vera = (people[name].client for name in ("member", "other", "viewer"))
    for path in (f"/jobs/{job}", f"/datasets/{data}"):
        assert bob.patch(path, json={"visibility": "team"}).json()["visibility"] == "team"
    try:
        for path in everything_about(job, data):
            assert [status(people[name], path) for name in ("other", "viewer")] == [200, 200], path
        assert eve.get("/jobs/").json()["items"][0]["owner"] == "bob"
        body = {"model": f"job:{job}", "dataset_id": data, "hyperparameters": SETTINGS, "start": "manual"}
        mine = eve.post("/jobs/", json=body)
        assert mine.status_code == 201 and mine.json()["owner"] == "eve", "she may train on it"
        for method, path in (
            ("DELETE", f"/jobs/{job}"),
            ("PATCH", f"/jobs/{job}"),
            ("DELETE", f"/datasets/{data}"),
            ("PATCH", f"/datasets/{data}"),
        ):
            answer = eve.request(method, path, json={"visibility": "private"} if method == "PATCH" else None)
            assert answer.status_code == 403 and "bob's" in answer.json()["message"]
            assert vera.request(method, path).status_code == 403
        assert eve.delete(f"/jobs/{mine.json()['id']}").status_code == 204
    finally:
        for path in (f"/jobs/{job}", f"/datasets/{data}"):
            assert bob.patch(path, json={"visibility": "private"}).status_code == 200
    assert eve.get(f"/jobs/{job}").status_code == 404


def test_live_streams_tell_nobody_of_what_is_not_theirs(
    server: ServerProcess, people: dict[str, Person], data: int
) -> None:
    heard: dict[str, list[str]] = {"member": [], "other": []}
    ready = threading.Barrier(3)

    def listen(name: str) -> None:
        with people[name].client.stream("GET", "/jobs/stream", timeout=60) as answer:
            ready.wait()
            for line in answer.iter_lines():
                heard[name].append(line)
                if "completed" in line or "goodbye" in line:
                    return

    threads = [threading.Thread(target=listen, args=(name,), daemon=True) for name in heard]
    for thread in threads:
        thread.start()
    ready.wait()
    for name in ("member", "other"):
        body = {"name": f"of {name}", "model": TINY, "hyperparameters": SETTINGS,
                "dataset_id": data if name == "member" else dataset(people["other"], "others")}  # fmt: skip
        made = people[name].client.post("/jobs/", json=body).json()["id"]
        wait_until(people[name], f"/jobs/{made}", "completed")
        heard[name].append(f"made {made}")
    for thread in threads:
        thread.join(30)
    jobs = {
        name: {json.loads(line[6:])["job_id"] for line in lines if line.startswith('data: {"job_id')}
        for name, lines in heard.items()
    }
    assert jobs["member"] and jobs["other"] and not jobs["member"] & jobs["other"]


def test_a_stream_ends_when_its_reader_is_shut_out(server: ServerProcess, people: dict[str, Person]) -> None:
    key_id, key = people["other"].key("read")
    with with_token(server, key).stream("GET", "/system/resources/stream", timeout=30) as answer:
        lines = answer.iter_lines()
        next(lines)
        assert people["other"].client.delete(f"/auth/keys/{key_id}").status_code == 204
        for _ in lines:
            pass  # ends by itself: the next sample is not sent any more


def test_an_idempotency_key_is_ones_own(people: dict[str, Person], data: int) -> None:
    """The same key from somebody else neither gives the first one's answer nor refuses."""
    body = {"model": TINY, "dataset_id": data, "start": "manual", "hyperparameters": SETTINGS}
    headers = {"Idempotency-Key": "nightly"}
    mine = people["member"].client.post("/jobs/", json=body, headers=headers)
    theirs = people["admin"].client.post("/jobs/", json=body, headers=headers)
    assert mine.status_code == theirs.status_code == 201
    assert mine.json()["id"] != theirs.json()["id"] and "Idempotency-Replayed" not in theirs.headers


def test_an_upload_is_its_senders(people: dict[str, Person]) -> None:
    bob, eve = people["member"].client, people["other"].client
    made = bob.post("/datasets/uploads", json={"name": "a.jsonl", "size_bytes": 5}).json()["id"]
    assert eve.get(f"/datasets/uploads/{made}").status_code == 404
    assert eve.patch(f"/datasets/uploads/{made}?offset=0", content=b"12345").status_code == 404
    assert eve.post(f"/datasets/uploads/{made}/commit", json={}).status_code == 404
    assert eve.delete(f"/datasets/uploads/{made}").status_code == 404
    assert bob.delete(f"/datasets/uploads/{made}").status_code == 204


def test_ratings_are_ones_own(people: dict[str, Person], job: int) -> None:
    bob, eve = people["member"].client, people["other"].client
    body = {"model": TINY, "messages": [{"role": "user", "content": "?"}], "answer": "!", "verdict": "up"}
    made = bob.post("/ratings/", json=body).json()["id"]
    assert eve.get(f"/ratings/{made}").status_code == 404
    assert eve.get("/ratings/summary").json() == [] and eve.get("/ratings/export").text.strip() == ""
    assert bob.get("/ratings/summary").json()[0]["up"] == 1


def test_quotas_are_kept_and_shown(server: ServerProcess, people: dict[str, Person]) -> None:
    ada = people["admin"]
    carl = another(server, ada, "carl")
    mine = dataset(carl, "carls")
    used = {quota["name"]: quota for quota in carl.client.get("/auth/quotas").json()}
    assert used["storage_bytes"]["used"] > 0 and used["storage_bytes"]["limit"] is None
    ada.client.patch(f"/users/{carl.user_id}", json={"quota_jobs": 0, "quota_storage_bytes": 10})
    assert carl.client.patch(f"/users/{carl.user_id}", json={"quota_jobs": 9}).status_code == 403
    full = carl.client.put("/datasets/upload", params={"file_name": "b.jsonl"}, content=b'{"text": "a"}\n')
    assert full.status_code == 403 and full.json()["error"] == "quota_exceeded"
    assert carl.client.post("/datasets/uploads", json={"name": "b", "size_bytes": 5}).status_code == 403
    ada.client.patch(f"/users/{carl.user_id}", json={"quota_storage_bytes": None})
    body = {"model": TINY, "dataset_id": mine, "hyperparameters": SETTINGS}
    refused = carl.client.post("/jobs/", json=body)
    assert refused.status_code == 403 and refused.json()["details"][0]["loc"] == "jobs"
    saved = carl.client.post("/jobs/", json={**body, "start": "manual"})
    assert saved.status_code == 201, "saving takes nothing"
    assert carl.client.post(f"/jobs/{saved.json()['id']}/start").status_code == 403
    assert carl.client.post("/jobs/batch", json={"jobs": [body, body]}).status_code in (403, 422)
    assert carl.client.get("/jobs/").json()["total"] == 1


def test_two_requests_cannot_both_take_the_last_of_a_quota(
    start_server: Callable[..., ServerProcess], database_url: str | None, tiny_model: Path, tmp_path: Path
) -> None:
    add_tiny_model(tmp_path / "home", tiny_model)
    env = {"TUNESMITH_DATABASE_URL": database_url} if database_url else {}
    server = start_server(TUNESMITH_AUTH="on", TUNESMITH_CPU_SLOTS="0", TUNESMITH_QUOTA_JOBS="2", **env)
    ada = first(server)
    bob = another(server, ada, "bob")
    body = {"model": TINY, "dataset_id": dataset(bob), "hyperparameters": SETTINGS}
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: bob.client.post("/jobs/", json=body).status_code, range(12)))
    assert sorted(answers) == [201, 201, *[403] * 10]


def test_what_a_removed_account_owned_is_the_administrators(server: ServerProcess, people: dict[str, Person]) -> None:
    ada = people["admin"]
    dora = another(server, ada, "dora")
    mine = dataset(dora, "doras")
    assert ada.client.delete(f"/users/{dora.user_id}").status_code == 204
    assert dora.client.get("/jobs/").status_code == 401
    assert ada.client.get(f"/datasets/{mine}").json()["owner"] == "ada"
    again = another(server, ada, "dora")
    assert again.user_id != dora.user_id and again.client.get(f"/datasets/{mine}").status_code == 404
