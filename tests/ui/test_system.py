"""System and settings: charts that go on after a restart, processes, clean-ups that ask first, and settings that are kept."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ServerProcess
from tests.ui.conftest import axe
from tests.ui.test_dashboard import add_jobs

SYSTEM_TABS = ("resources", "processes", "storage", "health")
SETTINGS_TABS = ("directories", "limits", "defaults", "appearance", "keys", "server")
ADDRESSES = [*(f"/system?tab={tab}" for tab in SYSTEM_TABS), *(f"/settings?tab={tab}" for tab in SETTINGS_TABS)]


@pytest.mark.parametrize(("theme", "width"), [("dark", 1280), ("light", 375)])
def test_every_tab_can_be_used_by_everybody(
    sqlite_server: ServerProcess, window: Callable[..., Any], theme: str, width: int
) -> None:
    page = window(width, 800, color_scheme=theme)
    for address in ADDRESSES:
        page.goto(sqlite_server.url + address)
        if "storage" in address:
            page.get_by_text("Counted just now").wait_for()
        axe(page)
        wide = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
        assert wide[0] <= wide[1], address
    assert not page.alarms


def test_charts_go_on_after_the_server_was_away(sqlite_server: ServerProcess, page: Any) -> None:
    from playwright.sync_api import expect

    page.goto(f"{sqlite_server.url}/system?range=15m")
    chart = page.locator("#chart-cpu .chart-plot")
    expect(chart).to_have_attribute("aria-label", re.compile(r"CPU: \d+ % at [\d:]+, \d+ % at "), timeout=30_000)
    sqlite_server.kill()
    expect(page.locator("#offline")).to_be_visible()
    before = chart.get_attribute("aria-label")
    sqlite_server.start()
    expect(page.locator("#offline")).to_be_hidden(timeout=30_000)
    expect(chart).not_to_have_attribute("aria-label", before, timeout=30_000)
    expect(page.get_by_role("link", name="15 min")).to_have_attribute("aria-current", "page")


def test_a_clean_up_says_what_it_deletes_before_it_does(sqlite_server: ServerProcess, page: Any) -> None:
    from playwright.sync_api import expect

    add_jobs(sqlite_server.home, {"name": "done", "status": "completed"})
    for step in (10, 20, 30):
        folder = sqlite_server.home / "jobs" / "1" / "checkpoints" / f"step-{step:06d}"
        folder.mkdir(parents=True)
        (folder / "weights").write_bytes(b"x" * 2_000_000)
        (folder / "complete.json").write_text("{}")
    page.goto(f"{sqlite_server.url}/system?tab=storage")
    button = page.get_by_role("button", name="Free 4.0 MB…")
    button.click()
    dialog = page.get_by_role("dialog", name="Old checkpoints: free 4.0 MB?")
    expect(dialog).to_contain_text("Job 1, step 10")
    axe(page)
    dialog.get_by_role("button", name="Cancel").click()
    assert (folder.parent / "step-000010").exists()
    button.click()
    dialog.get_by_role("button", name="Delete 2 things").click()
    expect(page.get_by_text("4.0 MB freed.")).to_be_visible()
    assert sorted(path.name for path in folder.parent.iterdir()) == ["step-000030"]
    expect(page.get_by_role("button", name="Free 4.0 MB…")).to_have_count(0)
    assert not page.alarms


def test_the_server_is_among_its_processes_and_health_names_the_remedy(sqlite_server: ServerProcess, page: Any) -> None:
    from playwright.sync_api import expect

    assert sqlite_server.process
    page.goto(f"{sqlite_server.url}/system?tab=processes")
    expect(page.locator("#processes tbody tr")).to_contain_text(str(sqlite_server.process.pid))
    with page.expect_response(lambda answer: "tab=processes" in answer.url, timeout=10_000):
        pass  # it asks again by itself
    page.get_by_role("link", name="Health").click()
    expect(page.locator("#checks")).to_contain_text("Run tunesmith demo, or name a hub model in a job.")


def test_settings_are_changed_checked_and_kept(
    start_server: Callable[..., ServerProcess], tmp_path: Path, page: Any
) -> None:
    from playwright.sync_api import expect

    server = start_server(TUNESMITH_JOB_RESTARTS="5")
    page.goto(f"{server.url}/settings?tab=limits")
    expect(page.get_by_label("Restarts of a lost worker")).to_be_disabled()
    expect(page.get_by_text("TUNESMITH_JOB_RESTARTS")).to_be_visible()
    page.get_by_label("Off-peak hours").fill("<script>alert(1)</script>")
    page.get_by_role("button", name="Save").click()
    expect(page.locator(".field", has=page.get_by_label("Off-peak hours"))).to_contain_text("such as 22:00-06:00")
    page.get_by_label("Off-peak hours").fill("21:00-05:00")
    page.get_by_label("Largest upload", exact=True).fill("2.5")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("Saved.")).to_be_visible()
    expect(page.get_by_label("Largest upload", exact=True)).to_have_value("2.5")
    shown = server.client.get("/system/settings").json()
    assert shown["max_upload_bytes"] == 2.5 * 1024**3 and shown["off_peak"] == "21:00-05:00"
    upload = page.locator(".field", has=page.get_by_label("Largest upload", exact=True))
    upload.get_by_role("button", name="Back to the default").click()
    expect(page.get_by_label("Largest upload", exact=True)).to_have_value("10")

    page.get_by_role("link", name="Directories").click()
    page.wait_for_load_state()  # scripts are deferred: a button works once they have run
    page.get_by_label("Output folder").fill("/proc/none")
    page.get_by_role("button", name="Test writable").click()
    expect(page.locator("#tried")).to_contain_text("cannot be written")
    page.get_by_label("Output folder").fill(str(tmp_path / "models"))
    page.get_by_role("button", name="Test writable").click()
    expect(page.locator("#tried")).to_contain_text("is writable")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("Saved.")).to_be_visible()
    assert server.client.get("/system/settings").json()["output_dir"] == str(tmp_path / "models")
    assert (tmp_path / "models").is_dir()


def test_the_theme_is_this_browsers_and_else_the_servers(
    sqlite_server: ServerProcess, window: Callable[..., Any]
) -> None:
    from playwright.sync_api import expect

    page = window(color_scheme="light")
    page.goto(f"{sqlite_server.url}/settings?tab=appearance")
    everybody = page.get_by_role("form", name="For browsers that have not chosen")
    everybody.get_by_text("Dark").click()
    everybody.get_by_role("button", name="Save").click()
    expect(page.get_by_text("Saved.")).to_be_visible()
    expect(page.locator("html")).to_have_class(re.compile("dark"))
    page.get_by_role("region", name="In this browser").get_by_text("Light").click()
    expect(page.locator("html")).not_to_have_class(re.compile("dark"))
    page.reload()
    expect(page.locator("html")).not_to_have_class(re.compile("dark"))
    other = window(color_scheme="light")
    other.goto(sqlite_server.url)
    expect(other.locator("html")).to_have_class(re.compile("dark"))
    assert not page.alarms
