"""The pages on which models are found, checked and fetched, in a real browser against a hub over a real socket."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.catalog.downloading import Hub, Repository, file_hub, files_of
from tests.catalog.ground import make_base
from tests.catalog.test_check import QWEN, make_gguf
from tests.conftest import ServerProcess, kill_processes_of
from tests.ui.conftest import axe

MEGA = 1024 * 1024


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    files = files_of(make_base(tmp_path_factory.mktemp("repository") / "m", **QWEN), 6 * MEGA)
    with file_hub(
        acme__small_chat=Repository(files, bytes_per_s=MEGA / 4), acme__forged=Repository(files, forged={"model.safetensors"}),
        acme__gated=Repository(files, gated=True, num_parameters=3_212_749_824, tags=("license:llama3.2", "code")),
    ) as hub:  # fmt: skip
        yield hub


@pytest.fixture(scope="module")
def server(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    home = tmp_path_factory.mktemp("hub") / "home"
    make_gguf(home / "models" / "mine.gguf")
    environment = {"TUNESMITH_HUB_OFFLINE": "0", "HF_HUB_OFFLINE": "0", "HF_HOME": str(home / "hf"), "HF_ENDPOINT": hub.url,
                   "HF_HUB_CACHE": str(home / "hf" / "hub"), "HF_TOKEN": ""}  # fmt: skip
    server = ServerProcess(home, environment).start()
    yield server
    server.stop()
    server.client.close()
    kill_processes_of(home)


def test_a_model_is_found_fetched_with_a_bar_and_then_here(server: ServerProcess, hub: Hub, page: Any) -> None:
    page.goto(f"{server.url}/models?tab=hub")
    page.locator("#found li.found").nth(3).wait_for()
    assert "A small model that answers questions" in page.locator("[id='found-acme/small-chat']").inner_text()
    page.get_by_role("navigation", name="Categories").get_by_role("link", name="Code").click()
    page.wait_for_url("**category=code**")
    page.get_by_label("Category").select_option("compact")
    page.get_by_role("button", name="Download acme/small-chat").click()
    bar = page.get_by_role("progressbar", name="Download of acme/small-chat")
    bar.wait_for()
    page.wait_for_function("() => document.querySelector('#downloads progress')?.value > 0.3")
    assert "B/s" in page.locator("[data-told]").inner_text()
    axe(page)
    hub.repositories["acme/small-chat"].bytes_per_s = 0  # it was slow for as long as the bar was looked at
    page.locator("#downloads [data-state=completed]").wait_for()
    assert "compared with the hub's digest" in page.locator("#downloads").inner_text()
    page.locator("[id='found-acme/small-chat']").get_by_text("On this machine").wait_for()
    page.get_by_role("button", name="Take the download of acme/small-chat out of the list").click()
    page.locator("#downloads li").wait_for(state="detached")
    page.goto(f"{server.url}/models?kind=base&provider=acme")
    assert page.locator(".model-card h2").all_inner_texts() == ["small-chat"]
    assert not page.alarms


def test_downloads_can_be_cancelled_and_failures_say_why(server: ServerProcess, hub: Hub, page: Any) -> None:
    hub.repositories["acme/slow"] = Repository(hub.repositories["acme/gated"].files, bytes_per_s=MEGA / 4)
    page.goto(f"{server.url}/models?tab=check&name=acme/slow")
    page.get_by_role("button", name="Download acme/slow").click()
    page.get_by_role("button", name="Cancel the download of acme/slow").click()
    page.locator("#sure-yes").click()
    page.locator("#downloads [data-state=cancelled]").wait_for()
    page.goto(f"{server.url}/models?tab=check&name=acme/forged")
    page.get_by_role("button", name="Download acme/forged").click()
    page.get_by_text("other bytes than the hub's digest says").wait_for()
    axe(page)
    page.goto(f"{server.url}/models?tab=hub&q=gated&category=")
    page.get_by_role("button", name="Download acme/gated").click()
    page.get_by_text("only to accounts that have accepted its terms").wait_for()
    alarms = [one for one in page.alarms if "409" not in one]  # the browser tells of the refusal as well
    assert not alarms


@pytest.mark.parametrize(("width", "theme"), [(1280, "light"), (375, "dark")])
def test_check_and_recommendations_are_accessible(
    server: ServerProcess, window: Callable[..., Any], width: int, theme: str
) -> None:
    page = window(width, 900, color_scheme=theme)
    page.goto(f"{server.url}/models?tab=check")
    axe(page)
    page.get_by_role("searchbox").fill("acme/gated")
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Does it fit this machine?").wait_for()
    text = page.locator("#checked").inner_text()
    assert "cannot be fetched yet" in text and "700 million" in text and "HF_TOKEN is not set" in text
    summary = page.locator(".uses summary").nth(2)
    summary.focus()
    page.keyboard.press("Enter")
    page.get_by_text("trained weights (rank 16").first.wait_for()
    axe(page)
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth"), "nothing sticks out"
    page.goto(f"{server.url}/models?tab=check&name=nobody/none")
    page.get_by_text("The hub has no model nobody/none").wait_for()
    page.goto(f"{server.url}/models?tab=recommended&use_case=code")
    first = page.locator("#recommended li.found").first
    assert "First choice" in first.inner_text() and "Coder" in first.inner_text()
    axe(page)
    page.get_by_role("link", name="Search (embeddings)").click()
    page.get_by_text("all-MiniLM-L6-v2:").wait_for()
    page.get_by_label("Only licences that allow commercial use").check()
    page.wait_for_url("**commercial=true**")
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
    page.goto(f"{server.url}/models")
    page.get_by_role("link", name="mine", exact=True).wait_for()
    assert "GGUF Q4_K_M" in page.locator(".models-list").inner_text()
    axe(page)
    page.get_by_role("link", name="mine", exact=True).click()
    page.wait_for_url("**/models/mine.gguf")
    page.get_by_role("heading", name="mine", level=1).wait_for()
    axe(page)
    assert not page.alarms
