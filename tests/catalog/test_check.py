"""What a model is for, whether it fits, what its licence allows, which to take; GGUF files and other folders; cards."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.catalog.downloading import TOKEN, Hub, Repository, file_hub, files_of
from tests.catalog.ground import make_base
from tests.catalog.test_search import forget
from tunesmith.app import create_app
from tunesmith.features.catalog import asking, fitting, purposes
from tunesmith.features.catalog.cards import DESCRIPTION_CHARS, description
from tunesmith.features.catalog.curated import MODELS
from tunesmith.features.catalog.licences import LICENCES, licence
from tunesmith.features.catalog.memory import needs
from tunesmith.features.catalog.recommending import recommend
from tunesmith.recipes.plans import Machine
from tunesmith.settings import Settings

GIB = 1024**3
LAPTOP, CARD = Machine("cpu", 16 * GIB), Machine("cuda", 24 * GIB, fast_bf16=True)
QWEN = {
    "model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "hidden_size": 896, "num_hidden_layers": 24,
    "num_attention_heads": 14, "num_key_value_heads": 2, "vocab_size": 151936, "intermediate_size": 4864,
    "max_position_embeddings": 32768,
}  # fmt: skip
"""The configuration of Qwen2.5-0.5B-Instruct."""


def make_gguf(path: Path, **values: Any) -> Path:
    """A whole GGUF file with one tensor of 64 x 32 weights."""
    path.parent.mkdir(parents=True, exist_ok=True)
    keys: dict[str, Any] = {
        "general.architecture": "llama", "general.file_type": 15, "general.license": "mit", "llama.block_count": 2,
        "llama.embedding_length": 64, "llama.attention.head_count": 4, "llama.attention.head_count_kv": 2,
        "llama.context_length": 2048, "llama.vocab_size": 32, "tokenizer.chat_template": "{{ x }}", **values,
    }  # fmt: skip

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    header = b"GGUF" + struct.pack("<IQQ", 3, 1, len(keys))
    for name, value in keys.items():
        header += text(name)
        header += struct.pack("<I", 8) + text(value) if isinstance(value, str) else struct.pack("<II", 4, value)
    header += text("w") + struct.pack("<IQQIQ", 2, 64, 32, 0, 0)
    header += b"\0" * (-len(header) % 32)
    path.write_bytes(header + b"\0" * (64 * 32 * 4))
    return path


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    forget(monkeypatch)
    monkeypatch.setattr(asking, "_descriptions", {})
    monkeypatch.setattr(purposes, "_counts", {})
    monkeypatch.setenv("HF_TOKEN", "")
    files = files_of(make_base(tmp_path / "repository" / "m", **QWEN))
    with file_hub(
        acme__small_instruct=Repository(files, num_parameters=494_032_768), acme__gated=Repository(files, gated=True),
        acme__huge_coder=Repository({k: v for k, v in files.items() if k != "config.json"}, num_parameters=70_000_000_000),
    ) as hub:  # fmt: skip
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
        yield hub


@pytest.fixture
def client(settings: Settings) -> Iterator[TestClient]:
    make_base(settings.models_dir / "acme--at-hand")
    (settings.models_dir / "acme--at-hand" / "README.md").write_text("---\nlicense: mit\n---\n# hello")
    online = settings.model_copy(update={"hub_offline": False})
    with TestClient(create_app(online), client=("127.0.0.1", 1), base_url="http://localhost/api/v1") as client:
        yield client


def test_a_check_tells_all_before_anything_is_fetched(client: TestClient, hub: Hub) -> None:
    found = client.get("/models/check", params={"name": "acme/small-instruct"}).json()
    assert not found["is_at_hand"] and found["is_reachable"] and found["gated"] is False and not found["has_token"]
    assert found["num_parameters"] == 494_032_768 and found["architecture"] == "Qwen2ForCausalLM"
    assert not found["is_estimated"] and found["context_length"] == 32768 and found["has_disk"]
    assert found["licence"]["commercial"] == "yes" and "commercial use is allowed" in found["verdict"]
    uses = {use["way"]: use for use in found["uses"]}
    assert list(uses) == ["weights", "inference", "lora", "qlora", "full"]
    for use in uses.values():
        assert sum(part["bytes"] for part in use["parts"]) == use["memory_bytes"]
    assert uses["weights"]["memory_bytes"] == 2 * 494_032_768
    kv = next(part for part in uses["inference"]["parts"] if part["name"] == "kv_cache")
    assert kv["bytes"] == 2 * 24 * (2 * 64) * 4096 * 2 and "24 layers × 128 values × 4,096 tokens" in kv["sum"]
    assert "494,032,768 weights × 2 bytes" in uses["weights"]["parts"][0]["sum"]
    fetched = [one for one in hub.asked if one[1].endswith(".safetensors")]
    assert not fetched and client.get("/models/acme/small-instruct").status_code == 404


def test_a_check_says_what_stands_in_the_way(client: TestClient, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    check = lambda name: client.get("/models/check", params={"name": name})  # noqa: E731
    huge = check("acme/huge-coder").json()
    assert (
        huge["is_estimated"]
        and "too large" in huge["verdict"]
        and {u["fit"] for u in huge["uses"]} <= {"too_large", "unavailable"}
    )
    closed = check("acme/gated").json()
    assert closed["gated"] and closed["is_reachable"] is False and "terms" in closed["verdict"]
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    opened = check("acme/gated").json()
    assert opened["has_token"] and opened["is_reachable"] and "accepted" in opened["hub_sentence"]
    assert TOKEN not in str(opened)
    here = check("acme/at-hand").json()
    assert (
        here["is_at_hand"]
        and here["source"] == "local"
        and here["is_reachable"] is False
        and here["download_bytes"] == 0
    )
    assert check("acme/none").status_code == 404 and check("plain").status_code == 404
    assert check("../../etc/passwd").status_code == 422
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    away = check("acme/small-instruct").json()
    assert away["is_reachable"] is False and not away["uses"] and "could not be asked" in away["verdict"]


def test_offline_says_so_and_works_with_what_is_there(settings: Settings) -> None:
    make_base(settings.models_dir / "acme--at-hand")
    with TestClient(create_app(settings), client=("127.0.0.1", 1), base_url="http://localhost/api/v1") as client:
        found = client.get("/models/check", params={"name": "acme/at-hand"}).json()
        assert found["is_reachable"] is None and "TUNESMITH_HUB_OFFLINE" in found["hub_sentence"] and found["uses"]
        away = client.get("/models/check", params={"name": "acme/away"}).json()
        assert "cannot be told" in away["verdict"] and away["uses"] == []
        listed = client.get("/models/categories").json()
        assert "TUNESMITH_HUB_OFFLINE" in listed["hub_problem"]
        assert {one["key"]: one["num_at_hand"] for one in listed["items"]}["compact"] == 1
        named = client.get("/models/recommend", params={"use_case": "chat"}).json()
        assert named["items"] and "TUNESMITH_HUB_OFFLINE" in named["hub_problem"]


def test_categories_and_providers_are_counted_here_and_on_the_hub(client: TestClient, hub: Hub) -> None:
    listed = client.get("/models/categories").json()
    assert [one["key"] for one in listed["items"]] == list(purposes.PURPOSES) and not listed["hub_problem"]
    assert all(one["num_on_hub"] == 3 and not one["is_at_least"] and one["title"] for one in listed["items"])
    asked = len(hub.asked)
    client.get("/models/categories")
    assert len(hub.asked) == asked, "remembered"
    providers = {one["key"]: one for one in client.get("/models/providers").json()["items"]}
    assert providers["acme"]["num_at_hand"] == 1 and providers["Qwen"]["num_at_hand"] == 0
    found = client.get("/models/search", params={"query": "small", "limit": 5}).json()["items"]
    small = next(one for one in found if one["name"] == "acme/small-instruct")
    assert (
        small["description"].startswith("A small model that answers")
        and small["provider"] == "acme"
        and small["likes"] == 3
    )
    assert small["categories"] == ["text-generation", "instruction-following", "conversational", "compact"]
    for category in purposes.PURPOSES:
        assert client.get("/models/search", params={"category": category}).status_code == 200
    assert client.get("/models/", params={"category": "compact", "provider": "acme"}).json()["total"] == 1
    assert client.get("/models/", params={"category": "code"}).json()["total"] == 0


@pytest.mark.parametrize(
    ("name", "category", "weights", "tags", "wanted"),
    [
        ("Qwen/Qwen2.5-Coder-7B-Instruct", "text-generation", 7.6e9, ["conversational"],
         ["text-generation", "code", "instruction-following", "conversational"]),
        ("google/gemma-3-1b-it", "text-generation", 1e9, [], ["text-generation", "instruction-following", "compact"]),
        ("HuggingFaceTB/SmolVLM2-2.2B-Instruct", "image-text-to-text", 2.2e9, [],
         ["text-generation", "instruction-following", "multimodal", "compact"]),
        ("openai-community/gpt2", "text-generation", 137e6, [], ["text-generation", "compact"]),
        ("BAAI/bge-small-en-v1.5", "feature-extraction", 33e6, [], []),
        ("acme/italian-7b", "text-generation", None, [], ["text-generation"]),
    ],
)  # fmt: skip
def test_what_a_model_is_for(
    name: str, category: str, weights: float | None, tags: list[str], wanted: list[str]
) -> None:
    count = int(weights) if weights else None
    assert purposes.purposes(name, category=category, num_parameters=count, tags=tags) == wanted


def test_sums_are_those_that_plan_jobs() -> None:
    shape = fitting.shape_of_config(QWEN, 494_032_768)
    assert shape and shape.kv_width == 128 and shape.info.linear_width > 0
    for machine in (LAPTOP, CARD):
        planned = {need.method: need.memory_bytes for need in needs(shape.info, machine)}
        told = {use.way: use.memory_bytes for use in fitting.uses(shape, machine)}
        assert (told["lora"], told["qlora"], told["full"]) == (planned["lora"], planned["qlora"], planned["standard"])
    assert fitting.shape_of_config({"hidden_size": "x"}, 5) is None and fitting.shape_of_config(
        {"text_config": QWEN}, 5
    )


def test_gguf_files_and_other_folders_are_listed_and_only_read(settings: Settings, tmp_path: Path) -> None:
    other = tmp_path / "shared"
    make_base(other / "team--bot")
    make_base(other / "org" / "nested")
    make_gguf(other / "org" / "repository" / "chat-q4.gguf")
    make_gguf(settings.models_dir / "mine.gguf", **{"general.file_type": 7})
    (other / "broken.gguf").write_bytes(b"GGUFx")
    (other / "link.gguf").symlink_to(make_gguf(tmp_path / "elsewhere.gguf"))
    before = sorted(path for path in other.rglob("*"))
    told = settings.model_copy(update={"model_dirs": [other, tmp_path / "none"]})
    with TestClient(create_app(told), client=("127.0.0.1", 1), base_url="http://localhost/api/v1") as client:
        models = {model["name"]: model for model in client.get("/models/").json()["items"]}
        assert set(models) == {"team/bot", "org/nested", "org/chat-q4.gguf", "mine.gguf", "broken.gguf"}
        chat = models["org/chat-q4.gguf"]
        assert (chat["format"], chat["quantisation"], chat["num_parameters"]) == ("gguf", "Q4_K_M", 2048)
        assert (chat["source"], chat["context_length"], chat["licence"]) == ("model_dir", 2048, "mit")
        assert "conversational" in chat["categories"] and models["mine.gguf"]["quantisation"] == "Q8_0"
        assert models["broken.gguf"]["num_parameters"] is None and chat["memory"] == []
        detail = client.get("/models/detail", params={"name": "org/chat-q4.gguf"}).json()
        assert [file["path"] for file in detail["files"]] == ["chat-q4.gguf"]
        check = client.get("/models/check", params={"name": "mine.gguf"}).json()
        assert check["format"] == "gguf" and [use["way"] for use in check["uses"]] == ["weights", "inference"]
        assert check["uses"][0]["memory_bytes"] == (settings.models_dir / "mine.gguf").stat().st_size
    assert sorted(path for path in other.rglob("*")) == before


def test_recommendations_fit_and_say_why(settings: Settings) -> None:
    for use_case in (
        "chat",
        "code",
        "classification",
        "extraction",
        "summarising",
        "reasoning",
        "embedding",
        "writing",
    ):
        for machine in (LAPTOP, CARD):
            found = recommend(settings, use_case, machine, limit=50)  # type: ignore[arg-type]
            assert found.items, (use_case, machine.device)
            for item in found.items:
                assert item.best_way and item.reason.endswith(".") and item.title in item.reason and item.licence.key
    laptop = recommend(settings, "code", LAPTOP).items[0]
    card = recommend(settings, "code", CARD).items[0]
    assert "Coder" in laptop.name and "Coder" in card.name and laptop.num_parameters < card.num_parameters
    assert recommend(settings, "chat", Machine("cpu", GIB), limit=50).left_out > 10
    assert recommend(settings, "classification", CARD).items[0].num_parameters < 3e9, "no more than is enough"
    assert not [
        one
        for one in recommend(settings, "chat", CARD, limit=50, commercial=True).items
        if one.licence.commercial == "no"
    ]
    make_base(settings.models_dir / "acme--coder")
    assert "acme/coder" in [one.name for one in recommend(settings, "code", CARD, limit=50).items], (
        "what is here counts too"
    )


def test_every_curated_model_has_a_known_licence_and_a_reason() -> None:
    assert len({one.name for one in MODELS}) == len(MODELS)
    for one in MODELS:
        assert one.licence in LICENCES and one.num_parameters > 1e7 and one.use_cases and "/" in one.name, one.name
    assert licence("other", "lfm1.0").commercial == "conditions" and licence(None).commercial == "unknown"
    assert "acme-1" in licence("other", "acme-1").sentence and licence("Apache-2.0").commercial == "yes"


def test_descriptions_are_the_first_prose_of_a_card() -> None:
    card = """---
license: mit
---
# Title
<img src="x">
[![badge](b)](c)
- a list

Short.

This **model** answers [questions](https://example.org) about parcels, in
plain words.

More text.
"""
    assert description(card) == "This model answers questions about parcels, in plain words."
    assert (
        description("") == ""
        and description("```\ncode that is long enough to be a paragraph of text, really\n```") == ""
    )
    long = description("word " * 200)
    assert len(long) <= DESCRIPTION_CHARS + 1 and long.endswith("…")
