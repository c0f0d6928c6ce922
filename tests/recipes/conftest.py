from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.recipes.ground import Ground


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)


@pytest.fixture
def ground(tmp_path: Path, tiny_model: Path) -> Ground:
    return Ground(tmp_path, tiny_model)
