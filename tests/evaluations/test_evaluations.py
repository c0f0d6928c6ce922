"""From a training with a follow-up to scores on the registry's version, a comparison, and a gate that refuses a worse one."""

from __future__ import annotations

import io
import tarfile
from typing import Any

import httpx
import pytest

from tests.evaluations.conftest import ROWS, evaluate, eventually, upload, wait


@pytest.fixture(scope="module")
def tuned(client: httpx.Client, dataset: int) -> dict[str, Any]:
    """A training job that asks for its own evaluation."""
    follow = {"method": "evaluate", "hyperparameters": {"max_new_tokens": 4, "latency_prompts": 2}}
    body = {
        "name": "Answer bot", "method": "lora", "model": "tiny-llama", "dataset_id": dataset, "follow_up": [follow],
        "hyperparameters": {"max_steps": 60, "validation_split": 0.5, "learning_rate": 0.02}, "tags": ["nightly"],
    }  # fmt: skip
    made = client.post("/jobs/", json=body)
    assert made.status_code == 201, made.text
    wait(client, f"/jobs/{made.json()['id']}/status", "completed")
    found: dict[str, Any] = client.get(f"/jobs/{made.json()['id']}").json()
    return found


@pytest.fixture(scope="module")
def of_tuned(client: httpx.Client, tuned: dict[str, Any]) -> dict[str, Any]:
    """The evaluation that followed it."""
    items = eventually(lambda: client.get("/evaluations/", params={"model": f"job:{tuned['id']}"}).json()["items"])
    return wait(client, f"/evaluations/{items[0]['id']}", "completed")


@pytest.fixture(scope="module")
def of_base(client: httpx.Client, tuned: dict[str, Any]) -> dict[str, Any]:
    """Its base model on the same rows."""
    return evaluate(client, model="tiny-llama", held_out_of=tuned["id"], settings={"max_new_tokens": 4})


@pytest.mark.slow
def test_a_job_is_registered_and_followed_by_what_it_asked_for(
    client: httpx.Client, tuned: dict[str, Any], of_tuned: dict[str, Any]
) -> None:
    assert of_tuned["held_out_by"] == tuned["id"] and of_tuned["num_rows"] == 20
    assert of_tuned["name"] == "Answer bot evaluate" and of_tuned["labels"] == ["assistant", "user"]
    scores = {score["name"]: score for score in of_tuned["scores"]}
    assert scores["perplexity"]["value"] == pytest.approx(tuned["metrics"]["perplexity"], rel=2e-3)
    assert scores["token_accuracy"]["value"] == pytest.approx(tuned["metrics"]["token_accuracy"], abs=0.03)
    for score in of_tuned["scores"]:
        assert score["low"] <= score["value"] <= score["high"] and score["num_samples"], score
    assert of_tuned["headline"]["name"] == "accuracy" and not scores["perplexity"]["higher_is_better"]
    assert sum(map(sum, of_tuned["confusion"])) == 20
    for name in of_tuned["plots"]:
        picture = client.get(f"/jobs/{of_tuned['id']}/artifacts/evaluation/{name}.svg")
        assert picture.status_code == 200, name
    version = client.get("/registry/answer-bot/versions/1.0.0").json()
    assert version["job_id"] == tuned["id"] and version["kind"] == "adapter" and version["tags"] == ["nightly"]
    kept = eventually(lambda: client.get("/registry/answer-bot/versions/1.0.0").json()["scores"])
    assert kept["labels (held out)"]["job_id"] == of_tuned["id"]


