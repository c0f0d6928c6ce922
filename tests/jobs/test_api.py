"""Jobs through the API, on both databases, with real worker processes."""

from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from fastapi.testclient import TestClient

from tests.jobs.conftest import custom, script, wait_until


def make(client: TestClient, **fields: Any) -> dict[str, Any]:
    answer = client.post("/jobs/", json=custom(**fields))
    assert answer.status_code == 201, answer.text
    return answer.json()  # type: ignore[no-any-return]


def test_a_job_from_request_to_download(client: TestClient, home: Path) -> None:
    job = make(client, name="Frage & Antwort", tags=["a", "ü"], steps=20)
    assert job["status"] == "queued" and job["output_name"] == "frage-antwort"
    done = wait_until(client, job["id"], "completed", "failed")
    assert done["status"] == "completed" and done["progress"] == 1.0 and done["step"] == 20
    assert done["loss"] == pytest.approx(0.05) and [d["code"] for d in done["diagnosis"]] == ["healthy"]
    url = f"/jobs/{job['id']}"
    events = client.get(f"{url}/events").json()
    assert [e["seq"] for e in events] == list(range(1, done["last_seq"] + 1))
    steps = client.get(f"{url}/events", params={"types": "step", "limit": 3}).json()
    assert [e["event"]["step"] for e in steps] == [1, 2, 3]
    after = client.get(f"{url}/events", params={"after": done["last_seq"] - 1}).json()
    assert [e["event"]["new"] for e in after] == ["completed"]
    loss = client.get(f"{url}/metrics", params={"points": 10}).json()["curves"]["loss"]
    assert loss["steps"][0] == 1 and loss["steps"][-1] == 20 and len(loss["steps"]) <= 10
    listed = client.get(f"{url}/artifacts").json()
    assert "custom_model/result.json" in [a["path"] for a in listed]
    assert client.get(f"{url}/artifacts/custom_model/result.json").content == b"{}"
    config = yaml.safe_load(client.get(f"{url}/config").text)
    assert config["method"] == "custom" and config["hyperparameters"]["script"] == script(20)["script"]
    first, second = (client.get(f"{url}/download") for _ in range(2))
    assert first.content == second.content and "frage-antwort.tar.gz" in first.headers["content-disposition"]
    with tarfile.open(fileobj=io.BytesIO(first.content), mode="r:gz") as archive:
        sums = archive.extractfile("frage-antwort/SHA256SUMS")
        assert sums and hashlib.sha256(b"{}").hexdigest() in sums.read().decode()
    assert client.delete(url).status_code == 204
    assert client.get(url).status_code == 404 and not (home / "jobs" / str(job["id"])).exists()
    assert not [p for p in (home / "jobs").iterdir() if p.name.startswith(".trash")]


def test_a_running_job_is_paused_resumed_and_stopped(client: TestClient) -> None:
    job = make(client, steps=2000, pause=0.02)
    url = f"/jobs/{job['id']}"
    wait_until(client, job["id"], "running")
    assert client.delete(url).status_code == 409
    assert client.post(f"{url}/start").status_code == 409
    assert client.patch(url, json={"priority": "high"}).status_code == 409
    assert client.post(f"{url}/learning-rate", json={"learning_rate": 1e-4}).status_code == 200
    assert client.post(f"{url}/checkpoint").status_code == 200
    assert client.post(f"{url}/stop").status_code == 200
    ended = wait_until(client, job["id"], "cancelled")
    assert ended["status_reason"]
    assert client.post(f"{url}/stop").status_code == 409 and client.post(f"{url}/pause").status_code == 409
    assert client.post(f"{url}/resume").json()["status"] == "queued"
    wait_until(client, job["id"], "running")
    client.post(f"{url}/stop")
    wait_until(client, job["id"], "cancelled")
    log = client.get(f"{url}/logs/download")
    assert log.status_code == 200 and log.headers["content-type"].startswith("text/plain")


