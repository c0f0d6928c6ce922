"""Settings of a home of its own, with a hub cache of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import lay_database
from tunesmith.settings import Settings


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    found = Settings(home=tmp_path / "home", hub_offline=True)
    found.make_dirs()
    lay_database(found.home)
    return found