@pytest.mark.slow
def test_the_report_of_the_training_tells_of_it(
    client: httpx.Client, tuned: dict[str, Any], of_tuned: dict[str, Any]
) -> None:
    eventually(lambda: client.get("/registry/answer-bot/versions/1.0.0").json()["scores"])
    path = f"/jobs/{tuned['id']}"
    report = client.get(f"{path}/report").text
    part = report[report.index("<h2>Evaluations</h2>") : report.index("<h2>Curves</h2>")]
    assert "labels (held out)" in part and f"evaluation {of_tuned['id']}" in part and "20 rows of labels" in part
    for score in of_tuned["scores"]:
        assert f'<th scope="row">{score["title"]}' in part
    assert part.count("<td>20</td>") >= 4 and "Accuracy" in part
    assert 'aria-label="Accuracy ' in part and 'aria-label="Right label and answer"' in part and "<script" not in part
    first, second = (client.get(f"{path}/download").content for _ in range(2))
    assert first == second and client.get(f"{path}/report").text == report
    with tarfile.open(fileobj=io.BytesIO(first)) as archive:
        packed = archive.extractfile(f"{tuned['output_name']}/report/report.html")
        assert packed and packed.read().decode() == report
    written = client.get(f"{path}/artifacts/report/report.html").text
    assert "Evaluations" not in written and client.get("/registry/answer-bot/versions/1.0.0/verify").status_code != 409


@pytest.mark.slow
def test_every_step_of_it_is_counted(client: httpx.Client, of_tuned: dict[str, Any]) -> None:
    job = client.get(f"/jobs/{of_tuned['id']}").json()
    assert job["step"] == job["total_steps"] == 20 + 20 + 2 and job["progress"] == 1  # likelihood, answers, latency
    told = client.get(f"/jobs/{job['id']}/events", params={"types": "progress"}).json()
    done = [one["event"]["done"] for one in told if one["event"]["unit"] == "steps"]
    assert len(done) > 2 and done == sorted(done) and done[-1] == 42
    assert client.get(f"/jobs/{job['id']}/status").json()["total_steps"] == 42


@pytest.mark.slow
def test_thumbs_of_the_playground_are_a_score_of_the_version(
    client: httpx.Client, tuned: dict[str, Any], of_tuned: dict[str, Any], of_base: dict[str, Any]
) -> None:
    path = "/registry/answer-bot"
    eventually(lambda: client.get(f"{path}/versions/1.0.0").json()["scores"])
    client.put(f"{path}/aliases/tried", json={"version": "1.0.0"}).raise_for_status()

    def rate(model: str, verdict: str) -> dict[str, Any]:
        asked = [{"role": "user", "content": "Who?"}]
        body = {"model": model, "messages": asked, "answer": "I", "verdict": verdict}
        made: dict[str, Any] = client.post("/ratings/", json=body).json()
        return made

    def score() -> dict[str, Any] | None:
        told = client.get(f"{path}/versions/1.0.0").json()["scores"].get("Human ratings (playground)")
        return told["scores"]["human_rating"] if told else None

    events = len(client.get(f"{path}/events").json()["items"])
    made = [rate(f"job:{tuned['id']}", "up"), rate("answer-bot@tried", "up"), rate("answer-bot@1.0.0", "down")]
    assert made[1]["model"] == "answer-bot@1.0.0" and len(client.get(f"{path}/events").json()["items"]) == events
    rate("tiny-llama", "down")
    found = score()
    assert found and found["num_samples"] == 3 and found["value"] == pytest.approx(2 / 3)
    assert (found["low"], found["high"]) == pytest.approx((0.2077, 0.9385), abs=1e-4)
    version = client.get(f"{path}/versions/1.0.0").json()
    assert version["numbers"]["human_rating"] == pytest.approx(2 / 3) and "labels (held out)" in version["scores"]
    assert "Human rating" in client.get(f"/jobs/{tuned['id']}/report").text
    compared = client.post("/evaluations/compare", json={"evaluations": [of_base["id"], of_tuned["id"]]}).json()
    human = next(one for one in compared["scores"] if one["name"] == "human_rating")
    assert human["scores"][0] is None and human["scores"][1]["num_samples"] == 3
    client.patch(f"/ratings/{made[0]['id']}", json={"verdict": "down"}).raise_for_status()
    changed = score()
    assert changed and changed["value"] == pytest.approx(1 / 3)
    for rating in made:
        client.delete(f"/ratings/{rating['id']}").raise_for_status()
    assert score() is None and client.get(f"{path}/versions/1.0.0").json()["scores"]


