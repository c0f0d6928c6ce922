"""Getting the starter model: what a hub's cache may hold, and hubs that do not answer."""

from __future__ import annotations

import shutil
import socket
import time
from pathlib import Path

import huggingface_hub
import pytest

from tunesmith.core.errors import Unavailable
from tunesmith.features.catalog import starter


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache of this test's own."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub._snapshot_download.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_a_cache_with_the_whole_repository_gives_what_is_needed(cache: Path, tmp_path: Path, tiny_model: Path) -> None:
    repo = cache / "models--HuggingFaceTB--SmolLM2-135M-Instruct"
    snapshot = repo / "snapshots" / ("a" * 40)
    shutil.copytree(tiny_model, snapshot)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("a" * 40)
    (snapshot / "onnx").mkdir()
    (snapshot / "onnx" / "model.onnx").write_bytes(b"x")
    (snapshot / "pytorch_model.bin").write_bytes(b"x")
    folder = starter.ensure_starter_model(tmp_path / "models")
    names = {path.name for path in folder.iterdir()}
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= names
    assert not names & {"onnx", "pytorch_model.bin"}


def test_a_hub_that_takes_the_call_and_says_nothing_is_left_soon(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.delenv("TUNESMITH_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(starter, "HUB_TIMEOUT_S", 0.5)
    began_s = time.monotonic()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
        with pytest.raises(Unavailable):
            starter._from_hub(tmp_path, lambda _text: None)
    assert time.monotonic() - began_s < 10
