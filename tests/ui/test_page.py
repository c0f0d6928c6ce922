"""The page: safe to serve, and in a real browser the way from a file to a curve."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.conftest import ServerProcess

CHROMIUM = shutil.which("chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip


def test_the_page_runs_nothing_inline_and_asks_nobody_else(sqlite_server: ServerProcess) -> None:
    page = httpx.get(f"{sqlite_server.url}/")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy
    assert not re.search(r"<script(?![^>]*src=)|style=|onclick=|https?://", page.text)
    for name in re.findall(r"/static/[\w.]+", page.text):
        assert httpx.get(f"{sqlite_server.url}{name}").status_code == 200
    assert httpx.get(f"{sqlite_server.url}/static/..%2froutes.py").status_code == 404


@pytest.mark.skipif(CHROMIUM is None, reason="Debian's chromium is not installed")
def test_from_a_file_to_a_curve_in_a_browser(
    start_server: Callable[..., ServerProcess], tmp_path: Path, tiny_model: Path
) -> None:
    from playwright.sync_api import expect, sync_playwright

    shutil.copytree(tiny_model, tmp_path / "home" / "models" / "tests--tiny")
    name = "<img src=x onerror=alert(1)>"
    rows = tmp_path / "rows.jsonl"
    rows.write_text(
        "".join(json.dumps({"question": f"what is {n}", "answer": f"it is {n}"}) + "\n" for n in range(100))
    )
    server = start_server()
    server.client.put("/datasets/upload", params={"file_name": "x.jsonl", "name": name}, content=rows.read_bytes())
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page()
        alarms: list[str] = []
        page.on("dialog", lambda dialog: alarms.append(dialog.message))
        page.on("pageerror", lambda error: alarms.append(str(error)))
        page.goto(server.url)
        page.set_input_files("#file", rows)
        page.click("#upload button")
        expect(page.locator("#datasets")).to_contain_text("question_answer", timeout=30_000)
        expect(page.locator("#datasets")).to_contain_text(name)
        page.fill("#model", "tests/tiny")
        page.click("#create button")
        expect(page.locator("#chart polyline.train")).to_be_visible(timeout=90_000)
        expect(page.locator("#jobs")).to_contain_text("completed", timeout=120_000)
        page.select_option("#partner", "job:1")
        page.fill("#message", "what is 3")
        page.click("#chat button")
        expect(page.locator("#answer p").nth(1)).not_to_have_text("…", timeout=60_000)
        assert not alarms
        browser.close()
