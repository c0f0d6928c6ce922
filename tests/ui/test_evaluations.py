"""Pages of evaluations and the arena in a real browser: measured, compared, fought over."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.conftest import ServerProcess, kill_processes_of
from tests.tiny import make_tiny_model
from tests.ui.conftest import axe
from tests.ui.ground import add_tiny_model, upload

EVIL = "<img src=x onerror=alert(1)>"
ROWS = "\n".join(f'{{"question": "the question {n} {EVIL}", "answer": "{("user", "tool")[n % 2]}"}}' for n in range(16))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, tiny_model: Any) -> Iterator[ServerProcess]:
    """Two small models, evaluated on one dataset."""
    server = ServerProcess(tmp_path_factory.mktemp("evaluations") / "home", {"TUNESMITH_WARM_WORKERS": "1"}).start()
    add_tiny_model(server.home, tiny_model)
    make_tiny_model(server.home / "models" / "other", seed=3)
    rows = upload(server, "Questions", "rows.jsonl", ROWS)
    for model in ("tests/tiny", "other"):
        body = {"model": model, "dataset_id": rows, "settings": {"max_new_tokens": 4, "latency_prompts": 1}}
        made = server.client.post("/evaluations/", json=body)
        assert made.status_code == 201, made.text
        done = server.wait_for(
            f"/evaluations/{made.json()['id']}", lambda e: e["status"] in ("completed", "failed"), 300
        )
        assert done["status"] == "completed", done
    yield server
    server.stop()
    server.client.close()
    kill_processes_of(server.home)


def test_evaluations_are_read_and_compared(server: ServerProcess, page: Any) -> None:
    page.goto(f"{server.url}/evaluations")
    axe(page)
    for box in page.locator("[data-select]").all():
        box.check()
    page.get_by_role("link", name="Compare").click()
    page.get_by_role("heading", name="Scores on Questions").wait_for()
    assert page.get_by_text("significant", exact=False).count() >= 4
    axe(page)
    page.goto(f"{server.url}/evaluations/1")
    assert page.locator(".interval").count() >= 4 and page.locator(".confusion td[data-heat]").count() == 6
    assert EVIL in page.locator(".sample dd").first.inner_text()
    axe(page)
    page.get_by_label("Which answers").select_option("right")
    page.locator("#answers .badge[data-tone=bad]").first.wait_for(state="detached")
    assert not page.alarms


@pytest.mark.parametrize("width", [375, 2560])
def test_pages_hold_in_the_dark_and_at_any_width(server: ServerProcess, window: Callable[..., Any], width: int) -> None:
    page = window(width, 900, color_scheme="dark")
    for path in ("evaluations", "evaluations/1", "evaluations/compare?ids=1,2", "evaluations/arena"):
        page.goto(f"{server.url}/{path}")
        axe(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path
    if width == 375:  # a name of a score leaves room for the scores
        page.goto(f"{server.url}/evaluations/compare?ids=1,2")
        assert page.locator(".compare-scores tbody th").first.bounding_box()["width"] < 375 / 2
    assert not page.alarms


def test_an_evaluation_is_begun_from_a_model(server: ServerProcess, page: Any) -> None:
    page.goto(f"{server.url}/models/other")
    page.get_by_role("link", name="Evaluate").click()
    dialog = page.get_by_role("dialog")
    assert dialog.get_by_label("Model", exact=True).input_value() == "other"
    axe(page)
    data = dialog.get_by_label("Data")  # a model that was not tuned here held nothing out: a dataset is chosen for it
    assert data.locator("option:checked").inner_text() == "Questions"
    assert data.locator("option").first.is_disabled()
    dialog.get_by_label("Number of questions").fill("2")
    dialog.get_by_role("button", name="Evaluate").click()
    page.wait_for_url("**/evaluations/3")
    page.locator("#about .status").wait_for()
    assert not page.alarms


def test_a_blind_battle_is_fought_and_told(server: ServerProcess, window: Callable[..., Any]) -> None:
    page = window(375, 800)
    page.goto(f"{server.url}/evaluations/arena")
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    axe(page)
    page.get_by_label("Your question").fill(f"Who are you? {EVIL}")
    page.get_by_role("button", name="Begin").click()
    votes = page.get_by_role("group", name="Your vote")
    votes.wait_for(timeout=120_000)
    shown = page.locator("#battle").inner_text()
    assert page.locator("#side-a").is_visible() and page.locator("#side-b").is_visible()
    assert "other" not in shown and "tests/tiny" not in shown
    axe(page)
    votes.get_by_role("button", name="A is better").click()
    page.get_by_role("heading", name="A was").wait_for()
    told = page.locator("#battle").inner_text()
    assert "other" in told and "tests/tiny" in told
    page.locator("#ratings tbody tr").first.wait_for()
    assert page.get_by_text("too few battles").count() == 2
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    axe(page)
    assert not page.alarms
