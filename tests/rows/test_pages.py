"""What the model will see, on the pages."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.conftest import ServerProcess
from tests.rows.test_before_a_job import JAPANESE
from tests.ui.conftest import axe, browser, page, window
from tests.ui.ground import TINY, add_tiny_model, upload

__all__ = ["browser", "page", "window"]  # fixtures


def picture(page: Any, name: str) -> None:
    """Kept where a person asks for it."""
    if folder := os.environ.get("TUNESMITH_PICTURES"):
        page.screenshot(path=str(Path(folder) / f"{name}.png"), full_page=True)


def test_rows_are_shown_as_the_model_reads_them(
    start_server: Callable[..., ServerProcess], tiny_model: Path, page: Any
) -> None:
    server = start_server()
    add_tiny_model(server.home, tiny_model)
    dataset_id = upload(server, "j.jsonl", "japanese", "\n".join(json.dumps({**row, "weight": 1}) for row in JAPANESE))
    page.goto(f"{server.url}/datasets/{dataset_id}?tab=tokens")
    learned = page.locator(".tokens").first.locator('[data-kind="learned"]')
    learned.first.wait_for(timeout=60_000)
    assert "".join(learned.all_inner_texts()).replace("·", "") == "日本の首都は東京です。番号0。<|im_end|>"
    assert (
        page.locator(".tokens").count() == 3
        and page.locator(".tokens > [data-special]").first.inner_text() == "<|im_start|>"
    )
    page.get_by_text("Not used: weight").wait_for()
    axe(page)
    picture(page, "dataset")
    page.goto(f"{server.url}/datasets/{dataset_id}")
    page.locator(".bubble[data-role=assistant]").first.get_by_text("日本の首都は東京です。").wait_for()
    page.goto(f"{server.url}/jobs/new?dataset={dataset_id}&model={TINY}#review")
    page.locator("#plan-show").click(timeout=60_000)
    page.locator("#plan-tokens .tokens").first.wait_for(timeout=60_000)
    assert "weight" in page.locator("#plan-checks").inner_text()
    picture(page, "wizard")
    assert not [alarm for alarm in page.alarms if "422" not in alarm]
