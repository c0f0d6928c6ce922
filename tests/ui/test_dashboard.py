"""The dashboard: from nothing to the sample data in the wizard, and what runs, waits and needs attention, live."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from tests.conftest import ServerProcess
from tests.ui.conftest import axe
from tunesmith.core.clock import utc_now
from tunesmith.features.jobs.tables import JobRow
from tunesmith.storage.database import Database

EVIL = "<img src=x onerror=alert(1)>"


def add_jobs(home: Path, *jobs: dict[str, Any]) -> None:
    """Rows beside the running server, for what takes hours to come about."""
    database, now = Database(f"sqlite:///{home / 'tunesmith.db'}"), utc_now()
    with database.unit_of_work() as session:
        for number, job in enumerate(jobs):
            row: dict[str, Any] = {
                "method": "lora", "hyperparameters": {}, "reasons": {}, "request": {}, "spec": {}, "resources": {}, "tags": [],
                "created_at": now, "queued_at": now, "output_name": f"out-{number}", **job,
            }  # fmt: skip
            session.add(JobRow(**row))
    database.close()


def test_a_new_user_is_one_click_from_the_wizard(sqlite_server: ServerProcess, page: Any) -> None:
    from playwright.sync_api import expect

    page.goto(sqlite_server.url)
    expect(page.get_by_role("heading", name="Your first model in three steps")).to_be_visible()
    expect(page.get_by_text("All is well.")).to_be_visible()
    axe(page)
    page.get_by_role("button", name="Use the sample data").click()
    page.wait_for_url("**/jobs/new?dataset=*", timeout=60_000)
    found = sqlite_server.client.get("/datasets/").json()["items"]
    assert [(dataset["status"], dataset["num_rows"]) for dataset in found] == [("ready", 160)]
    page.goto(sqlite_server.url)
    expect(page.locator(".first-steps [data-done]")).to_have_count(1)
    page.get_by_role("button", name="Use the sample data").click()
    page.wait_for_url("**/jobs/new?dataset=*")
    assert sqlite_server.client.get("/datasets/").json()["total"] == 1, "it is there once"
    assert not page.alarms


def test_a_sample_that_cannot_be_brought_in_is_said_where_the_button_is(
    sqlite_server: ServerProcess, page: Any
) -> None:
    from playwright.sync_api import expect

    page.goto(sqlite_server.url)
    page.route(
        "**/datasets/upload?*",
        lambda route: route.fulfill(
            status=507, json={"error": "disk_full", "message": "No room.", "hint": "Clean up."}
        ),
    )
    page.get_by_role("button", name="Use the sample data").click()
    expect(page.locator("#sample-problem")).to_contain_text("No room.")
    expect(page.locator("#sample-problem")).to_contain_text("Clean up.")


def test_what_runs_waits_and_failed_is_seen_as_it_comes(
    start_server: Callable[..., ServerProcess], tmp_path: Path, tiny_model: Path, window: Callable[..., Any]
) -> None:
    from playwright.sync_api import expect

    home = tmp_path / "home"
    shutil.copytree(tiny_model, home / "models" / "tests--tiny")
    server, now = start_server(TUNESMITH_CPU_SLOTS="0"), utc_now()
    points = [[step, 3.0 / step] for step in range(1, 20)]
    add_jobs(
        home,
        {"name": EVIL, "status": "running", "step": 300, "total_steps": 1200, "loss": 0.8123, "remaining_s": 754.0, "phase": "training",
         "sparkline": {"every": 1, "seen": 19, "points": points}},
        {"name": "broken", "status": "failed", "ended_at": now, "status_reason": EVIL, "hint": "Use a smaller batch_size."},
        {"name": "old", "status": "completed", "created_at": now - timedelta(days=3)},
    )  # fmt: skip
    page = window(color_scheme="dark")
    page.goto(server.url)
    running = page.locator(".run-list li")
    expect(running).to_contain_text(EVIL)
    expect(running).to_contain_text("300 of 1,200 steps")
    expect(running).to_contain_text("12 min 34 s left")
    assert running.locator("progress").evaluate("bar => bar.value") == 0.25
    expect(running.locator("svg.spark path")).to_have_attribute("d", re.compile(r"^M.*L"))
    expect(page.locator(".attention")).to_contain_text("Use a smaller batch_size.")
    expect(page.get_by_role("img", name=re.compile("Jobs made on each"))).to_have_attribute(
        "aria-label", re.compile("1 job \\(1 completed\\)")
    )
    expect(page.locator("[data-line=cpu] svg path").last).to_have_attribute("d", re.compile("^M"), timeout=30_000)
    axe(page)

    page.evaluate("document.querySelector('#machine').dataset.mine = 'yes'")
    rows = b'{"question": "a", "answer": "b"}\n' * 20
    made = server.client.put("/datasets/upload", params={"file_name": "x.jsonl"}, content=rows).json()
    server.wait_for(f"/datasets/{made['id']}", lambda dataset: dataset["status"] == "ready")
    job = {"name": "the next one", "model": "tests/tiny", "dataset_id": made["id"]}
    assert server.client.post("/jobs/", json=job).status_code == 201
    queue = page.locator(".queue li")
    expect(queue).to_contain_text("the next one")
    expect(queue).to_contain_text("The queue is held")
    assert page.evaluate("document.querySelector('#machine').dataset.mine") == "yes", "what scripts draw is kept"
    page.get_by_role("link", name="the next one").focus()
    server.client.post("/jobs/4/stop")
    expect(page.get_by_text("No jobs in the queue.")).to_be_visible()

    narrow = window(375, 800)
    narrow.goto(server.url)
    expect(narrow.locator(".run-list li")).to_be_visible()
    assert narrow.evaluate("document.documentElement.scrollWidth") == 375
    axe(narrow)
    assert not page.alarms and not narrow.alarms
