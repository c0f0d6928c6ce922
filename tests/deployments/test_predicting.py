"""The whole way of a model that does not chat: into the registry, in use, asked by API, SDK, command and file, and refused where it
does not belong."""

from __future__ import annotations

import csv
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.conftest import ServerProcess, kill_processes_of
from tests.serving.predictors import LABELS, make_classifier
from tests.tiny import make_tiny_model
from tunesmith.core.errors import InvalidInput
from tunesmith.sdk.client import Client

SETTINGS = {"threads": 1, "max_concurrent": 2, "watch": {"health_every_s": 1.0}}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    home = tmp_path_factory.mktemp("predicting") / "home"
    make_classifier(home / "models" / "mail", tunesmith_unsure_below=0.01)
    damaged = make_classifier(home / "models" / "damaged") / "model.safetensors"
    save_file(
        {name: np.full_like(tensor, np.nan) for name, tensor in load_file(damaged).items()}, damaged, {"format": "pt"}
    )
    make_tiny_model(home / "models" / "chatty")
    server = ServerProcess(home).start()
    yield server
    server.stop()
    server.client.close()
    kill_processes_of(home)


def deploy(server: ServerProcess, name: str, model: str, **more: Any) -> httpx.Response:
    return server.client.post("/deployments/", json={"name": name, "model": model, "settings": SETTINGS, **more})


def test_from_a_folder_to_answers(server: ServerProcess, tmp_path: Path) -> None:
    version = server.client.post("/registry/import", json={"path": "mail", "name": "mail"}).json()
    assert (version["kind"], version["architecture"]["task"]) == ("text-classifier", "text-classification")
    assert version["architecture"]["labels"] == list(LABELS)
    made = deploy(server, "mail", "mail@latest")
    assert made.status_code == 201, made.text
    told = server.wait_for(f"/deployments/{made.json()['id']}", lambda told: told["status"] != "deploying", 90)
    assert told["status"] == "ready", told
    assert told["address"] == f"{server.url}/models/mail" and told["task"] == "text-classification"
    path = f"/deployments/{told['id']}"

    answer = server.client.post(f"{path}/predict", json={"inputs": ["the question", "x"], "parameters": {"top_k": 1}})
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert (body["model"], body["task"], len(body["outputs"])) == ("mail@1.0.0", "text-classification", 2)
    assert answer.headers["X-Tunesmith-Model"] == "mail@1.0.0"
    one = server.client.post(f"{path}/predict", json={"inputs": "the question"}).json()["outputs"]
    assert one[0][0]["label"] == body["outputs"][0][0]["label"] and len(one[0]) == 3
    hub = httpx.post(told["address"], json={"inputs": "the question"}, trust_env=False)
    assert hub.status_code == 200 and hub.json() == one

    wrong = server.client.post(f"{path}/predict", json={"inputs": ["x", 3]})
    assert wrong.status_code == 422 and wrong.json()["details"][0]["loc"] == "inputs.1"
    many = server.client.post(f"{path}/predict", json={"inputs": ["x"] * 1001})
    assert many.status_code == 422 and "1,000" in many.json()["message"]
    chat = {"model": "mail", "messages": [{"role": "user", "content": "x"}]}
    refused = httpx.post(f"{server.url}/v1/chat/completions", json=chat, trust_env=False)
    assert refused.status_code == 400 and "/models/mail" in refused.json()["error"]["message"]

    requests = server.wait_for(f"{path}/requests", lambda page: len(page["items"]) >= 4)["items"]
    assert {row["path"] for row in requests} == {"/predict", "/models"}
    assert {row["status"] for row in requests} == {200, 400} and all(row["latency_s"] > 0 for row in requests)
    metrics = server.client.get(f"{path}/metrics").json()
    assert metrics["total"]["requests"] >= 3 and metrics["total"]["errors"] == 0
    _by_sdk_and_command(server, one[0], tmp_path)


def _by_sdk_and_command(server: ServerProcess, known: list[dict[str, Any]], tmp_path: Path) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text('number;label;text\n1;a;the question\n2;b;"two\nlines"\n3;c\n')
    with Client(server.url) as client:
        assert client.deployments.predict("mail", "the question").outputs == [known]
        with pytest.raises(InvalidInput, match="wanted"):
            client.deployments.predict("mail", "x", wanted=1)
        done = client.deployments.predict_file("mail", rows, tmp_path / "out.csv")
    found = list(csv.DictReader(io.StringIO(done.read_text())))
    assert [row["number"] for row in found] == ["1", "2", "3"] and [row["label"] for row in found] == ["a", "b", "c"]
    assert found[0]["predicted_label"] == known[0]["label"]
    assert float(found[0]["score"]) == pytest.approx(known[0]["score"], abs=1e-5)
    assert found[1]["predicted_label"] and not found[1]["error"]
    assert found[2]["error"] == "The row has 2 cells and the header 3." and not found[2]["predicted_label"]
    env = {**os.environ, "TUNESMITH_URL": server.url}
    command = [sys.executable, "-m", "tunesmith", "predict", "mail", "the question", "--set", "top_k=1"]
    said = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert said.returncode == 0 and f"{known[0]['label']} {known[0]['score']:.1%}" in said.stdout, said.stderr


def test_where_it_does_not_belong_it_is_refused(server: ServerProcess) -> None:
    for more, loc in (
        ({"target": "cloud", "settings": {}}, "target"),
        ({"settings": {"engine": "llama.cpp"}}, "settings.engine"),
    ):
        answer = deploy(server, "elsewhere", "mail", **more)
        assert answer.status_code == 422 and answer.json()["details"][0]["loc"] == loc, answer.text
        assert "text classifier" in answer.json()["message"]
    said = server.client.post("/models/chat", json={"model": "mail", "messages": [{"role": "user", "content": "x"}]})
    assert said.status_code == 409 and "does not chat" in said.json()["message"]
    models = {model["name"]: model for model in server.client.get("/models/").json()["items"]}
    assert models["mail"]["task"] == "text-classification" and models["mail"]["categories"] == []
    assert models["chatty"]["task"] is None
    plan = server.client.post("/jobs/plan", json={"method": "lora", "model": "mail"})
    assert plan.status_code == 422 and "text classification" in plan.text
    page = httpx.get(f"{server.url}/playground", timeout=60).text
    assert ">chatty<" in page and ">mail<" not in page


def test_a_damaged_model_is_ill(server: ServerProcess) -> None:
    made = deploy(server, "damaged", "damaged").json()
    told = server.wait_for(f"/deployments/{made['id']}", lambda told: told["status"] != "deploying", 90)
    assert told["status"] == "failed" and "no numbers" in told["reason"], told


def test_chat_models_name_where_they_chat(server: ServerProcess) -> None:
    made = deploy(
        server, "chatty", "chatty", settings={**SETTINGS, "engine": "transformers", "context_tokens": 128}
    ).json()
    told = server.wait_for(f"/deployments/{made['id']}", lambda told: told["status"] != "deploying", 90)
    assert told["status"] == "ready" and told["task"] is None, told
    answer = server.client.post(f"/deployments/{made['id']}/predict", json={"inputs": "x"})
    assert answer.status_code == 422 and "/v1/chat/completions" in answer.json()["hint"]
    server.client.post(f"/deployments/{made['id']}/undeploy")
    gone = server.client.post(f"/deployments/{made['id']}/predict", json={"inputs": "x"})
    assert gone.status_code == 409 and "undeployed" in gone.json()["message"]
