"""The whole way behind a training: its model becomes a version, is evaluated and compressed as asked, and is put in use."""

from __future__ import annotations

import json
import re
import shutil
import time
from pathlib import Path

import httpx

from tests.conftest import ServerProcess, kill_processes_of


def test_from_a_job_to_models_in_use(tmp_path: Path, tiny_model: Path) -> None:
    home = tmp_path / "home"
    shutil.copytree(tiny_model, home / "models" / "tiny")
    server = ServerProcess(home, {"TUNESMITH_WARM_WORKERS": "1"}).start()
    try:
        rows = "".join(json.dumps({"question": f"What is {n}?", "answer": f"It is {n}."}) + "\n" for n in range(40))
        dataset = server.client.put(
            "/datasets/upload", params={"file_name": "rows.jsonl"}, content=rows.encode()
        ).json()
        server.wait_for(f"/datasets/{dataset['id']}", lambda told: told["status"] == "ready")
        settings = {"max_steps": 2, "batch_size": 4, "validation_split": 0.2, "learning_rate": 0.001}
        follow_up = [
            {"method": "evaluate", "hyperparameters": {"metrics": ["perplexity"], "max_samples": 8}},
            {"method": "compress", "hyperparameters": {"formats": ["q8_0"], "num_eval_tokens": 64}},
        ]
        body = {
            "name": "Counting", "method": "lora", "model": "tiny", "dataset_id": dataset["id"], "hyperparameters": settings,
            "follow_up": follow_up,
        }  # fmt: skip
        job = server.client.post("/jobs/", json=body)
        assert job.status_code == 201, job.text
        jobs = server.wait_for("/jobs/", lambda page: len(page["items"]) == 3 and all(
            item["status"] in ("completed", "failed") for item in page["items"]
        ))  # fmt: skip
        assert {(item["method"], item["status"]) for item in jobs["items"]} == {
            ("lora", "completed"), ("evaluate", "completed"), ("compress", "completed")
        }, jobs  # fmt: skip
        version = server.wait_for("/registry/counting/versions/1.0.0", lambda told: "scores" in told and told["scores"])
        assert version["kind"] == "adapter" and version["lineage"]["dataset_name"] == "rows"
        smaller = server.wait_for("/registry/counting-q8_0/versions/1.0.0", lambda told: told.get("kind") == "gguf")
        assert smaller["lineage"]["compressed_from"] == "counting@1.0.0"
        compress = next(item for item in jobs["items"] if item["method"] == "compress")
        page = httpx.get(f"{server.url}/jobs/{compress['id']}", timeout=60).text
        assert "tokens of a text that comes with Tunesmith" in page and "Use this one" in page
        assert "/deployments/new?model=counting-q8_0%401.0.0" in page
        offered = httpx.get(f"{server.url}/registry/counting/1.0.0", timeout=60).text
        assert offered.count('name="hyperparameters.formats"') == 23 and re.search(
            r"q8_0</strong>.*about [\d.]+ kB", offered
        )
        for name, model in (("counting", "counting@latest"), ("smaller", "counting-q8_0@1.0.0")):
            made = server.client.post(
                "/deployments/", json={"name": name, "model": model, "settings": {"threads": 1, "context_tokens": 256}}
            )
            assert made.status_code == 201, made.text
            told = server.wait_for(f"/deployments/{made.json()['id']}", lambda told: told["status"] != "deploying")
            assert told["status"] == "ready", told
            asked = {"model": name, "prompt": "What is 7?", "max_tokens": 4}
            assert httpx.post(f"{server.url}/generate", json=asked, timeout=60).status_code == 200
        waiting = server.client.post(
            "/jobs/", json=body | {"model": "counting@1.0.0", "follow_up": [], "start": "manual"}
        )
        assert waiting.status_code == 201, waiting.text
        refused = server.client.delete("/registry/counting/versions/1.0.0")
        assert refused.status_code == 409 and "deployment counting" in refused.text
        assert f"job {waiting.json()['id']}" in refused.text
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and not server.client.get("/registry/counting/usage").json():
            time.sleep(0.2)
        assert server.client.get("/registry/counting/usage").json()[0]["requests"] >= 1
    finally:
        server.stop()
        server.client.close()
        kill_processes_of(home)
