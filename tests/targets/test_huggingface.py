"""Pushing to a hub, over a real socket with the hub's own library."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.targets.ground import make_adapter, make_work
from tests.targets.hub_server import TOKEN, HubServer
from tunesmith.core.errors import Conflict, InvalidInput, PermissionDenied, Unavailable
from tunesmith.core.job_spec import ModelRef
from tunesmith.features.deployments.targets.huggingface import HuggingFace


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # the stand-in speaks Git LFS, as hubs of one's own do
    with HubServer() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield server


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> ModelRef:
    folder = make_adapter(tiny_model, tmp_path_factory.mktemp("tuned") / "adapter")
    (folder / "optimizer.pt").write_bytes(b"not for others")
    return ModelRef(name="job:7", path=str(tiny_model), adapter_path=str(folder))


def test_an_adapter_is_pushed_in_private_with_a_card_that_says_what_it_is(
    tmp_path: Path, hub: HubServer, tuned: ModelRef
) -> None:
    target = HuggingFace()
    assert target.why_not() is None
    work = make_work(tmp_path / "work", tuned, target.check_settings({"licence": "apache-2.0"}))
    result = target.deploy(work)
    repo = hub.repos["tester/support-bot"]
    assert repo["private"] is True and result.address == f"{hub.url}/tester/support-bot"
    assert {"adapter_model.safetensors", "adapter_config.json", "README.md"} <= set(repo["files"])
    assert "optimizer.pt" not in repo["files"]
    assert (
        repo["files"]["adapter_model.safetensors"]
        == Path(str(tuned.adapter_path), "adapter_model.safetensors").read_bytes()
    )
    card = repo["files"]["README.md"].decode()
    front = yaml.safe_load(card.split("---")[1])
    assert front["base_model"] == "HuggingFaceTB/SmolLM2-135M-Instruct" and front["base_model_relation"] == "adapter"
    assert front["license"] == "apache-2.0" and front["library_name"] == "peft"
    assert front["model-index"][0]["results"][0]["metrics"] == [{"type": "rougeL", "name": "rougeL", "value": 0.41}]
    for part in ("0.38 to 0.44", "support \\| mails", "support &lt;b>", "learning_rate", "## Limits", "ab" * 32):
        assert part in card
    assert target.check(result).ok and TOKEN not in card
    target.undeploy(result)
    assert "tester/support-bot" in hub.repos, "nothing is deleted that was not asked for"
    target.undeploy(target.deploy(make_work(tmp_path / "again", tuned, target.check_settings({"delete": True}))))
    assert not hub.repos and not target.check(result).ok


def test_a_merged_model_and_gguf_files_may_be_pushed_for_all(tmp_path: Path, hub: HubServer, tuned: ModelRef) -> None:
    target = HuggingFace()
    settings = target.check_settings({"repo": "team/bot", "public": True, "merged": True, "gguf": ["q8_0"]})
    target.deploy(make_work(tmp_path / "work", tuned, settings))
    repo = hub.repos["team/bot"]
    assert repo["private"] is False
    assert {"model.safetensors", "config.json", "tokenizer.json", "support-bot-q8_0.gguf"} <= set(repo["files"])
    assert "adapter_config.json" not in repo["files"]


def test_a_push_that_was_cut_off_goes_on(
    tmp_path: Path, hub: HubServer, tuned: ModelRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = HuggingFace()
    work = make_work(tmp_path / "work", tuned, target.check_settings({"merged": True, "gguf": ["q8_0"]}))
    hub.breaks_after = 1
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _seconds: None)  # its own patience is a minute
    with pytest.raises(Unavailable, match="hub"):
        target.deploy(work)
    kept, hub.breaks_after = set(hub.large), None
    assert len(kept) == 1
    assert target.check(target.deploy(work)).ok
    assert kept < set(hub.large)


def test_what_the_hub_refuses_is_said_without_the_token(
    tmp_path: Path, hub: HubServer, tuned: ModelRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = HuggingFace()
    hub.repos["tester/support-bot"] = {"private": False, "files": {}}
    with pytest.raises(Conflict, match="public already"):
        target.deploy(make_work(tmp_path / "work", tuned, target.check_settings({})))
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(PermissionDenied) as refused:
        target.deploy(make_work(tmp_path / "work", tuned, target.check_settings({})))
    assert "hf_wrong" not in str(refused.value.body())
    monkeypatch.delenv("HF_TOKEN")
    assert "no token" in str(target.why_not())
    with pytest.raises(InvalidInput):
        target.check_settings({"repo": "../other"})
