"""`make screenshots`: every page at three widths, dark and light, into `build/screenshots`, of a server with small real data.

Three of them go into the README (`docs/images`), as PNG of few colours.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

from tests.conftest import ServerProcess, kill_processes_of
from tests.services import launch
from tests.tiny import make_tiny_model
from tests.ui.conftest import FLAGS, REPO
from tests.ui.ground import DEPLOYED_PAGES, PAGES, conversations, deploy, fill, train, upload

PLACE = REPO / "build" / "screenshots"
IMAGES = REPO / "docs" / "images"
WIDTHS = {375: 812, 1280: 860, 2560: 1440}
FOR_README = {"/": "dashboard.png", "/jobs/1": "job.png", "/jobs/new?from=1": "new-job.png"}
COLORS = 200
PUBLIC_PAGES = ["/login", "/register", "/forgot-password", "/reset-password#token=x"]
ACCOUNT_PAGES = ["/account", "/account?tab=keys", "/account?tab=logins", "/account?tab=quotas", "/users", "/users?tab=invitations",
                 "/audit", "/datasets", "/datasets/1"]  # fmt: skip
REGISTRY_PAGES = [
    "/registry",
    "/registry/health",
    "/registry/support-bot-1",
    "/registry/support-bot-1/1.0.0",
    "/evaluations",
]
PASSWORD = "quartz meadow lantern"


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
            for path in (*PAGES, *DEPLOYED_PAGES, *REGISTRY_PAGES):
                take(page, url, path, PLACE / f"{name_of(path)}-{width}-{theme}.png")
                count += 1
            context.close()
    return count


def add_team(server: ServerProcess) -> None:
    """Three accounts, a key, an invitation and a dataset; `server.client` acts for the administrator."""
    ask = server.client
    ask.post("/auth/register", json={"username": "ada", "email": "ada@example.org", "password": PASSWORD})
    told = ask.post("/auth/login", json={"username": "ada", "password": PASSWORD}).json()
    ask.headers["Authorization"] = f"Bearer {told['access_token']}"
    for name, role in (("grace", "member"), ("linus", "viewer")):
        ask.post("/users/", json={"username": name, "email": f"{name}@example.org", "role": role, "password": PASSWORD})
    ask.patch("/users/2", json={"quota_storage_bytes": 50 * 10**9, "quota_jobs": 4})
    ask.post("/auth/keys", json={"name": "nightly training", "scopes": ["train"]})
    ask.post("/invitations/", json={"email": "edsger@example.org"})
    upload(server, "Support answers", "support.jsonl", conversations(60))


def account_pages(browser: Any, url: str) -> int:
    """The pages of a server with accounts, before and after logging in."""
    count = 0
    for theme in ("dark", "light"):
        for width, height in WIDTHS.items():
            context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=theme)
            page = context.new_page()
            for path in (*PUBLIC_PAGES, *ACCOUNT_PAGES):
                if path == ACCOUNT_PAGES[0]:
                    page.goto(f"{url}/login")
                    page.fill("[name=username]", "ada")
                    page.fill("[name=password]", PASSWORD)
                    with page.expect_navigation():
                        page.click("main form [type=submit]")
                page.goto("about:blank")
                take(page, url, path, PLACE / f"team-{name_of(path)}-{width}-{theme}.png")
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

    with tempfile.TemporaryDirectory() as folder:
        server = ServerProcess(Path(folder) / "home").start()
        team = ServerProcess(Path(folder) / "team", {"TUNESMITH_AUTH": "on"}).start()
        try:
            add_team(team)
            fill(server, make_tiny_model(Path(folder) / "tiny"), trained=2, steps=48)
            deploy(server, "job:1", "job:2")
            train(server, 1, "support-bot-long", max_steps=4000, eval_steps=40)
            server.wait_for("/jobs/4", lambda job: job["step"] > 5, 600)
            with sync_playwright() as playwright:
                browser = launch(playwright, FLAGS)
                for_readme(browser, server.url)
                count = all_pages(browser, server.url) + account_pages(browser, team.url)
                print(f"{count} pictures in {PLACE.relative_to(REPO)}")
                browser.close()
        finally:
            for one in (server, team):
                one.stop()
                kill_processes_of(one.home)


if __name__ == "__main__":
    main()