def test_ids_are_never_given_twice(idle: TestClient) -> None:
    first = make(idle, start="manual")
    assert first["status"] == "created"
    assert idle.delete(f"/jobs/{first['id']}").status_code == 204
    assert make(idle)["id"] > first["id"]


def test_names_of_outputs_never_collide(idle: TestClient) -> None:
    names = [make(idle, name=name)["output_name"] for name in ("My Bot", "my-bot", "MY bot!", "データ", "_%")]
    assert names == ["my-bot", "my-bot-2", "my-bot-3", "model", "model-2"]


def test_every_problem_of_a_request_is_named_at_once(idle: TestClient) -> None:
    answer = idle.post(
        "/jobs/",
        json={"method": "lora", "model": "../../etc", "hyperparameters": {"lr": 1, "epochs": 0}, "after_job_id": 99},
    )
    assert answer.status_code == 422
    details = {d["loc"]: d["message"] for d in answer.json()["details"]}
    assert set(details) == {"model", "dataset_id", "after_job_id", "hyperparameters.lr", "hyperparameters.epochs"}
    assert "did you mean learning_rate?" in details["hyperparameters.lr"]
    unknown = idle.post("/jobs/", json={"method": "loraa"}).json()
    assert unknown["details"][0]["loc"] == "method" and "qlora" in unknown["hint"]
    extra = idle.post("/jobs/", json={**custom(), "colour": "red"}).json()
    assert extra["details"][0]["loc"] == "colour"
    missing = idle.post("/jobs/", json={"method": "lora", "model": "org/nothing", "dataset_id": 7}).json()
    assert {d["loc"] for d in missing["details"]} == {"model", "dataset_id"}


def test_unsloth_is_refused_where_it_cannot_run_and_the_alternative_is_named(idle: TestClient) -> None:
    methods = {m["name"]: m for m in idle.get("/jobs/methods").json()}
    if not methods["unsloth"]["why_not"]:
        pytest.skip("this machine can run Unsloth")
    details = idle.post("/jobs/", json={"method": "unsloth"}).json()["details"]
    assert any(d["loc"] == "method" and "lora" in d["message"] for d in details)
    fields = {f["name"]: f["doc"] for f in methods["lora"]["fields"]}
    assert fields["learning_rate"].startswith("Peak learning rate") and all(fields.values())


def test_custom_scripts_are_off_unless_the_administrator_allows_them(make_client: Any) -> None:
    closed = make_client(cpu_slots=0)
    closed.app.state.tunesmith.settings.__dict__["custom_scripts"] = False
    answer = closed.post("/jobs/", json=custom())
    assert answer.status_code == 403 and "TUNESMITH_CUSTOM_SCRIPTS" in answer.json()["hint"]


def test_the_queue_says_its_order_and_why_each_waits(idle: TestClient) -> None:
    ids = [make(idle, name=f"j{n}", priority=p)["id"] for n, p in enumerate(["normal", "normal", "high", "low"])]
    a, b, high, low = ids

    def order() -> list[int]:
        return [item["job_id"] for item in idle.get("/jobs/queue").json()]

    assert order() == [high, a, b, low]
    items = idle.get("/jobs/queue").json()
    assert [i["position"] for i in items] == [1, 2, 3, 4] and all(i["waiting_for"] for i in items)
    status = idle.get(f"/jobs/{b}/status").json()
    assert status["queue_position"] == 3 and status["waiting_for"]
    idle.post(f"/jobs/{b}/move", json={"to": "first"})
    assert order() == [b, high, a, low]
    idle.post(f"/jobs/{b}/move", json={"to": "last"})
    assert order() == [high, a, low, b]
    moved = idle.post(f"/jobs/{low}/move", json={"before_job_id": a})
    assert moved.status_code == 200 and order() == [high, low, a, b]
    late = make(idle, priority="low")["id"]
    assert order() == [high, low, a, b, late]
    assert idle.post(f"/jobs/{a}/move", json={}).status_code == 422
    assert idle.post(f"/jobs/{a}/move", json={"before_job_id": 999}).status_code == 422
    idle.post(f"/jobs/{a}/stop")
    assert idle.post(f"/jobs/{a}/move", json={"to": "first"}).status_code == 409
    assert order() == [high, low, b, late]
    idle.patch(f"/jobs/{late}", json={"priority": "high"})
    assert order()[:2] == [high, late]