@pytest.mark.slow
def test_samples_are_paged_and_filtered(client: httpx.Client, of_tuned: dict[str, Any]) -> None:
    path = f"/evaluations/{of_tuned['id']}/samples"
    first = client.get(path, params={"limit": 12}).json()
    rest = client.get(path, params={"limit": 12, "cursor": first["next_cursor"]}).json()
    rows = [sample["row"] for sample in (*first["items"], *rest["items"])]
    assert len(rows) == 20 and rows == sorted(rows) and rest["next_cursor"] is None
    right = client.get(path, params={"only": "right"}).json()["items"]
    wrong = client.get(path, params={"only": "wrong"}).json()["items"]
    assert len(right) + len(wrong) == 20 and all(sample["right"] for sample in right)
    for sample in right:
        assert ROWS[sample["row"]]["answer"] == sample["expected"] and "likelihood" in sample["stats"]
    assert client.get(path, params={"q": f"question {rows[0]} of"}).json()["items"][0]["row"] == rows[0]


@pytest.mark.slow
def test_a_comparison_is_paired_and_says_what_a_difference_means(
    client: httpx.Client, dataset: int, of_tuned: dict[str, Any], of_base: dict[str, Any]
) -> None:
    found = client.post("/evaluations/compare", json={"evaluations": [of_base["id"], of_tuned["id"]]}).json()
    by_name = {score["name"]: score for score in found["scores"]}
    perplexity = by_name["perplexity"]["differences"]
    assert perplexity[0] is None and perplexity[1]["test"] == "paired bootstrap" and perplexity[1]["num_samples"] == 20
    assert perplexity[1]["significant"] and perplexity[1]["words"] == "significantly better, 20 samples"
    assert perplexity[1]["value"] < 0 and perplexity[1]["high"] < 0
    accuracy = by_name["accuracy"]["differences"][1]
    assert accuracy["test"] == "McNemar" and 0 <= accuracy["p_value"] <= 1
    same = client.post("/evaluations/compare", json={"evaluations": [of_tuned["id"], of_tuned["id"]]})
    assert same.status_code == 422
    other = upload(client, ROWS[:12], "other.jsonl")
    elsewhere = evaluate(client, model="tiny-llama", dataset_id=other, metrics=["perplexity"])
    refused = client.post("/evaluations/compare", json={"evaluations": [of_tuned["id"], elsewhere["id"]]})
    assert refused.status_code == 422 and "labels" in refused.json()["message"] and "other" in refused.json()["message"]
    listed = client.get("/evaluations/", params={"dataset_id": dataset}).json()
    assert {item["id"] for item in listed["items"]} >= {of_tuned["id"], of_base["id"]} and listed["total"] >= 2
    assert elsewhere["id"] not in {item["id"] for item in listed["items"]}


@pytest.mark.slow
def test_a_version_that_is_worse_does_not_take_the_champions_place(
    client: httpx.Client, dataset: int, tuned: dict[str, Any], of_tuned: dict[str, Any]
) -> None:
    eventually(lambda: client.get("/registry/answer-bot/versions/1.0.0").json()["scores"])
    path = "/registry/answer-bot/aliases/champion"
    assert client.put(path, json={"version": "1.0.0"}).status_code == 200
    worse = client.post(
        "/jobs/",
        json={
            "name": "Answer bot", "method": "lora", "model": "tiny-llama", "dataset_id": dataset,
            "hyperparameters": {"max_steps": 1, "validation_split": 0.5, "learning_rate": 1e-6},
            "follow_up": [{"method": "evaluate", "hyperparameters": {"max_new_tokens": 4}}],
        },
    ).json()  # fmt: skip
    wait(client, f"/jobs/{worse['id']}/status", "completed")
    eventually(lambda: client.get("/registry/answer-bot/versions/1.1.0").json().get("scores"), 120)
    refused = client.put(path, json={"version": "1.1.0"})
    assert refused.status_code == 409, refused.text
    assert "Perplexity on labels (held out) goes from" in refused.json()["message"]
    assert "significantly worse, 20 samples" in refused.json()["message"]
    assert client.put("/registry/answer-bot/aliases/experiment", json={"version": "1.1.0"}).status_code == 200


