"""A model that no job could load is refused before anything is saved: near names are told, and a hub that is silent."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.catalog.downloading import TOKEN, Hub, Repository, file_hub
from tests.catalog.ground import make_base
from tests.catalog.test_check import files_of
from tests.catalog.test_search import forget
from tests.conftest import lay_database
from tunesmith.app import create_app
from tunesmith.cli.config import TrainConfig
from tunesmith.cli.local import find_model, prepare
from tunesmith.core.errors import Conflict, InvalidInput, NotFound, Unavailable
from tunesmith.features.catalog import existence, hub
from tunesmith.settings import Settings


@pytest.fixture
def repositories(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    forget(monkeypatch)
    monkeypatch.setattr(existence, "_answers", {})
    monkeypatch.setenv("HF_TOKEN", "")
    files = files_of(make_base(tmp_path / "repository" / "m"))
    told = {name: content for name, content in files.items() if not name.endswith(".safetensors")}
    with file_hub(
        acme__small_chat=Repository(files), acme__gated=Repository(files, gated=True),
        acme__quantized=Repository({**told, "q4.gguf": b"GGUF"}), acme__pickled=Repository({**told, "pytorch_model.bin": b"x"}),
    ) as server:  # fmt: skip
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)
        yield server


@pytest.fixture
def online(settings: Settings) -> Settings:
    make_base(settings.models_dir / "acme--at-hand")
    return settings.model_copy(update={"hub_offline": False})


def test_the_hub_is_asked_once_for_what_is_not_here(online: Settings, repositories: Hub) -> None:
    for name in ("acme/at-hand", "job:7", "plain", "bot@1.0.0", "/etc/passwd", ""):
        existence.check(online, name)
    assert not repositories.asked
    for _ in range(3):
        existence.check(online, "acme/small-chat")
    asked = lambda: [path for _, path, *_ in repositories.asked if path.startswith("/api/models")]  # noqa: E731
    assert asked() == ["/api/models/acme/small-chat"]
    for _ in range(3):
        with pytest.raises(NotFound) as absent:
            existence.check(online, "acme/smal-chat")
    assert absent.value.hint.startswith("Did you mean acme/small-chat?") and "the hub has none" in absent.value.message
    assert asked()[1:] == ["/api/models/acme/smal-chat", "/api/models"]
    existence.check(online.model_copy(update={"hub_offline": True}), "acme/smal-chat")


def test_what_the_hub_has_and_no_job_can_use_is_refused(
    online: Settings, repositories: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusals: dict[str, tuple[type[Exception], str]] = {
        "acme/gated": (Conflict, "accepted its terms"), "acme/quantized": (InvalidInput, "GGUF files only"),
        "acme/pickled": (InvalidInput, "can run code"),
    }  # fmt: skip
    for name, (kind, words) in refusals.items():
        with pytest.raises(kind, match=words):
            existence.check(online, name)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(existence, "_answers", {})
    existence.check(online, "acme/gated")


def test_a_silent_hub_says_how_to_fetch_it_first(
    online: Settings, repositories: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(hub, "WAIT_S", 1.0)
    began_s = time.monotonic()
    with pytest.raises(Unavailable) as silent:
        existence.check(online, "acme/at-hnd")
    assert time.monotonic() - began_s < 2 * hub.WAIT_S
    assert "127.0.0.1:9" in silent.value.message
    assert "Did you mean acme/at-hand?" in silent.value.hint
    assert "tunesmith models download acme/at-hnd" in silent.value.hint


@pytest.mark.parametrize("path", ["/jobs/", "/jobs/plan"])
def test_no_job_is_made_for_an_unknown_model(online: Settings, repositories: Hub, path: str) -> None:
    with TestClient(create_app(online), client=("127.0.0.1", 1), base_url="http://localhost/api/v1") as client:
        ask = lambda name: client.post(path, json={"method": "lora", "model": name, "dataset_id": 1})  # noqa: E731
        for name in ("acme/small-chatt", "at-hnad", "SmolLM2-135M-Instruct"):
            answer = ask(name)
            (told,) = [one for one in answer.json()["details"] if one["loc"] == "model"]
            assert answer.status_code == 422 and f"There is no model '{name}' here" in told["message"]
            assert "Did you mean" in answer.json()["hint"]
        assert not [one for one in ask("acme/small-chat").json()["details"] if one["loc"] == "model"]
        assert client.get("/jobs/").json()["items"] == []
        measured = client.post("/evaluations/", json={"model": "acme/none-such", "dataset_id": 1}).json()
        assert any("There is no model 'acme/none-such'" in one["message"] for one in measured["details"])


def local(name: str, **more: Any) -> Any:
    config = {"model": {"name": name}, "training_data": {"path": "x.jsonl"}, **more}
    return find_model(TrainConfig.model_validate(config))


def test_local_training_finds_what_the_server_finds(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNESMITH_HOME", str(settings.home))
    monkeypatch.setenv("TUNESMITH_MODEL_DIRS", f'["{tmp_path / "shared"}"]')
    here = {
        "acme/home": make_base(settings.models_dir / "acme--home"),
        "acme/shared": make_base(tmp_path / "shared" / "acme" / "shared"),
        "acme/cached": make_base(tmp_path / "hub" / "models--acme--cached" / "snapshots" / ("a" * 40)),
        str(tmp_path / "own"): make_base(tmp_path / "own"),
    }
    for name, folder in here.items():
        model, info = local(name)
        assert Path(model.path).resolve() == folder.resolve() and info and info.num_parameters == 328, name
    (settings.models_dir / "bot.gguf").write_bytes(b"GGUF")
    for name in ("bot.gguf", str(settings.models_dir / "bot.gguf")):
        with pytest.raises(InvalidInput, match="not trained"):
            local(name)
    with pytest.raises(NotFound) as absent:
        local("acme/hom")
    assert absent.value.hint.startswith("Did you mean acme/home?") and "At hand:" in absent.value.hint
    with pytest.raises(NotFound, match="no model in"):
        local("./nothing")


def test_local_training_finds_registered_models(registered: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNESMITH_HOME", str(registered.settings.home))
    row = registered.model()
    for name in ("support-bot", "support-bot@1.0.0", "support-bot@latest"):
        model, info = local(name)
        assert model.name == "support-bot@1.0.0" and info and Path(model.path).is_relative_to(registered.settings.home)
    with pytest.raises(NotFound) as absent:
        local("suport-bot")
    assert absent.value.hint.startswith("Did you mean support-bot?") and row.version == "1.0.0"


def test_a_revision_is_the_one_that_is_trained(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNESMITH_HOME", str(settings.home))
    cache = tmp_path / "hub" / "models--acme--cached"
    old = make_base(cache / "snapshots" / ("a" * 40))
    make_base(cache / "snapshots" / ("b" * 40))
    (cache / "refs").mkdir()
    (cache / "refs" / "v1").write_text("a" * 40)
    at = lambda name, revision: find_model(  # noqa: E731
        TrainConfig.model_validate({"model": {"name": name, "revision": revision}})
    )[0]
    assert at("acme/cached", "v1").path == at("acme/cached", "a" * 40).path == str(old)
    other = at("acme/cached", "v2")
    assert (other.path, other.revision) == ("acme/cached", "v2")
    make_base(settings.models_dir / "mine")
    with pytest.raises(InvalidInput, match="not a model of the hub here"):
        at("mine", "v1")


def test_local_training_refuses_what_only_a_server_has(tmp_path: Path) -> None:
    data = {"path": "x.jsonl", "validation_dataset": "held out"}
    config = TrainConfig.model_validate({"model": {"name": "m"}, "training_data": data})
    with pytest.raises(InvalidInput, match="names a dataset of a server"):
        prepare(config, tmp_path / "out", resume=False)


@pytest.fixture
def registered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    from tests.registry.ground import Ground

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    lay_database(tmp_path / "home")
    ground = Ground(tmp_path / "home")
    yield ground
    ground.database.close()
