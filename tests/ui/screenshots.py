"""`make screenshots`: every page at three widths, dark and light, into `build/screenshots`, of a server with small real data.

Three of them go into the README (`docs/images`), as PNG of few colours.
"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.conftest import ServerProcess, kill_processes_of
from tests.tiny import make_tiny_model
from tests.ui.conftest import CHROMIUM, FLAGS, REPO
from tests.ui.ground import PAGES, fill, train

PLACE = REPO / "build" / "screenshots"
IMAGES = REPO / "docs" / "images"
WIDTHS = {375: 812, 1280: 860, 2560: 1440}
FOR_README = {"/": "dashboard.png", "/jobs/1": "job.png", "/jobs/new?from=1": "new-job.png"}
COLORS = 200


def name_of(path: str) -> str:
    return re.sub(r"[^\w]+", "-", path).strip("-") or "dashboard"


def take(page: Any, url: str, path: str, target: Path) -> None:
    """The whole page, once it is silent."""
    page.goto(f"{url}{path}")
    page.wait_for_timeout(700)  # charts and what else scripts draw
    page.screenshot(path=target, full_page=True, animations="disabled")


def all_pages(browser: Any, url: str) -> int:
    PLACE.mkdir(parents=True, exist_ok=True)
    count = 0
    for theme in ("dark", "light"):
        for width, height in WIDTHS.items():
            context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=theme)
            page = context.new_page()
            for path in PAGES:
                take(page, url, path, PLACE / f"{name_of(path)}-{width}-{theme}.png")
                count += 1
            context.close()
    return count


def for_readme(browser: Any, url: str) -> None:
    """One screen each, at double sharpness, with few colours so that the files stay small."""
    from PIL import Image

    IMAGES.mkdir(parents=True, exist_ok=True)
    context = browser.new_context(viewport={"width": 1280, "height": 800}, device_scale_factor=1.5, color_scheme="dark")
    page = context.new_page()
    for path, name in FOR_README.items():
        page.goto(f"{url}{path}")
        page.wait_for_timeout(1500)
        page.screenshot(path=IMAGES / name, animations="disabled")
        with Image.open(IMAGES / name) as image:
            image.convert("RGB").quantize(COLORS, dither=Image.Dither.NONE).save(IMAGES / name, optimize=True)
    context.close()


def main() -> None:
    from playwright.sync_api import sync_playwright

    if CHROMIUM is None:
        sys.exit("chromium is not installed; apt-get install chromium")
    with tempfile.TemporaryDirectory() as folder:
        server = ServerProcess(Path(folder) / "home").start()
        try:
            fill(server, make_tiny_model(Path(folder) / "tiny"), trained=2, steps=48)
            train(server, 1, "support-bot-long", max_steps=4000, eval_steps=40)
            server.wait_for("/jobs/4", lambda job: job["step"] > 5, 600)
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
                for_readme(browser, server.url)
                print(f"{all_pages(browser, server.url)} pictures in {PLACE.relative_to(REPO)}")
                browser.close()
        finally:
            server.stop()
            kill_processes_of(server.home)


if __name__ == "__main__":
    main()
