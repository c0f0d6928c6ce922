"""Models put elsewhere through the server: a deployment's whole life in Ollama, LM Studio and a cloud folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ollama import Client

from tests.cli.command import tunesmith
from tests.conftest import ServerProcess, kill_processes_of
from tests.targets.ollama_server import OllamaServer


@pytest.fixture(scope="module")
def ollama() -> Iterator[OllamaServer]:
    with OllamaServer() as found:
        yield found


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, ollama: OllamaServer, tiny_model: Path) -> Iterator[ServerProcess]:
    home = tmp_path_factory.mktemp("placed") / "home"
    shutil.copytree(tiny_model, home / "models" / "tiny-llama")
    environment = {"OLLAMA_HOST": ollama.url, "LMSTUDIO_HOME": str(home / "lmstudio")}
    made = ServerProcess(home, environment).start()
    yield made
    made.stop()
    made.client.close()
    kill_processes_of(home)


def deploy(server: ServerProcess, **body: Any) -> dict[str, Any]:
    answer = server.client.post("/deployments/", json={"model": "tiny-llama", **body})
    assert answer.status_code == 201, answer.text
    over = ("ready", "failed")
    return dict(server.wait_for(f"/deployments/{answer.json()['id']}", lambda told: told["status"] in over))


def test_a_life_in_ollama(server: ServerProcess, ollama: OllamaServer) -> None:
    """Deployed, tried, asked by the official client, rolled out anew, undeployed; prompt and sampling go along."""
    made = deploy(
        server, name="mails", target="ollama", settings={"format": "q8_0"}, system_prompt="You answer mails.",
        sampling={"temperature": 0.2, "stop": ["END"]},
    )  # fmt: skip
    assert made["status"] == "ready", made
    assert ollama.models["mails"]["system"] == "You answer mails."
    assert ollama.models["mails"]["parameters"]["stop"][-1] == "END"
    assert Client(host=ollama.url).generate("mails", "Hello", options={"num_predict": 3}).response is not None
    ollama.refuses = "unsupported file"
    rollout = server.client.post(f"/deployments/{made['id']}/rollouts", json={"model": "tiny-llama"})
    assert rollout.status_code == 201
    history = server.wait_for(
        f"/deployments/{made['id']}/history", lambda page: any(e["kind"] == "failed" for e in page["items"])
    )
    ollama.refuses = ""
    assert "unsupported file" in str(history) and "stays live" in str(history)
    assert "mails" in ollama.models and server.client.get(f"/deployments/{made['id']}").json()["status"] == "ready"
    canary = {"model": "tiny-llama", "strategy": "canary"}
    assert server.client.post(f"/deployments/{made['id']}/rollouts", json=canary).status_code == 422
    assert server.client.delete(f"/deployments/{made['id']}").status_code == 409
    server.client.post(f"/deployments/{made['id']}/undeploy")
    server.wait_for("/deployments/", lambda _: "mails" not in ollama.models)
    assert server.client.delete(f"/deployments/{made['id']}").status_code == 204


def test_folders_for_others(server: ServerProcess) -> None:
    studio = deploy(server, name="studio", target="lmstudio", settings={"format": "q8_0"})
    assert studio["status"] == "ready" and Path(studio["address"]).is_file(), studio
    cloud = deploy(server, name="cloud", target="cloud", settings={"provider": "kubernetes", "engine": "llama.cpp"})
    assert cloud["status"] == "ready" and (Path(cloud["address"]) / "Dockerfile").is_file(), cloud
    server.client.post(f"/deployments/{studio['id']}/undeploy")
    server.wait_for("/deployments/", lambda _: not Path(studio["address"]).exists())


def test_what_cannot_be_is_refused_at_once(server: ServerProcess) -> None:
    for body, place in (
        ({"name": "x", "target": "ollama", "settings": {"formt": "q8_0"}}, "formt"),
        ({"name": "x", "target": "huggingface"}, "offline"),
        (
            {"name": "x", "target": "local", "settings": {"max_concurrent": 0, "watch": {"window_s": 1}}},
            "settings.watch.window_s",
        ),
        ({"name": "x", "target": "moon"}, "target"),
        ({"name": "No Name", "target": "local"}, "name"),
        ({"name": "x", "target": "local", "model": "nobody"}, "nobody"),
    ):
        answer = server.client.post("/deployments/", json={"model": "tiny-llama", **body})
        assert answer.status_code in (404, 422), answer.text
        assert place in answer.text, answer.text


def test_commands(server: ServerProcess) -> None:
    def run(*words: str, code: int = 0) -> str:
        done = tunesmith(server.home.parent, *words, TUNESMITH_URL=server.url)
        assert done.returncode == code, done.stderr
        return done.stdout

    given = ("--name", "by-hand", "--set", "threads=1", "--set", "context_tokens=256")
    assert json.loads(run("deploy", "tiny-llama", *given, "--json"))["status"] == "ready"
    assert "by-hand" in run("deployments", "list")
    run("deployments", "rollback", "by-hand", code=5)
    assert "tiny-llama" in run("deployments", "show", "by-hand")
    assert json.loads(run("deployments", "rollout", "by-hand", "tiny-llama", "--json"))["status"] == "ready"
    run("deployments", "undeploy", "by-hand")
    assert "undeployed" in run("deployments", "history", "by-hand")
    run("deployments", "delete", "by-hand")
    run("deployments", "show", "by-hand", code=4)
    assert "provider" in run("deployments", "targets")
