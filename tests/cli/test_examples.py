"""Each example runs as it stands, on a small model."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import REPO, ServerProcess
from tunesmith import Client
from tunesmith.cli.config import read_config

HUB_NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"


@pytest.fixture
def server(start_server: Callable[..., ServerProcess], tmp_path: Path, tiny_model: Path) -> ServerProcess:
    shutil.copytree(tiny_model, tmp_path / "home" / "models" / "tests--tiny")
    shutil.copytree(REPO / "examples", tmp_path / "examples")
    return start_server(tmp_path / "home", TUNESMITH_CUSTOM_SCRIPTS="1")


@pytest.mark.timeout(600)
def test_the_examples_run(server: ServerProcess, tmp_path: Path) -> None:
    def run(*words: str) -> str:
        env = {**os.environ, "TUNESMITH_URL": server.url, "TUNESMITH_HOME": str(tmp_path / "home"), "COLUMNS": "200"}
        done = subprocess.run(
            [sys.executable, *words], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=280
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    said = run("examples/quickstart.py", "tests/tiny")
    assert "16 rows of shape question_answer" in said and "step 12 of 12" in said
    with tarfile.open(tmp_path / "support-bot.tar.gz") as archive:
        assert any(name.endswith("adapter_model.safetensors") for name in archive.getnames())

    yaml = tmp_path / "examples" / "lora.yaml"
    assert read_config(yaml).model.name == HUB_NAME
    yaml.write_text(yaml.read_text().replace(HUB_NAME, "tests/tiny"))
    assert "completed" in run("-m", "tunesmith", "train", "--config", str(yaml))

    script = ["--method", "custom", "--set", "script=@examples/custom_script.py", "--set", 'config={"steps": 9}']
    assert "completed" in run("-m", "tunesmith", "jobs", "create", *script, "--watch")
    with Client(server.url) as client:
        fitted, tuned, _ = client.jobs.list()
        assert tuned.info.name == "support-bot" and tuned.status().total_steps == 12
        assert fitted.status().step == 9 and 1 < fitted.info.metrics["slope"] < 3
