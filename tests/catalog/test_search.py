"""Searching the hub and what is here: filters, memory, silence, and what is at hand first."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.catalog.ground import make_base, stand_in_hub
from tunesmith.app import create_app
from tunesmith.features.catalog import hub
from tunesmith.features.catalog.memory import needs, usual_shape
from tunesmith.recipes.model_info import ModelInfo
from tunesmith.recipes.plans import Machine
from tunesmith.settings import Settings


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """What another hub said; and that the tests' own environment is offline."""
    monkeypatch.setattr(hub, "_memory", hub._Memory())
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A hub, and nothing remembered of another one."""
    forget(monkeypatch)
    with stand_in_hub() as server:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{server.server_address[1]}")
        yield server


@pytest.fixture
def client(settings: Settings) -> Iterator[TestClient]:
    make_base(settings.models_dir / "acme--at-hand")
    (settings.models_dir / "acme--at-hand" / "README.md").write_text("---\nlicense: mit\n---\n# hello")
    online = settings.model_copy(update={"hub_offline": False})
    with TestClient(create_app(online), client=("127.0.0.1", 1), base_url="http://localhost/api/v1") as client:
        yield client


def names(found: dict[str, Any]) -> list[str]:
    return [model["name"] for model in found["items"]]


def test_what_is_here_comes_first_then_the_hub(client: TestClient, endpoint: Any) -> None:
    found = client.get("/models/search", params={"q": "acme"}).json()
    assert names(found) == ["acme/at-hand", "acme/small-chat", "acme/large-chat"] and not found["hub_problem"]
    here, small, large = found["items"]
    assert here["at_hand"] and here["licence"] == "mit" and not small["at_hand"]
    assert small["num_parameters"] == 494_032_768 and small["licence"] == "apache-2.0" and small["downloads"] == 1234
    assert large["gated"] and {need["fit"] for need in large["memory"]} <= {"too_large", "unavailable"}
    assert [need["method"] for need in small["memory"]] == ["lora", "qlora", "standard"]
    assert small["memory"][0]["estimated"] and not here["memory"][0]["estimated"]


def test_filters_reach_the_hub_and_the_models_here_alike(client: TestClient, endpoint: Any) -> None:
    everything = names(client.get("/models/search").json())
    assert "other/embedder" in everything and "acme/at-hand" in everything
    found = client.get("/models/search", params={"category": "feature-extraction"}).json()
    assert names(found) == ["other/embedder"] and "feature extraction" in found["items"][0]["why_not"]
    assert names(client.get("/models/search", params={"licence": "apache-2.0"}).json()) == ["acme/small-chat"]
    query = {"provider": "Qwen", "size": "2b-5b", "sort": "likes"}
    assert "acme/at-hand" not in names(client.get("/models/search", params=query).json())
    asked = endpoint.asked[-1]
    assert (asked["author"], asked["num_parameters"], asked["sort"]) == (["Qwen"], ["min:2B,max:5B"], ["likes"])
    pickled = client.get("/models/search", params={"q": "pickled"}).json()["items"][0]
    assert "safetensors" in pickled["why_not"] and pickled["memory"] == []
    for wrong in ({"size": "huge"}, {"category": "x"}, {"sort": "best"}, {"cursor": "-1"}, {"limit": "1000"}):
        assert client.get("/models/search", params=wrong).status_code == 422


def test_pages_follow_each_other_and_the_hub_is_asked_once(client: TestClient, endpoint: Any) -> None:
    seen: list[str] = []
    cursor = None
    for _ in range(10):
        page = client.get("/models/search", params={"limit": 2, **({"cursor": cursor} if cursor else {})}).json()
        seen += names(page)
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert len(seen) == len(set(seen)) == 6 and cursor is None
    assert len(endpoint.asked) == 1


def test_a_hub_that_is_silent_costs_one_wait_and_hides_nothing(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget(monkeypatch)
    monkeypatch.setattr(hub, "WAIT_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as deaf:  # takes connections and says nothing
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{deaf.getsockname()[1]}")
        began = time.monotonic()
        found = client.get("/models/search").json()
        assert names(found) == ["acme/at-hand"] and "did not answer within 0.5 s" in found["hub_problem"]
        again = client.get("/models/search", params={"q": "hand"}).json()
        assert names(again) == ["acme/at-hand"] and again["hub_problem"] == found["hub_problem"]
        assert time.monotonic() - began < 5


def test_a_hub_that_is_switched_off_is_never_asked(settings: Settings, endpoint: Any) -> None:
    make_base(settings.models_dir / "acme--at-hand")
    with TestClient(create_app(settings), client=("127.0.0.1", 1), base_url="http://localhost/api/v1") as client:
        found = client.get("/models/search").json()
    assert names(found) == ["acme/at-hand"] and "TUNESMITH_HUB_OFFLINE" in found["hub_problem"]
    assert endpoint.asked == []


def test_the_collection_keeps_what_is_starred(client: TestClient, endpoint: Any) -> None:
    made = client.post("/models/collection", json={"name": "acme/small-chat", "note": "small"}).json()
    assert client.post("/models/collection", json={"name": "acme/small-chat"}).json() == made, "once is enough"
    client.post("/models/collection", json={"name": "acme/at-hand"})
    listed = client.get("/models/collection").json()["items"]
    assert [(m["name"], m["at_hand"], m["note"]) for m in listed] == [
        ("acme/at-hand", True, ""), ("acme/small-chat", False, "small"),
    ]  # fmt: skip
    found = client.get("/models/search", params={"q": "small-chat"}).json()["items"][0]
    assert found["collected"]
    changed = client.patch(f"/models/collection/{made['id']}", json={"note": "better"}).json()
    assert changed["note"] == "better"
    assert client.delete(f"/models/collection/{made['id']}").status_code == 204
    assert client.delete(f"/models/collection/{made['id']}").status_code == 404
    assert client.post("/models/collection", json={"name": "../etc/passwd"}).status_code == 422
    assert [m["name"] for m in client.get("/models/collection").json()["items"]] == ["acme/at-hand"]


QWEN_7B = ModelInfo(
    "qwen2", "Qwen2ForCausalLM", 7_615_616_512, 15_231_233_024, 28, 3584, 28, 152_064, 32_768, 2_523_136
)
"""Numbers of Qwen2.5-7B, from its configuration."""


def test_memory_by_weights_alone_is_near_that_by_configuration() -> None:
    machine = Machine("cuda", 24 * 1024**3, fast_bf16=True)
    exact = {need.method: need for need in needs(QWEN_7B, machine)}
    guess = {need.method: need for need in needs(usual_shape(QWEN_7B.num_parameters), machine, estimated=True)}
    for method, need in exact.items():
        assert abs(guess[method].memory_bytes / need.memory_bytes - 1) < 0.35, method
    assert exact["qlora"].memory_bytes < exact["lora"].memory_bytes < exact["standard"].memory_bytes
    assert exact["standard"].fit == "too_large" and exact["lora"].fit in ("fits", "tight")
    small = {need.method: need.fit for need in needs(usual_shape(135_000_000), machine)}
    assert small["standard"] == small["lora"] == "fits"