def test_what_cannot_be_evaluated_is_said_at_once(client: httpx.Client, dataset: int) -> None:
    no_rows = client.post("/evaluations/", json={"model": "tiny-llama"})
    assert no_rows.status_code == 422 and no_rows.json()["details"][0]["loc"] == "dataset_id"
    bad = client.post("/evaluations/", json={"model": "tiny-llama", "dataset_id": dataset, "metrics": ["wit"]})
    assert bad.status_code == 422 and bad.json()["details"][0]["loc"] == "hyperparameters.metrics.0"
    follow = {"method": "evaluate", "hyperparameters": {"max_prompts": -1}}
    body = {"method": "lora", "model": "tiny-llama", "dataset_id": dataset, "follow_up": [follow], "start": "manual"}
    refused = client.post("/jobs/", json=body)
    assert refused.status_code == 422
    assert refused.json()["details"][0]["loc"] == "follow_up.0.hyperparameters.max_prompts"
    assert client.get("/evaluations/999").status_code == 404
    kinds = {method["name"]: method["kind"] for method in client.get("/jobs/methods").json()}
    assert kinds["evaluate"] == "evaluation" and kinds["lora"] == "training"


@pytest.mark.slow
def test_a_battle_is_blind_until_the_vote_and_counts_once(client: httpx.Client, dataset: int) -> None:
    body = {"models": ["tiny-llama", "tiny-other"], "dataset_id": dataset, "max_tokens": 6}
    made = client.post("/evaluations/arena/battles", json=body)
    assert made.status_code == 201, made.text
    battle = made.json()
    path = f"/evaluations/arena/battles/{battle['id']}"
    assert battle["model_a"] is None and battle["prompt"] == ROWS[battle["row_number"] - 1]["question"]
    early = client.post(f"{path}/vote", json={"vote": "a"})
    assert early.status_code == 409 and "answer first" in early.json()["message"]
    for side in "ab":
        told = client.post(f"{path}/answers/{side}", timeout=180)
        assert told.status_code == 200 and "tiny" not in told.text and '"finish_reason": "' in told.text
    assert client.post(f"{path}/answers/a").status_code == 409
    assert client.get(path).json()["model_a"] is None and client.get(path).json()["answer_b"] is not None
    hidden = client.get("/evaluations/arena/battles", params={"model": "tiny-llama"}).json()["items"]
    assert battle["id"] not in [one["id"] for one in hidden]
    voted = client.post(f"{path}/vote", json={"vote": "b"}).json()
    assert {voted["model_a"], voted["model_b"]} == {"tiny-llama", "tiny-other"}
    assert client.post(f"{path}/vote", json={"vote": "a"}).status_code == 409
    ratings = client.get("/evaluations/arena/ratings").json()
    assert [row["model"] for row in ratings] == [voted["model_b"], voted["model_a"]] and ratings[0]["wins"] == 1
    same = client.post("/evaluations/arena/battles", json={"models": ["tiny-llama"] * 2, "prompt": "x"})
    neither = client.post("/evaluations/arena/battles", json={"models": ["tiny-llama", "tiny-other"]})
    gone = client.post("/evaluations/arena/battles", json={"models": ["tiny-llama", "no-model"], "prompt": "x"})
    assert [one.status_code for one in (same, neither, gone)] == [422, 422, 404]


@pytest.mark.slow
def test_a_follow_up_that_cannot_be_started_is_a_notice(client: httpx.Client, dataset: int) -> None:
    """Nothing was held out, so there are no rows to measure on."""
    body = {
        "method": "lora", "model": "tiny-llama", "dataset_id": dataset, "name": "No held-out rows",
        "hyperparameters": {"max_steps": 1, "validation_split": 0}, "follow_up": [{"method": "evaluate"}],
    }  # fmt: skip
    job = client.post("/jobs/", json=body).json()
    wait(client, f"/jobs/{job['id']}/status", "completed")

    def notices() -> list[dict[str, Any]]:
        events = client.get(f"/jobs/{job['id']}/events", params={"types": "notice"}).json()
        return [e["event"] for e in events if "could not be started" in e["event"].get("message", "")]

    assert "learned from every row" in eventually(notices)[0]["message"]
    assert client.get("/registry/no-held-out-rows/versions/1.0.0").status_code == 200
