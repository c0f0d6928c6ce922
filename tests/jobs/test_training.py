"""A dataset, a real (small) model, a real training: from upload to a model that plain PEFT loads."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.conftest import lay_database
from tests.jobs.conftest import custom
from tests.jobs.serving_app import serve
from tunesmith.app import create_app
from tunesmith.settings import Settings

ROWS = [{"question": f"the question {n} of user", "answer": f"the answer {n} and the question {n}"} for n in range(40)]


@pytest.fixture
def client(home: Path, tiny_model: Path) -> Any:
    settings = Settings(home=home, hub_offline=True, custom_scripts=True)
    settings.make_dirs()
    lay_database(home)
    shutil.copytree(tiny_model, settings.models_dir / "tiny-llama")
    with serve(create_app(settings)) as host, httpx.Client(base_url=f"http://{host}/api/v1", timeout=60) as found:
        yield found


def upload(client: httpx.Client, rows: list[dict[str, str]] = ROWS, name: str = "rows.jsonl") -> int:
    data = "".join(json.dumps(row) + "\n" for row in rows)
    answer = client.post("/datasets/", files={"file": (name, data)})
    dataset_id = int(answer.json()["items"][0]["dataset"]["id"])
    wait(client, f"/datasets/{dataset_id}", "ready", "failed")
    return dataset_id


def wait(client: httpx.Client, path: str, *statuses: str) -> dict[str, Any]:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        found: dict[str, Any] = client.get(path).json()
        if found["status"] in statuses:
            return found
        time.sleep(0.1)
    raise AssertionError(found)


@pytest.mark.slow
def test_from_rows_to_a_model_that_goes_anywhere(client: httpx.Client, tmp_path: Path, tiny_model: Path) -> None:
    dataset = upload(client)
    request = {"method": "lora", "model": "tiny-llama", "dataset_id": dataset, "hyperparameters": {"max_steps": 12}}
    plan = client.post("/jobs/plan", json=request).json()
    assert plan["estimate"]["total_steps"] == 12 and plan["estimate"]["fits"] is True
    assert {"learning_rate", "batch_size", "max_length", "eval_steps"} <= set(plan["reasons"])
    assert client.get("/jobs/").json()["items"] == []
    job = client.post("/jobs/", json=request).json()
    assert job["hyperparameters"] == plan["hyperparameters"] and job["reasons"] == plan["reasons"]
    assert job["name"] == "tiny-llama lora rows" and len(job["dataset_version"]) == 64
    assert client.delete(f"/datasets/{dataset}").status_code == 409
    done = wait(client, f"/jobs/{job['id']}/status", "completed", "failed", "cancelled")
    assert done["status"] == "completed", done["message"]
    assert done["step"] == 12 and done["loss"] and done["eval_loss"] and done["tokens_per_s"]
    curves = client.get(f"/jobs/{job['id']}/metrics").json()["curves"]
    assert len(curves["loss"]["steps"]) == 12 and curves["eval_loss"]["values"]
    report = client.get(f"/jobs/{job['id']}/report")
    assert report.status_code == 200 and "training report" in report.text
    assert any(c["step"] > 0 for c in client.get(f"/jobs/{job['id']}/checkpoints").json())
    config = yaml.safe_load(client.get(f"/jobs/{job['id']}/config").text)
    assert config["model"]["name"] == "tiny-llama" and config["hyperparameters"]["max_steps"] == 12
    first, second = (client.get(f"/jobs/{job['id']}/download").content for _ in range(2))
    assert first == second
    with tarfile.open(fileobj=io.BytesIO(first), mode="r:gz") as archive:
        archive.extractall(tmp_path / "out", filter="data")
    folder = tmp_path / "out" / job["output_name"]
    assert (
        "ADAPTER ./lora_model" in (folder / "Modelfile").read_text()
        and "<|im_start|>" in (folder / "Modelfile").read_text()
    )
    loads(folder / "lora_model", tiny_model)
    tuned = {m["name"]: m for m in client.get("/models/").json()["items"]}[f"job:{job['id']}"]
    assert tuned["base_model"] == "tiny-llama" and tuned["method"] == "lora"
    heir = client.post("/jobs/", json={**request, "model": f"job:{job['id']}", "start": "manual"}).json()
    assert heir["model"] == f"job:{job['id']}"
    refused = client.delete(f"/jobs/{job['id']}")
    assert refused.status_code == 409 and f"Job {heir['id']}" in refused.json()["message"]
    assert client.delete(f"/jobs/{heir['id']}").status_code == 204
    assert client.delete(f"/jobs/{job['id']}").status_code == 204
    assert client.delete(f"/datasets/{dataset}").status_code == 204


def loads(adapter: Path, base: Path) -> None:
    """By plain transformers and PEFT, and it generates."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(adapter)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter)
    tokens = tokenizer("the question", return_tensors="pt")
    assert model.generate(**tokens, max_new_tokens=3, do_sample=False).shape[1] > tokens["input_ids"].shape[1]


def test_rows_that_a_method_cannot_learn_from_are_refused_with_the_remedy(client: httpx.Client) -> None:
    odd = upload(client, [{"colour": f"c{n}", "size": str(n)} for n in range(20)], "odd.jsonl")
    answer = client.post("/jobs/", json={"method": "lora", "model": "tiny-llama", "dataset_id": odd})
    assert answer.status_code == 422
    detail = answer.json()["details"][0]
    assert detail["loc"] == "dataset_id" and "tabular" in detail["message"] and "mapping" in answer.json()["hint"]
    broken = client.post("/datasets/", files={"file": ("b.parquet", b"PAR1 not really")}).json()["items"][0]["dataset"][
        "id"
    ]
    wait(client, f"/datasets/{broken}", "failed")
    refused = client.post("/jobs/", json={"method": "lora", "model": "tiny-llama", "dataset_id": broken})
    assert refused.status_code == 422 and refused.json()["details"][0]["loc"] == "dataset_id"
    version = client.post(
        "/jobs/", json={"method": "lora", "model": "tiny-llama", "dataset_id": odd, "dataset_version": "0" * 64}
    )
    assert version.status_code == 422


def test_a_batch_of_settings_waits_in_order(client: httpx.Client) -> None:
    blocker = client.post("/jobs/", json=custom(2000, 0.02)).json()["id"]
    dataset = upload(client)
    base = {"method": "lora", "model": "tiny-llama", "dataset_id": dataset}
    jobs = [{**base, "hyperparameters": {"learning_rate": rate}} for rate in (1e-4, 2e-4, 3e-4)]
    made = client.post("/jobs/batch", json={"jobs": jobs}).json()["jobs"]
    queue = client.get("/jobs/queue").json()
    assert [item["job_id"] for item in queue] == [job["id"] for job in made]
    assert "another job is running" in queue[0]["waiting_for"]
    for job in made:
        assert client.post(f"/jobs/{job['id']}/stop").json()["status"] == "cancelled"
    client.post(f"/jobs/{blocker}/stop")
    assert client.delete(f"/datasets/{dataset}").status_code == 204
    gone = client.post(f"/jobs/{made[0]['id']}/resume")
    assert gone.status_code == 409 and "deleted" in gone.json()["message"]
    wait(client, f"/jobs/{blocker}", "cancelled")
