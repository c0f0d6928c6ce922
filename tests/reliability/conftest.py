"""Ground for tests of the scheduler, on either database."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.reliability.ground import Ground


@pytest.fixture
def make_ground(tmp_path: Path) -> Iterator[Callable[..., Ground]]:
    made: list[Ground] = []

    def make(url: str | None = None, **more: Any) -> Ground:
        made.append(Ground(tmp_path / f"ground-{len(made)}", url, **more))
        return made[-1]

    yield make
    for ground in made:
        ground.close()


@pytest.fixture
def ground(make_ground: Callable[..., Ground], database_url: str | None) -> Ground:
    return make_ground(database_url)
