from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.recipes.tabular.tables import Tables, as_text, customers, model_folder, train
from tunesmith.worker.run import Run

for name in ("lightgbm", "catboost", "sklearn", "skrub"):
    pytest.importorskip(name, reason="needs tunesmith[tabular]")


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    return Tables(tmp_path)


@pytest.fixture(scope="session")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """A finished job on texts as a CSV file gives them."""
    run = Tables(tmp_path_factory.mktemp("classifier")).run(
        as_text(customers(200)), target="left", exclude_columns=["spent"]
    )
    assert train(run) == "completed"
    assert {path.suffix for path in model_folder(run).iterdir()} >= {".txt", ".cbm"}  # both are used
    yield run


@pytest.fixture(scope="session")
def regressor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    run = Tables(tmp_path_factory.mktemp("regressor")).run(customers(300), target="spent", exclude_columns=["left"])
    assert train(run) == "completed"
    yield run
