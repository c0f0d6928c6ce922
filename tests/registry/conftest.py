"""The ground on each database in turn, and on SQLite alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.registry.ground import Ground


@pytest.fixture
def ground(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ground]:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    made = Ground(tmp_path / "home")
    yield made
    made.database.close()


@pytest.fixture
def both(tmp_path: Path, database_url: str | None) -> Iterator[Ground]:
    made = Ground(tmp_path / "home", database_url)
    yield made
    made.database.close()
