"""The pages: safe to serve, and in a real browser the way from a file to a curve and a chat."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import ServerProcess

CHROMIUM = shutil.which("chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="Debian's chromium is not installed")


@pytest.fixture
def page() -> Iterator[Any]:
    """A page of a real browser on a phone's width; `page.alarms` is what it complained of or asked of other hosts."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 375, "height": 800})
        page.alarms = []
        page.on("dialog", lambda dialog: (page.alarms.append(dialog.message), dialog.dismiss()))
        page.on("pageerror", lambda error: page.alarms.append(str(error)))
        page.on("console", lambda message: page.alarms.append(message.text) if message.type == "error" else None)
        page.on("request", lambda asked: None if is_ours(asked.url) else page.alarms.append(asked.url))
        page.route(lambda url: not is_ours(url), lambda route: route.abort())
        yield page
        browser.close()


def is_ours(url: str) -> bool:
    return url.startswith(("http://127.0.0.1:", "data:", "blob:"))


def rows_file(folder: Path, count: int = 100) -> Path:
    path = folder / "rows.jsonl"
    lines = (json.dumps({"question": f"what is {n}", "answer": f"it is {n}"}) + "\n" for n in range(count))
    path.write_text("".join(lines))
    return path


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_the_pages_run_nothing_inline_and_ask_nobody_else(sqlite_server: ServerProcess, path: str) -> None:
    page = httpx.get(f"{sqlite_server.url}{path}")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
    assert not re.search(r"<script(?![^>]*src=)|style=|onclick=|https?://", page.text)
    files = re.findall(r"/static/[\w.-]+", page.text)
    assert len(files) >= 2
    for name in files:
        assert httpx.get(f"{sqlite_server.url}{name}").status_code == 200
    assert httpx.get(f"{sqlite_server.url}/static/..%2froutes.py").status_code == 404
    assert httpx.get(f"{sqlite_server.url}/redoc").status_code == 404


@needs_browser
def test_the_api_page_draws_every_operation_without_the_internet(sqlite_server: ServerProcess, page: Any) -> None:
    from playwright.sync_api import expect

    described = httpx.get(f"{sqlite_server.url}/openapi.json").json()
    count = sum(len(operations) for operations in described["paths"].values())
    page.goto(f"{sqlite_server.url}/api/docs")
    assert page.url == f"{sqlite_server.url}/docs"
    expect(page.locator(".opblock")).to_have_count(count, timeout=60_000)
    page.locator(
        "#operations-system-health_api_v1_system_health_get, .opblock:has-text('/system/health')"
    ).first.click()
    page.get_by_role("button", name="Try it out").click()
    page.get_by_role("button", name="Execute").click()
    expect(page.locator(".live-responses-table")).to_contain_text('"status"', timeout=30_000)
    assert not page.alarms


@needs_browser
def test_from_a_file_to_a_curve_and_a_chat(
    start_server: Callable[..., ServerProcess], tmp_path: Path, tiny_model: Path, page: Any
) -> None:
    from playwright.sync_api import expect

    shutil.copytree(tiny_model, tmp_path / "home" / "models" / "tests--tiny")
    server, rows, name = start_server(), rows_file(tmp_path, 24), "<img src=x onerror=alert(1)>"
    server.client.put("/datasets/upload", params={"file_name": "x.jsonl", "name": name}, content=rows.read_bytes())
    page.goto(server.url)
    expect(page.locator("#no-jobs")).to_contain_text("Choose a dataset and a model")
    page.set_input_files("#file", rows)
    page.click("#upload button")
    expect(page.locator("#datasets")).to_contain_text("question answer", timeout=60_000)
    expect(page.locator("#datasets .more:visible")).to_contain_text("Found 23 rows that differ", timeout=60_000)
    expect(page.locator("#datasets")).to_contain_text(name)

    page.fill("#model", "tests/tiny")
    page.click("#create > button")
    page.locator("#jobs button").first.focus()
    page.evaluate("document.querySelector('#jobs button').dataset.mine = 'yes'")
    expect(page.locator("#chart polyline.train")).to_be_visible(timeout=120_000)
    expect(page.locator("#jobs")).to_contain_text("completed", timeout=150_000)
    expect(page.locator("#jobs button").first).to_be_focused()
    expect(page.locator("#jobs button[data-mine=yes]")).to_have_count(1)
    expect(page.locator("#chart svg")).to_have_attribute("aria-label", re.compile(r"Loss by step: \d"))
    expect(page.locator("#job-links a")).to_have_count(2)
    assert page.evaluate("document.documentElement.scrollWidth") == 375

    page.select_option("#partner", "job:1")
    page.fill("#message", "what is 3")
    page.click("#send")
    page.click("#stop")  # the model is still loading: the question comes back
    expect(page.locator("#message")).to_have_value("what is 3")
    expect(page.locator(".turn")).to_have_count(0)
    asked: list[Any] = []
    page.on("request", lambda request: asked.append(request.post_data_json) if "chat" in request.url else None)
    for question in ("what is 3", "and 4"):
        page.fill("#message", question)
        page.click("#send")
        expect(page.locator("#stop")).to_be_visible()
        expect(page.locator("#send")).to_be_visible(timeout=120_000)
    assert [message["role"] for message in asked[1]["messages"]] == ["user", "assistant", "user"]
    assert asked[1]["messages"][1]["content"] == page.locator(".turn").nth(1).locator("p").inner_text()
    page.click("#new-chat")
    expect(page.locator(".turn")).to_have_count(0)

    page.get_by_role("button", name="Delete job 1").click()
    page.click("#sure button[value=no]")
    expect(page.locator("#jobs")).to_contain_text("completed")
    page.get_by_role("button", name="Delete job 1").click()
    page.click("#sure-yes")
    expect(page.locator("#no-jobs")).to_be_visible()
    assert server.client.get("/jobs/1").status_code == 404
    assert not page.alarms


@needs_browser
def test_what_goes_wrong_is_said_where_it_happened(
    start_server: Callable[..., ServerProcess], tmp_path: Path, page: Any
) -> None:
    from playwright.sync_api import expect

    server, rows = start_server(), rows_file(tmp_path)
    page.goto(server.url)
    expect(page.locator("#no-datasets")).to_be_visible()
    too_large = "<html>413 Request Entity Too Large</html>"
    page.route("**/datasets/upload?*", lambda route: route.fulfill(status=413, body=too_large))
    page.set_input_files("#file", rows)
    page.click("#upload button")
    expect(page.locator("#upload .problem")).to_contain_text("rows.jsonl: The server answered with status 413")
    page.unroute("**/datasets/upload?*")
    page.click("#upload button")
    expect(page.locator("#upload .problem")).to_be_hidden()
    expect(page.locator("#datasets")).to_contain_text("ready", timeout=60_000)

    page.fill("#model", "tests/absent")
    page.click("#create > button")
    expect(page.locator("#create .problem")).to_contain_text("tests/absent")

    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"PAR1 and no more")
    page.set_input_files("#file", broken)
    page.click("#upload button")
    expect(page.locator("#datasets")).to_contain_text("failed", timeout=60_000)
    why = server.client.get("/datasets/").json()["items"][0]["error"]["message"]
    expect(page.locator("#datasets .more .problem:visible")).to_contain_text(why)
    page.get_by_role("button", name="Delete broken").click()
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Delete broken").click()
    page.click("#sure-yes")
    expect(page.locator("#datasets")).not_to_contain_text("broken")
    expect(page.locator("#datasets-title")).to_be_focused()
