"""Targets that are folders: LM Studio's own, and containers for the cloud."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.targets.ground import make_adapter, make_work
from tunesmith.core.errors import InvalidInput
from tunesmith.core.job_spec import ModelRef
from tunesmith.features.deployments.targets.cloud import Cloud
from tunesmith.features.deployments.targets.cloud_files import PROVIDERS, problems
from tunesmith.features.deployments.targets.lmstudio import LMStudio, models_folder
from tunesmith.recipes.blocks.to_gguf import write_gguf


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> ModelRef:
    path = tmp_path_factory.mktemp("gguf") / "model.gguf"
    write_gguf(tiny_model, path, "q8_0")
    return ModelRef(name="support-bot@1.2.0", path=str(path))


def test_lm_studio_gets_the_file_in_its_place(tmp_path: Path, gguf: ModelRef, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LMSTUDIO_HOME", str(tmp_path / "studio"))
    target = LMStudio()
    result = target.deploy(make_work(tmp_path / "work", gguf, target.check_settings({})))
    placed = tmp_path / "studio" / "models" / "tunesmith" / "support-bot" / "support-bot.gguf"
    assert Path(result.address) == placed and placed.read_bytes() == Path(gguf.path).read_bytes()
    assert target.check(result).ok and "lms load support-bot" in result.instructions
    size = placed.stat().st_size
    with placed.open("r+b") as file:
        file.truncate(1000)
    assert not target.check(result).ok
    assert Path(gguf.path).stat().st_size == size, "the registry's own file is another one"
    target.undeploy(result)
    target.undeploy(result)
    assert not placed.parent.exists() and (tmp_path / "studio" / "models").is_dir()


def test_lm_studio_is_found_as_it_says_itself(tmp_path: Path, gguf: ModelRef, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LMSTUDIO_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert models_folder() is None
    target = LMStudio()
    result = target.deploy(make_work(tmp_path / "work", gguf, target.check_settings({})))
    assert not result.is_live and "lms import" in result.instructions
    target.undeploy(result)
    (tmp_path / ".cache" / "lm-studio").mkdir(parents=True)
    assert models_folder() == tmp_path / ".cache" / "lm-studio" / "models"
    (tmp_path / ".lmstudio").mkdir()
    assert models_folder() == tmp_path / ".lmstudio" / "models"
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / ".lmstudio-home-pointer").write_text(f"{tmp_path / 'elsewhere'}\n")
    assert models_folder() == tmp_path / "elsewhere" / "models"


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("engine", ["llama.cpp", "vllm"])
def test_a_container_folder_for_each_provider_is_whole(
    tmp_path: Path, gguf: ModelRef, tiny_model: Path, provider: str, engine: str
) -> None:
    model = gguf if engine == "llama.cpp" else ModelRef(name="tiny", path=str(tiny_model))
    target = Cloud()
    settings = target.check_settings({"provider": provider, "engine": engine})
    result = target.deploy(make_work(tmp_path / "work", model, settings, title="it's `odd`; $(touch x) \n name"))
    folder = Path(result.address)
    assert not result.is_live and target.check(result).ok and not problems(folder)
    assert {"Dockerfile", "start.sh", "try.sh", "README.md", "model"} <= {path.name for path in folder.iterdir()}
    start = (folder / "start.sh").read_text()
    assert ("llama-server" in start) == (engine == "llama.cpp")
    assert ("--temp 0.2" if engine == "llama.cpp" else '"temperature": 0.2') in start
    assert "mails" in (folder / "README.md").read_text()
    assert ("charged by the hour" in (folder / "README.md").read_text()) == (provider != "docker")
    target.undeploy(result)
    assert not folder.exists() and not target.check(result).ok


def test_the_start_script_runs_what_it_says(tmp_path: Path, gguf: ModelRef) -> None:
    """With a program in the server's place that writes down how it was called."""
    target = Cloud()
    result = target.deploy(make_work(tmp_path / "work", gguf, target.check_settings({"context_tokens": 2048})))
    script = (Path(result.address) / "start.sh").read_text()
    stand_in = tmp_path / "server"
    stand_in.write_text('#!/bin/bash\nprintf "%s\\n" "$@"\n')
    stand_in.chmod(0o755)
    (tmp_path / "start.sh").write_text(script.replace("/app/llama-server", str(stand_in)))
    run = subprocess.run(
        ["bash", tmp_path / "start.sh"], env={"PATH": "/usr/bin:/bin", "API_KEY": "a b"}, capture_output=True, text=True
    )
    words = run.stdout.splitlines()
    assert (
        words[words.index("--model") + 1] == "/opt/model/model.gguf" and words[words.index("--ctx-size") + 1] == "2048"
    )
    assert words[words.index("--api-key") + 1] == "a b" and words[words.index("--port") + 1] == "8080"


def test_an_adapter_is_served_over_its_base_model_by_vllm(tmp_path: Path, tiny_model: Path) -> None:
    adapter = make_adapter(tiny_model, tmp_path / "adapter")
    model = ModelRef(name="job:7", path=str(tiny_model), adapter_path=str(adapter))
    target = Cloud()
    result = target.deploy(
        make_work(tmp_path / "work", model, target.check_settings({"provider": "kubernetes", "engine": "vllm"}))
    )
    folder = Path(result.address)
    assert "--lora-modules support-bot=/opt/model/adapter" in (folder / "start.sh").read_text()
    assert (folder / "model" / "base" / "model.safetensors").is_file()
    deployment, service = yaml.safe_load_all((folder / "kubernetes.yaml").read_text())
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    assert (
        container["resources"]["limits"]["nvidia.com/gpu"] == 1
        and service["spec"]["selector"].items() <= deployment["spec"]["template"]["metadata"]["labels"].items()
    )


def test_mistakes_in_a_folder_are_found(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("RUN x\nCOPY model /opt\nJUMP\n")
    (tmp_path / "deploy.sh").write_text("if true\n")
    (tmp_path / "deploy.py").write_text("def (")
    (tmp_path / "request.json").write_text("{")
    manifest = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {}, "spec": {
        "selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {}}, "spec": {"containers": []}}}}  # fmt: skip
    (tmp_path / "kubernetes.yaml").write_text(json.dumps(manifest))
    found = " ".join(problems(tmp_path))
    for part in (
        "not FROM",
        "JUMP is no instruction",
        "model is not there",
        "deploy.sh",
        "deploy.py, line 1",
        "request.json",
        "does not match",
    ):
        assert part in found
    with pytest.raises(InvalidInput) as error:
        Cloud().check_settings({"provider": "moon", "image": "a b"})
    assert {detail["loc"] for detail in error.value.details} == {"settings.provider", "settings.image"}
