"""Models at hand: what is listed, how names become places, and what is refused."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.catalog.ground import make_base, make_job
from tunesmith.app import create_app
from tunesmith.core.errors import BadData, InvalidInput, NotFound, UnsupportedFormat
from tunesmith.core.job_spec import ModelRef
from tunesmith.features.catalog.service import MERGED_BASE, get_model, list_models, resolve_model
from tunesmith.recipes.model_info import read_header, read_model_info
from tunesmith.settings import Settings


def test_a_folder_is_read_without_running_anything(tmp_path: Path) -> None:
    info = read_model_info(make_base(tmp_path / "m"))
    assert info.num_parameters == 32 * 8 + 8 * 8 + 8 and info.linear_width == 16 and info.context_length == 128
    assert (info.family, info.num_layers, info.hidden_size, info.num_heads) == ("llama", 1, 8, 2)
    assert info.size_bytes == (tmp_path / "m" / "model.safetensors").stat().st_size


def header_of(data: dict[str, Any] | bytes, length: int | None = None) -> bytes:
    text = data if isinstance(data, bytes) else json.dumps(data).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text


@pytest.mark.parametrize(
    "content",
    [
        b"", b"\x00" * 7, header_of({}, 2**63), header_of({}, 101 * 1024**2), header_of(b"not json"), header_of([]),  # type: ignore[arg-type]
        header_of({"w": 1}), header_of({"w": {"shape": [1], "data_offsets": [0]}}),
        header_of({"w": {"shape": [1], "data_offsets": ["0", 4]}}), header_of({"w": {"shape": [-1], "data_offsets": [0, 0]}}),
        header_of({"w": {"shape": [10], "data_offsets": [0, 40]}}), header_of({"w": {"shape": [1], "data_offsets": [4, 0]}}),
        header_of(b"[" * 100_000),
    ],
)  # fmt: skip
def test_headers_that_lie_are_bad_data(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(BadData, match=r"model\.safetensors"):
        read_header(path)


def test_weights_that_can_run_code_are_refused_with_what_to_do(tmp_path: Path) -> None:
    folder = make_base(tmp_path / "m")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UnsupportedFormat) as caught:
        read_model_info(folder)
    assert "pytorch_model.bin" in caught.value.message and "safetensors" in caught.value.hint
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(NotFound):
        read_model_info(folder)
    for text in ("[1]", "{", ""):
        (folder / "config.json").write_text(text)
        with pytest.raises(BadData):
            read_model_info(folder)


@pytest.mark.parametrize(
    "name",
    ["../x", "/etc/passwd", "a/../b", "..", ".", "a/b/c", "a\\b", "C:\\x", "", "a\nb", "~/x", "job:0", "job:-1", "job:1/..",
     "org/..", ".hidden", "a" * 97, "http://x/y", "org/na me", "ä"],
)  # fmt: skip
def test_paths_are_no_names(settings: Settings, name: str) -> None:
    with pytest.raises(InvalidInput):
        resolve_model(settings, None, name)


def test_a_link_out_of_the_models_folder_is_not_followed(settings: Settings, tmp_path: Path) -> None:
    make_base(tmp_path / "elsewhere")
    (settings.models_dir / "org--x").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(NotFound):
        resolve_model(settings, None, "org/x")


def test_names_become_folders(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    local = make_base(settings.models_dir / "org--bot")
    plain = make_base(settings.models_dir / "mine")
    cached = make_base(tmp_path / "hub" / "models--acme--tiny" / "snapshots" / ("a" * 40))
    refs = tmp_path / "hub" / "models--acme--tiny" / "refs"
    refs.mkdir()
    (refs / "main").write_text("a" * 40)
    assert resolve_model(settings, None, "org/bot").path == str(local.resolve())
    assert resolve_model(settings, None, "mine").path == str(plain.resolve())
    assert Path(resolve_model(settings, None, "acme/tiny").path).resolve() == cached.resolve()
    online = settings.model_copy(update={"hub_offline": False})
    assert resolve_model(online, None, "acme/other") == ModelRef(name="acme/other", path="acme/other")
    with pytest.raises(NotFound) as caught:
        resolve_model(settings, None, "acme/other")
    assert "acme/tiny" in caught.value.hint and "TUNESMITH_HUB_OFFLINE" in caught.value.message
    with pytest.raises(NotFound):
        resolve_model(online, None, "nothing")
    models = {m.name: m for m in list_models(settings)}
    assert set(models) == {"org/bot", "mine", "acme/tiny"}
    assert models["acme/tiny"].source == "hub_cache" and models["mine"].num_parameters == 328


def test_what_jobs_made_can_be_used_further(settings: Settings) -> None:
    base = ModelRef(name="org/bot", path=str(make_base(settings.models_dir / "org--bot")))
    make_job(settings, 7, model=base)
    make_job(settings, 8, "standard", model=base)
    make_job(settings, 9, model=base, outcome="failed")
    adapter = resolve_model(settings, None, "job:7")
    assert (
        adapter.path == base.path and adapter.adapter_path and adapter.adapter_path.endswith("7/artifacts/lora_model")
    )
    whole = resolve_model(settings, None, "job:8")
    assert whole.path.endswith("8/artifacts/standard_model") and whole.adapter_path is None
    for name in ("job:9", "job:10"):
        with pytest.raises(NotFound):
            resolve_model(settings, None, name)
    tuned = [m for m in list_models(settings) if m.kind == "tuned"]
    assert [m.name for m in tuned] == ["job:8", "job:7"] and tuned[0].metrics == {"eval_loss": 1.5}
    assert get_model(settings, "job:7").base_model == "org/bot"


def test_going_on_from_an_adapter_needs_the_merged_base(settings: Settings) -> None:
    base = ModelRef(name="org/bot", path=str(make_base(settings.models_dir / "org--bot")))
    make_job(settings, 1, model=base)
    second = make_job(settings, 2, model=resolve_model(settings, None, "job:1"))
    with pytest.raises(NotFound, match="adapter is not kept"):
        resolve_model(settings, None, "job:2")
    merged = make_base(second.artifacts / MERGED_BASE)
    found = resolve_model(settings, None, "job:2")
    assert found.path == str(merged) and found.adapter_path and "2/artifacts/lora_model" in found.adapter_path


def test_over_http(settings: Settings) -> None:
    make_base(settings.models_dir / "org--bot")
    with TestClient(create_app(settings), client=("127.0.0.1", 1), base_url="http://localhost/api/v1") as client:
        listed = client.get("/models/").json()
        assert [m["name"] for m in listed["items"]] == ["org/bot"] and listed["total"] == 1
        assert client.get("/models/org/bot").json()["architecture"] == "LlamaForCausalLM"
        assert client.get("/models/org/none").status_code == 404
        assert client.get("/models/..%2f..%2fetc").status_code == 422
