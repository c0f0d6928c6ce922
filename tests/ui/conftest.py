"""A real browser for tests of pages.

`page` is a fresh page of Chromium (1280 x 900); `page.alarms` is what it complained of or asked of other hosts, and a test ends
with `assert not page.alarms`. `axe(page)` fails on any violation of WCAG 2.2 AA. `window` makes more pages, of other sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.services import launch

REPO = Path(__file__).parent.parent.parent
AXE = REPO / "build" / "npm" / "node_modules" / "axe-core" / "axe.min.js"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]  # fmt: skip
"""The browser itself keeps other hosts away: a request that Playwright looks at stands still while a test waits for something else."""
WAIT_MS = 30_000
"""The longest that a test waits for anything on a page."""
STANDARD = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
COLOURS = ["color-contrast", "link-in-text-block"]
"""The rules that a theme can break."""


def is_ours(url: str) -> bool:
    return url.startswith(("http://127.0.0.1:", "data:", "blob:", "about:"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """One Chromium for all tests of a file: its event loop would be in the way of others in the process."""
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=WAIT_MS)
    with sync_playwright() as playwright:
        browser = launch(playwright, FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def window(browser: Any) -> Iterator[Callable[..., Any]]:
    """`window(width, height, **options of a browser context)`: a page of its own, with `alarms`; closed after the test."""
    contexts = []

    def make(width: int = 1280, height: int = 900, **options: Any) -> Any:
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(WAIT_MS)
        page.alarms = []
        page.on("dialog", lambda dialog: (page.alarms.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("pageerror", lambda error: page.alarms.append(str(error)))
        page.on("console", lambda message: page.alarms.append(message.text) if message.type == "error" else None)
        page.on("request", lambda asked: None if is_ours(asked.url) else page.alarms.append(asked.url))
        return page

    yield make
    for context in contexts:
        context.close()


@pytest.fixture
def page(window: Callable[..., Any]) -> Any:
    return window()


def axe(page: Any, *, include: str | None = None, colours_only: bool = False) -> None:
    """Fail on any violation, named with its elements; `include` is a CSS selector, else the whole page. `colours_only` is for a
    page that has been looked at in another theme."""
    assert AXE.is_file(), "axe-core is not there: run make .venv/.vendor"
    if not page.evaluate("Boolean(window.axe)"):
        page.evaluate(AXE.read_text())  # the page's policy forbids a script element
    # What stays in sight at the top would cover what is scrolled beneath it.
    page.evaluate("scrollTo({top: 0, behavior: 'instant'})")
    run_only = {"type": "rule", "values": COLOURS} if colours_only else {"type": "tag", "values": STANDARD}
    options = {"runOnly": run_only, "resultTypes": ["violations"]}
    found = page.evaluate("([place, options]) => axe.run(place ?? document, options)", [include, options])
    lines = [
        f"{rule['id']} ({rule['impact']}): {rule['help']}\n    "
        + "\n    ".join(
            f"{node['html'][:200]}  {node['any'][0]['message'][:200] if node['any'] else ''}"
            for node in rule["nodes"][:5]
        )
        for rule in found["violations"]
    ]
    assert not lines, "\n".join([page.url, *lines])