def test_a_job_that_others_wait_for_is_not_deleted(idle: TestClient) -> None:
    first = make(idle, start="manual")["id"]
    second = make(idle, after_job_id=first)["id"]
    refused = idle.delete(f"/jobs/{first}")
    assert refused.status_code == 409 and str(second) in refused.json()["message"]


def test_lists_are_filtered_and_paged(idle: TestClient) -> None:
    ids = [make(idle, name=f"bot {n}", tags=["even" if n % 2 == 0 else "ödd_%"])["id"] for n in range(7)]
    make(idle, name="100% sure", start="manual")
    page = idle.get("/jobs/", params={"limit": 3, "q": "bot"}).json()
    got = [j["id"] for j in page["items"]]
    while page["next_cursor"]:
        page = idle.get("/jobs/", params={"limit": 3, "q": "bot", "cursor": page["next_cursor"]}).json()
        got += [j["id"] for j in page["items"]]
    assert got == ids[::-1]

    def names(**query: Any) -> list[str]:
        return [j["name"] for j in idle.get("/jobs/", params=query).json()["items"]]

    assert names(tag="ödd_%") == ["bot 5", "bot 3", "bot 1"] and names(tag="dd") == []
    assert names(q="100%") == ["100% sure"] and names(q="%") == ["100% sure"]
    assert names(status="created") == ["100% sure"] and len(names(status=["created", "queued"])) == 8
    assert names(method="lora") == [] and idle.get("/jobs/", params={"status": "x"}).status_code == 422


def test_a_clone_differs_in_what_was_changed_only(idle: TestClient) -> None:
    job = make(idle, name="one", tags=["t"], priority="high")
    changes = {"hyperparameters": {"memory_mb": 128}, "priority": "low"}
    clone = idle.post(f"/jobs/{job['id']}/clone", json={"changes": changes}).json()
    assert clone["hyperparameters"] == {**job["hyperparameters"], "memory_mb": 128}
    assert clone["priority"] == "low" and clone["tags"] == ["t"] and clone["output_name"] == "one-2"
    again = idle.post(f"/jobs/{clone['id']}/clone", json={"changes": {"hyperparameters": {"memory_mb": None}}}).json()
    assert again["hyperparameters"] == job["hyperparameters"]
    refused = idle.post(f"/jobs/{job['id']}/clone", json={"changes": {"prioritty": "low"}})
    assert refused.status_code == 422 and refused.json()["details"][0]["loc"] == "changes.prioritty"
    assert idle.post("/jobs/999/clone", json={}).status_code == 404


def test_a_batch_is_made_whole_or_not_at_all(idle: TestClient) -> None:
    bad = [custom(), {"method": "custom", "hyperparameters": {"scrip": "x"}}]
    refused = idle.post("/jobs/batch", json={"jobs": bad})
    assert refused.status_code == 422 and "jobs.1.hyperparameters.scrip" in [
        d["loc"] for d in refused.json()["details"]
    ]
    assert idle.get("/jobs/").json()["items"] == [] and idle.get("/jobs/queue").json() == []
    made = idle.post("/jobs/batch", json={"jobs": [custom(memory) for memory in (1, 2, 3)]}).json()
    assert len({j["output_name"] for j in made["jobs"]}) == 3
    assert {j["batch_id"] for j in made["jobs"]} == {made["batch_id"]}
    assert [i["job_id"] for i in idle.get("/jobs/queue").json()] == [j["id"] for j in made["jobs"]]


