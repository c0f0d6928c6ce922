"""A job written out as YAML, cURL, Python and command line: each text is really run, and each makes the same job."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ServerProcess
from tunesmith.features.jobs.writing_out import write_out
from tunesmith.schemas.jobs import JobCreate

NASTY = 'it\'s "quoted" $HOME `date` \\n ; rm -rf {{x}} <b> ünï 中文 --flag'
COMPARED = ("name", "method", "model", "dataset_id", "dataset_version", "eval_dataset_id", "hyperparameters", "reasons", "tags",
            "priority", "timeout_s", "not_before", "after_job_id", "resources", "status")  # fmt: skip


def run_text(kind: str, text: str, folder: Path, env: dict[str, str]) -> str:
    """Do what a user does with such a text."""
    folder.mkdir()
    if kind == "yaml":
        (folder / "job.yaml").write_text(text)
        command = ["tunesmith", "train", "--config", "job.yaml"]
    elif kind == "python":
        (folder / "job.py").write_text(text)
        command = [sys.executable, "job.py"]
    else:
        command = ["bash", "-c", text]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"{kind}: {done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture
def ready(start_server: Callable[..., ServerProcess], tmp_path: Path, tiny_model: Path) -> ServerProcess:
    """A server with a model and two datasets."""
    shutil.copytree(tiny_model, tmp_path / "home" / "models" / "tests--tiny")
    server = start_server()
    rows = "".join(json.dumps({"question": f"what is {n}", "answer": f"it is {n}"}) + "\n" for n in range(40))
    for name in ("one", "two"):
        server.client.put(
            "/datasets/upload", params={"file_name": "x.jsonl", "name": name}, content=rows.encode()
        ).raise_for_status()
    server.wait_for("/datasets/", lambda page: [d["status"] for d in page["items"]] == ["ready", "ready"])
    return server


def test_each_text_makes_the_same_job(ready: ServerProcess, tmp_path: Path) -> None:
    version = ready.client.get("/datasets/1").json()["version"]
    plain = {"model": "tests/tiny", "dataset_id": 1, "start": "manual"}
    full = {
        **plain,
        "name": NASTY,
        "method": "standard",
        "dataset_version": version,
        "eval_dataset_id": 2,
        "auto": False,
        "priority": "high",
        "timeout_s": 7200.5,
        "not_before": "2030-01-31T22:00:00+01:00",
        "after_job_id": 1,
        "after_failure": False,
        "tags": ["a, b", NASTY, "-x"],
        "resources": {"num_gpus": 0, "cpu_threads": 1},
        "hyperparameters": {
            "learning_rate": 1e-5,
            "epochs": 2,
            "packing": False,
            "optimizer": "lion",
            "max_steps": 3,
            "report_to": [],
            "early_stopping": {"enabled": True, "patience": 2},
            "system_prompt": "@" + NASTY + "\nsecond line",
        },
    }
    number_like = {**plain, "hyperparameters": {"system_prompt": "12"}, "tags": ["true", "1"], "name": "0"}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = {**ready.env, "TUNESMITH_URL": ready.url, "PATH": path}
    for number, body in enumerate((plain, full, number_like)):
        job = ready.client.post("/jobs/", json=body).raise_for_status().json()
        answer = ready.client.post("/jobs/write-out", json=body, params={"url": ready.url})
        texts = answer.raise_for_status().json()
        assert set(texts) == {"yaml", "curl", "python", "cli"}
        for kind, text in texts.items():
            run_text(kind, text, tmp_path / f"{kind}-{number}", env)
            made = ready.client.get("/jobs/", params={"limit": 1}).json()["items"][0]
            assert made["id"] != job["id"], f"{kind} made no job"
            assert {name: made[name] for name in COMPARED} == {name: job[name] for name in COMPARED}, kind
            job = made


def test_what_is_the_default_anyway_is_left_out_and_no_secret_is_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("TUNESMITH_TOKEN", "tm_secret")
    texts = write_out(JobCreate(model="a/b", dataset_id=3, priority="normal", auto=True))
    assert yaml.safe_load(texts.yaml) == {"method": "lora", "model": {"name": "a/b"}, "training_data": {"dataset": 3}}
    assert "secret" not in str(texts) and "priority" not in str(texts)
    assert "Client()" in texts.python and texts.cli.startswith("tunesmith jobs create")
    elsewhere = write_out(JobCreate(model="a/b", dataset_id=3), "https://tune.example:8443")
    assert all("https://tune.example:8443" in text for text in (elsewhere.curl, elsewhere.python, elsewhere.cli))


def test_an_address_that_is_none_is_refused(ready: ServerProcess) -> None:
    for url in ("file:///etc/passwd", "javascript:1", "http://a b", "http://a/b"):
        answer: Any = ready.client.post("/jobs/write-out", json={}, params={"url": url})
        assert answer.status_code == 422 and "url" in answer.json()["details"][0]["loc"]


def test_the_command_line_tells_every_setting(ready: ServerProcess) -> None:
    env = {**ready.env, "TUNESMITH_URL": ready.url, "COLUMNS": "200"}

    def ask(*words: str) -> str:
        command = [sys.executable, "-m", "tunesmith", *words]
        return subprocess.run(command, env=env, capture_output=True, text=True, check=True, timeout=60).stdout

    assert "needs an NVIDIA GPU" in ask("jobs", "methods")
    told = ask("jobs", "methods", "standard")
    assert "early_stopping.patience" in told and "2e-05" in told and "1e-06 to 5e-05" in told and "lora_r" not in told
