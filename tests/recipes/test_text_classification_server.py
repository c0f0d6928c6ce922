"""One way through the server: an encoder in the folder of models, a CSV file, a plan, a job, a version with scores, an answer."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.conftest import kill_processes_of, lay_database
from tests.recipes.text_classifiers import make_encoder, rows_of
from tunesmith.app import create_app
from tunesmith.settings import Settings


@pytest.fixture
def client(tmp_path: Path) -> Iterator[TestClient]:
    settings = Settings(home=tmp_path / "home", hub_offline=True)
    make_encoder(settings.models_dir / "tiny-bert")
    lay_database(settings.home)
    with TestClient(create_app(settings), client=("127.0.0.1", 1), base_url="http://localhost/api/v1") as client:
        yield client
    kill_processes_of(settings.home)


def wait_for(client: TestClient, path: str, is_there: Callable[[Any], bool]) -> Any:
    for _ in range(600):
        found = client.get(path).json()
        if is_there(found):
            return found
        time.sleep(0.2)
    raise AssertionError(found)


def test_from_a_file_to_an_answer(client: TestClient) -> None:
    lines = ["text,label", *(f"{row['text']},{row['label']}" for row in rows_of(60))]
    data = client.put("/datasets/upload?file_name=mails.csv", content="\n".join(lines).encode()).json()
    found = wait_for(client, f"/datasets/{data['id']}", lambda d: d["status"] == "ready")
    assert found["shape"] == "text_label"
    body = {
        "method": "text-classification", "model": "tiny-bert", "dataset_id": data["id"],
        "hyperparameters": {"max_steps": 4, "weights": "frozen"},
    }  # fmt: skip
    planned = client.post("/jobs/plan", json=body).raise_for_status().json()
    assert planned["reasons"]["class_weights"] and planned["estimate"]["fits"]
    job = client.post("/jobs/", json=body).raise_for_status().json()["id"]
    done = wait_for(
        client, f"/jobs/{job}", lambda j: j["status"] in ("completed", "failed") and j.get("registered_at", 1)
    )
    assert done["status"] == "completed", done
    assert {"eval_accuracy", "eval_macro_f1", "eval_ece"} <= done["metrics"].keys()
    answer = client.post(f"/jobs/{job}/predict", json={"inputs": ["where is my parcel"]}).raise_for_status().json()
    assert {one["label"] for one in answer["outputs"][0]} - {"unsure"} == {"billing", "delivery", "login"}
    again = client.post("/jobs/plan", json={**body, "model": f"job:{job}"})
    assert again.status_code == 200, again.text