def test_changes_are_checked(idle: TestClient) -> None:
    job = make(idle)
    url = f"/jobs/{job['id']}"
    assert idle.patch(url, json={"name": "new", "tags": ["x"]}).json()["name"] == "new"
    assert idle.patch(url, json={"name": None}).status_code == 422
    assert idle.patch(url, json={"status": "completed"}).status_code == 422
    assert idle.patch(url, json={"not_before": "9999-12-31T23:59:59-23:00"}).status_code == 422
    assert (
        idle.patch(url, json={"not_before": "2030-01-01T00:00:00+02:00"}).json()["not_before"] == "2029-12-31T22:00:00Z"
    )


@pytest.mark.parametrize("text", ["a\0b", "\ud800", 10**30, float("inf"), {"deep": [[[{"x": "\0"}]]]}])
def test_what_no_database_can_keep_is_refused_wherever_it_stands(idle: TestClient, text: Any) -> None:
    import json

    for body in (custom(name=text), {"method": "custom", "hyperparameters": {"script": "x", "config": {"k": text}}},
                 {**custom(), "tags": [text]}):  # fmt: skip
        answer = idle.post("/jobs/", content=json.dumps(body), headers={"content-type": "application/json"})
        assert answer.status_code == 422, (body, answer.text)
    assert idle.get("/jobs/", params={"q": "\0"}).status_code == 400
    assert idle.get("/jobs/").json()["items"] == []


@pytest.mark.parametrize(
    "path", ["../../spec.json", "%2e%2e/spec.json", "..%2f..%2fx", "/etc/passwd", "a" * 5000, "custom_model"]
)
def test_artifacts_cannot_be_used_to_read_other_files(idle: TestClient, home: Path, path: str) -> None:
    job = make(idle)
    folder = home / "jobs" / str(job["id"]) / "artifacts" / "custom_model"
    folder.mkdir(parents=True)
    (folder.parent.parent / "spec.json").write_text("{}")
    (folder / "link").symlink_to("/etc/passwd")
    assert idle.get(f"/jobs/{job['id']}/artifacts/{path}").status_code in (404, 405, 422)
    assert idle.get(f"/jobs/{job['id']}/artifacts/custom_model/link").status_code == 404
    assert idle.get(f"/jobs/{job['id']}/artifacts").json() == []


def test_a_report_cannot_run_scripts_in_our_name(idle: TestClient, home: Path) -> None:
    job = make(idle)
    folder = home / "jobs" / str(job["id"]) / "artifacts" / "report"
    folder.mkdir(parents=True)
    (folder / "report.html").write_text("<script>alert(1)</script>")
    answer = idle.get(f"/jobs/{job['id']}/report")
    assert (
        "sandbox" in answer.headers["content-security-policy"]
        and "default-src 'none'" in answer.headers["content-security-policy"]
    )
    assert answer.headers["x-content-type-options"] == "nosniff"
    page = idle.get(f"/jobs/{job['id']}/artifacts/report/report.html")
    assert (
        page.headers["content-type"] == "application/octet-stream"
        and "attachment" in page.headers["content-disposition"]
    )


def test_logs_are_read_by_bytes_and_no_character_is_torn(idle: TestClient, home: Path) -> None:
    job = make(idle)
    text = "größe 數據 🎵 " * 200 + "ende"
    folder = home / "jobs" / str(job["id"])
    folder.mkdir(parents=True)
    (folder / "output.log").write_bytes(text.encode() + b"\xff\xf0\x9f")
    got, offset = "", 0
    while True:
        chunk = idle.get(f"/jobs/{job['id']}/logs", params={"offset": offset, "limit": 17}).json()
        if not chunk["text"]:
            break
        got, offset = got + chunk["text"], chunk["next_offset"]
    assert got == text + "��"
    assert offset == chunk["size_bytes"] == len(text.encode()) + 3
