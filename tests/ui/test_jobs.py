"""The pages of jobs: the list with its queue, one job as it runs, and several side by side."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert

from tests.conftest import ServerProcess, kill_processes_of
from tests.jobs.conftest import custom
from tests.ui.conftest import axe
from tunesmith.core.clock import utc_now
from tunesmith.core.events import StepEvent
from tunesmith.features.jobs.tables import EventRow, JobRow
from tunesmith.settings import Settings
from tunesmith.storage.database import Database

EVIL = '<img src=x onerror=alert(1)>"&'
FAILING = "print('a line before'); print('x' * 200); raise SystemExit('the cupboard is bare')"
SCORING = """
import json, pathlib, sys
out = pathlib.Path(json.load(open(sys.argv[1]))["output_dir"])
out.mkdir(parents=True, exist_ok=True)
(out / "result.json").write_text("{}")
for step in range(1, 21):
    print(json.dumps({"step": step, "total_steps": 20, "loss": 4.0 / step, "epoch": step / 10, "elapsed_s": step}))
print(json.dumps({"step": 20, "eval_loss": LOSS, "f1": 0.5}))
"""
MOST_MS = 120
"""A zoom of a chart with 100,000 points, on a machine that is busy with other tests too."""


def make(server: ServerProcess, **fields: Any) -> int:
    answer = server.client.post("/jobs/", json=custom(**fields))
    assert answer.status_code == 201, answer.text
    return int(answer.json()["id"])


def until_over(server: ServerProcess, job_id: int) -> None:
    server.wait_for(f"/jobs/{job_id}", lambda job: job["status"] in ("completed", "failed", "cancelled"))


def until(page: Any, expression: str, timeout_s: float = 60) -> None:
    """Until it is true in the page, whose policy lets nothing be evaluated there from inside."""
    deadline = time.monotonic() + timeout_s
    while not page.evaluate(expression):
        assert time.monotonic() < deadline, f"not in {timeout_s} s: {expression}"
        page.wait_for_timeout(100)


def run_script(server: ServerProcess, name: str, script: str) -> None:
    body = {"method": "custom", "name": name, "hyperparameters": {"script": script}}
    until_over(server, server.client.post("/jobs/", json=body).json()["id"])


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Jobs 1 and 2 are completed, 3 was not started, 4 failed, 5 has an evil name."""
    home = tmp_path_factory.mktemp("jobs") / "home"
    server = ServerProcess(home, {"TUNESMITH_CUSTOM_SCRIPTS": "1"}).start()
    for name, loss in (("support one", 1.5), ("support two", 1.25)):
        run_script(server, name, SCORING.replace("LOSS", str(loss)))
    make(server, name="support three", start="manual")
    run_script(server, "cupboard", FAILING)
    until_over(server, make(server, name=EVIL, tags=[EVIL[:90]], steps=30))
    yield server
    server.stop()
    server.client.close()
    kill_processes_of(home)


PATHS = ["/jobs", "/jobs?status=failed", "/jobs?q=nothing-has-this-name", "/jobs/1", "/jobs/3", "/jobs/4", "/jobs/5",
         "/jobs/1?tab=logs", "/jobs/1?tab=checkpoints", "/jobs/1?tab=parameters", "/jobs/1?tab=artifacts&checksums=1",
         "/jobs/compare", "/jobs/compare?ids=1,2,5", "/jobs?view=table&group=method"]  # fmt: skip


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_page_of_jobs_can_be_used_by_everybody(
    ground: ServerProcess, window: Callable[..., Any], theme: str
) -> None:
    page = window(375 if theme == "dark" else 1280, 800, color_scheme=theme)
    for path in PATHS:
        page.goto(f"{ground.url}{path}", wait_until="load")
        if path in ("/jobs/1", "/jobs/compare?ids=1,2,5"):
            page.wait_for_selector("#charts canvas")
        wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
        assert wide <= 0, f"{path} is {wide} px wider than the window"
        axe(page)
    assert not page.alarms


def test_runs_in_a_table_with_chosen_columns_and_saved_views(ground: ServerProcess, page: Any) -> None:
    from playwright.sync_api import expect

    page.goto(f"{ground.url}/jobs?q=support")
    page.get_by_role("link", name="Table").click()
    rows = page.locator("tr[data-job]")
    expect(rows).to_have_count(3)
    page.get_by_role("button", name="Columns").click()
    while page.locator("#run-columns :checked").count():
        page.locator("#run-columns :checked").first.uncheck()
    page.get_by_label("Find a column").fill("f1")
    page.locator("#run-columns label:not([hidden])", has_text="f1").first.click()
    page.get_by_role("button", name="Show columns").click()
    page.wait_for_url("**columns=metric.*f1*")
    assert "q=support" in page.url
    page.get_by_label("Order").select_option("metric.eval_loss.best")
    expect(page.locator("th[aria-sort=ascending]")).to_have_text("Held-out loss, best")
    expect(rows.first).to_contain_text("support two")
    heights = page.evaluate(
        "[...document.querySelectorAll('.runs-table tr')].map(row => row.getBoundingClientRect().height)"
    )
    assert set(heights) == {36}, heights
    page.keyboard.press("j")
    page.keyboard.press("x")
    expect(page.locator("#bulk-count")).to_have_text("1 selected")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Views").click()
    page.get_by_role("button", name="Save this view").click()
    page.locator("#run-save-name").fill("best of support")
    page.get_by_role("button", name="Save view").click()
    expect(page.get_by_role("button", name="Views")).to_contain_text("1")
    page.goto(f"{ground.url}/jobs?view=table")
    page.get_by_role("button", name="Views").click()
    page.get_by_role("link", name="best of support").click()
    expect(rows).to_have_count(3)
    expect(rows.first).to_contain_text("support two")
    assert not page.alarms


def test_jobs_are_found_selected_and_compared(ground: ServerProcess, page: Any) -> None:
    from playwright.sync_api import expect

    rows = page.locator("tr[data-job]")
    page.goto(f"{ground.url}/jobs?sort=created&order=asc")
    expect(page.get_by_label("Order").locator(":checked")).to_have_text("Oldest first")
    page.locator("#find [name=q]").fill("support")
    expect(rows).to_have_count(3)
    expect(rows.first).to_contain_text("support one")
    expect(rows.last).to_contain_text("not yet")
    page.get_by_label("Order").select_option("created")
    expect(rows.last).to_contain_text("support one")
    page.goto(f"{ground.url}/jobs?view=table&sort=metric.nobody_has&group=param.nobody_has")
    expect(rows).to_have_count(5)
    page.goto(f"{ground.url}/jobs")
    expect(rows).to_have_count(5)
    expect(rows.first).to_contain_text(EVIL)
    for key in "jjx":
        page.keyboard.press(key)
    expect(page.locator("#bulk-count")).to_have_text("1 selected")
    page.keyboard.press("Escape")
    expect(page.locator("#bulk")).to_be_hidden()
    page.keyboard.press("?")
    expect(page.locator("#shortcuts")).to_contain_text("Select the job")
    expect(page.locator("#shortcuts")).to_contain_text("Compare the selected jobs")
    page.keyboard.press("Escape")
    page.keyboard.press("/")
    page.keyboard.type("support")
    expect(rows).to_have_count(3)
    assert "q=support" in page.url
    page.get_by_label("Order").select_option("eval_loss")
    page.wait_for_url("**sort=eval_loss**")
    page.reload()
    losses = [float(text) for text in rows.locator("td:nth-child(6)").all_inner_texts() if text != "–"]
    assert losses == sorted(losses) and len(losses) == 2
    page.get_by_label(re.compile("^Select job 1,")).check()
    page.get_by_label(re.compile("^Select job 2,")).check()
    page.evaluate("document.body.dispatchEvent(new CustomEvent('tunesmith:jobs'))")  # the list is drawn anew
    page.wait_for_load_state("networkidle")
    expect(page.locator("#bulk-count")).to_have_text("2 selected")
    page.get_by_role("link", name="Compare").click()
    assert sorted(re.findall(r"\d+", page.url.partition("ids=")[2])) == ["1", "2"]
    expect(page.locator("#runs li")).to_have_count(2)
    settings = page.locator("#settings-table tbody tr:visible")
    expect(settings.filter(has_text="Script")).to_contain_text("1.25")
    few = settings.count()
    page.get_by_label(re.compile("^Show all")).check()
    assert settings.count() > few
    expect(page.locator("#scores tr", has_text="Held-out loss, best").locator(".is-best")).to_have_text("1.25")
    assert not page.alarms


def test_asking_jobs_without_a_model_says_why_in_each_place(ground: ServerProcess, page: Any) -> None:
    from playwright.sync_api import expect

    page.goto(f"{ground.url}/jobs/compare?ids=1,2,3")
    answers = page.locator("[data-answer]")
    page.get_by_label("Ask every model the same").fill("Where is the parcel?")
    page.get_by_role("button", name="Ask all").click()
    told = ground.client.post("/jobs/1/chat", json={"messages": [{"role": "user", "content": "a"}]}).json()["message"]
    for place in (0, 1):
        expect(answers.nth(place).locator("[data-asked]")).to_have_text("Where is the parcel?")
        expect(answers.nth(place).locator(".said")).to_contain_text(told.replace("1", str(place + 1)))
    expect(answers.nth(2)).to_contain_text("Shown when the job is completed.")


def test_a_failure_says_why_and_what_to_do_and_its_log_can_be_searched(ground: ServerProcess, page: Any) -> None:
    from playwright.sync_api import expect

    page.goto(f"{ground.url}/jobs/4")
    told = ground.client.get("/jobs/4").json()
    expect(page.locator("#job-now .problem")).to_contain_text(told["status_reason"])
    expect(page.locator("#job-now .problem")).to_contain_text(told["hint"])
    page.keyboard.press("2")
    page.wait_for_url("**tab=logs")
    expect(page.locator("#log")).to_contain_text("a line before")
    page.get_by_label("Search the log").fill("A LINE")
    expect(page.locator("#log mark.is-here")).to_have_text("a line")
    expect(page.locator("#log-found")).to_have_text("1 of 1")
    page.get_by_label("Search the log").fill("nowhere to be found")
    expect(page.locator("#log-found")).to_have_text("No match")
    page.get_by_label("Search the log").fill("")
    page.get_by_label("Show").select_option("error")
    expect(page.locator("#log .log-line")).to_have_count(1)
    expect(page.locator("#log")).to_contain_text(told["status_reason"])
    expect(page.locator("#log")).not_to_contain_text("a line before")
    for wanted, marked in (("r ", ".log-level"), (told["created_at"][:10], ".log-time")):
        page.get_by_label("Search the log").fill(wanted)
        expect(page.locator(f"#log {marked} mark.is-here")).to_be_visible()
    expect(page.locator("#log time")).to_have_count(0)  # those become "3 min ago"
    expect(page.locator("#log .log-time")).to_have_text(re.compile(r"^\d\d:\d\d:\d\d$"))
    page.get_by_label("Search the log").fill("")
    page.get_by_label("Show").select_option("output")
    expect(page.locator("#log")).to_contain_text("a line before")
    expect(page.locator("#log .log-line")).to_have_count(0)
    page.get_by_role("button", name="More for this job").click()
    page.get_by_role("button", name="Delete").click()
    expect(page.locator("#sure-yes")).to_be_disabled()
    page.locator("#sure-word").fill(told["output_name"])
    expect(page.locator("#sure-yes")).to_be_enabled()
    page.keyboard.press("Escape")
    assert ground.client.get("/jobs/4").status_code == 200
    assert not page.alarms


def test_a_log_of_many_megabytes_is_read_in_parts(ground: ServerProcess, page: Any) -> None:
    from playwright.sync_api import expect

    log = ground.home / "jobs" / "5" / "output.log"
    lines = 1_500_000
    log.write_text("".join(f"line {n} of a very long log, with \x1b[31mcolours\x1b[0m\n" for n in range(lines)))
    page.goto(f"{ground.url}/jobs/5?tab=logs")
    expect(page.locator("#log")).to_contain_text(f"line {lines - 1} of a very long log, with colours")
    expect(page.locator("#log-place")).to_contain_text("MB")
    assert page.evaluate("document.getElementById('log').textContent.length") < 2_000_000
    page.get_by_label("Search the log").fill("line 777777 ")
    expect(page.locator("#log mark.is-here")).to_have_text("line 777777 ", timeout=60_000)
    expect(page.locator("#log")).to_contain_text("line 777776 of")
    page.get_by_role("button", name="Beginning").click()
    expect(page.locator("#log")).to_contain_text("line 0 of")
    page.evaluate("document.getElementById('log').scrollTop = 1e9")
    expect(page.locator("#log")).to_contain_text("line 2500 of")
    assert not page.alarms


def test_curves_go_on_through_a_restart_with_no_gap_and_no_double_point(
    start_server: Callable[..., ServerProcess], page: Any
) -> None:
    from playwright.sync_api import expect

    steps = 500
    server = start_server(TUNESMITH_CUSTOM_SCRIPTS="1")
    job_id = make(server, steps=steps, pause=0.02, name="restarted")
    page.goto(f"{server.url}/jobs/{job_id}")
    read = (
        "document.getElementById('charts').charts?.charts.get('Loss')?.options.series[0]?.points.map(p => p[0]) ?? []"
    )
    until(page, f"({read}).length > 20")
    server.kill()
    expect(page.locator("#offline")).to_be_visible()
    before = page.evaluate(read)
    server.start()
    expect(page.locator("#offline")).to_be_hidden(timeout=60_000)
    until(page, f"({read}).length > {len(before)}")
    expect(page.locator("#job-now")).to_have_attribute("data-status", "completed", timeout=90_000)
    until(page, f"({read}).at(-1) === {steps}")
    assert page.evaluate(read) == list(range(1, steps + 1))
    expect(page.locator("#job-actions")).to_contain_text("Download")
    assert not [alarm for alarm in page.alarms if "ERR_" not in alarm and "htmx" not in alarm]


def test_a_job_is_steered_and_the_queue_is_ordered(start_server: Callable[..., ServerProcess], page: Any) -> None:
    from playwright.sync_api import expect

    server = start_server(TUNESMITH_CUSTOM_SCRIPTS="1")
    running = make(server, steps=5000, pause=0.05, name="now")
    for name in ("first", "second", "third"):
        make(server, steps=1, name=name)
    page.goto(f"{server.url}/jobs")
    queue = page.locator(".queue-text a")
    expect(queue).to_have_text(["first", "second", "third"])
    expect(page.locator(".queue")).to_contain_text("Another job is running")
    page.get_by_role("button", name="Move third up").click()
    expect(queue).to_have_text(["first", "third", "second"])
    page.get_by_role("button", name="Move second first").click()
    expect(queue).to_have_text(["second", "first", "third"])
    page.get_by_role("button", name="Move second down").click()
    expect(queue).to_have_text(["first", "second", "third"])
    page.get_by_label("Select every job on this page").check()
    page.locator("[data-bulk=pause]").click()
    expect(page.locator(".toast-box").first).to_contain_text("4 jobs pausing.")
    expect(page.locator("tr[data-status=paused]")).to_have_count(3)
    for name in ("first", "second", "third"):
        expect(page.locator("tr", has_text=name)).to_contain_text("paused")

    page.goto(f"{server.url}/jobs/{running}")
    expect(page.locator("#job-actions")).to_contain_text("Resume", timeout=60_000)
    page.keyboard.press("p")
    expect(page.locator("#job-now")).to_have_attribute("data-status", "running", timeout=60_000)
    page.keyboard.press("g")
    page.keyboard.press("s")  # to the system's page, which is not to stop the job
    page.wait_for_url("**/system")
    page.go_back()
    expect(page.locator("#sure")).to_be_hidden()
    page.get_by_role("button", name="More for this job").click()
    page.get_by_role("button", name="Change learning rate").click()
    page.get_by_label("Peak learning rate").fill("3")
    page.get_by_role("button", name="Change rate").click()
    expect(page.locator("#change-rate")).to_be_visible()  # the browser itself knows that 3 is too much
    page.get_by_label("Peak learning rate").fill("0.0001")
    page.get_by_role("button", name="Change rate").click()
    expect(page.locator("#change-rate")).to_be_hidden()
    page.get_by_role("button", name="Stop").click()
    page.locator("#sure-yes").click()
    expect(page.locator("#job-now")).to_have_attribute("data-status", "cancelled", timeout=60_000)
    page.get_by_role("button", name="More for this job").click()
    page.get_by_role("button", name="Name and tags").click()
    page.locator("#edit-name").fill(EVIL)
    page.locator("#edit-tags").fill("a, b")
    page.get_by_role("button", name="Save").click()
    expect(page.locator("h1")).to_have_text(EVIL)
    assert server.client.get(f"/jobs/{running}").json()["tags"] == ["a", "b"]
    page.get_by_role("button", name="More for this job").click()
    page.get_by_role("button", name="Delete").click()
    page.locator("#sure-word").fill("now")
    page.locator("#sure-yes").click()
    page.wait_for_url("**/jobs")
    expect(page.locator("tr[data-job]")).to_have_count(3)
    assert not page.alarms


def long_job(home: Path, steps: int) -> None:
    """A finished job of so many steps, in the database of a server that does not run."""
    settings = Settings(home=home)
    settings.make_dirs()
    database = Database(settings.sqlalchemy_url)
    database.migrate()
    request = custom(name="long")
    with database.unit_of_work() as session:
        session.add(
            JobRow(
                id=1,
                name="long",
                method="custom",
                hyperparameters=request["hyperparameters"],
                reasons={},
                tags=[],
                request=request,
                spec={"job_id": 1, "name": "long", "recipe": "custom", "params": {}, "cache_dir": "."},
                resources={},
                output_name="long",
                status="completed",
                last_seq=steps,
                step=steps,
                total_steps=steps,
                created_at=utc_now(),
            )
        )
        session.flush()
        rows = []
        for n in range(1, steps + 1):
            loss = 2 / n**0.2 + (n * 7919 % 101) / 200 + (9 if n == 54_321 else 0)
            event = StepEvent(
                step=n,
                total_steps=steps,
                epoch=n / 1000,
                loss=loss,
                learning_rate=1e-4,
                grad_norm=1.0,
                elapsed_s=n / 10,
            )
            rows.append({"job_id": 1, "seq": n, "type": "step", "step": n, "body": event.model_dump(mode="json")})
        session.execute(insert(EventRow), rows)
    database.close()


FRAMES = """async ({points}) => {
  const from = document.querySelector('script[src*="js/app.js"]').src.replace('app.js', 'chart.js');
  const { lineChart } = await import(from);
  const place = document.createElement('div');
  document.getElementById('charts').append(place);
  const series = ['a', 'b'].map((label, i) => ({ label, points: Array.from({ length: points }, (_, n) => [n, Math.sin(n / 900) + (n * 7919 % 101) / 80 + i]) }));
  const chart = lineChart(place, { series, smoothing: 0.6 });
  const times = [];
  for (let i = 0; i < 24; i++) {
    const began = performance.now(), wide = points / (1 + i);
    if (i % 3) chart.zoom([i * 100, i * 100 + wide]); else chart.append('a', [[points + i, 1]]);
    await new Promise(requestAnimationFrame);
    await new Promise(requestAnimationFrame);
    times.push(performance.now() - began);
  }
  chart.destroy();
  return times.sort((one, other) => one - other);
}"""


def test_a_run_of_100_000_steps_is_drawn_zoomed_and_scrolled_smoothly(
    start_server: Callable[..., ServerProcess], tmp_path: Path, page: Any
) -> None:
    long_job(tmp_path / "home", 100_000)
    server = start_server(tmp_path / "home")
    page.goto(f"{server.url}/jobs/1")
    page.wait_for_selector("#charts canvas", timeout=60_000)
    charts = "document.getElementById('charts').charts"
    points = f"{charts}.charts.get('Loss').options.series[0].points"
    assert page.evaluate(f"Math.max(...{points}.map(p => p[1]))") > 9, "the one high point is seen"
    assert page.evaluate(f"{points}.length") < 5000
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if "from_step" in request.url else None)
    box = page.locator("#charts .u-over").first.bounding_box()
    page.mouse.move(box["x"] + 100, box["y"] + 50)
    page.mouse.down()
    page.mouse.move(box["x"] + 300, box["y"] + 60, steps=4)
    page.mouse.up()
    until(page, f"{charts}.charts.get('Loss').range !== undefined")
    page.wait_for_timeout(700)
    assert len(asked) == 1, "one request a zoom, however many charts follow it"
    page.keyboard.press("Escape")
    page.evaluate(f"{charts}.charts.get('Loss').zoom([54000, 55000])")
    until(page, f"{points}.filter(p => p[0] >= 54000 && p[0] <= 55000).length === 1001")
    assert page.evaluate(f"[...{charts}.charts.values()].every(chart => chart.range[0] === 54000)"), "all zoom together"
    page.keyboard.press("Escape")
    until(page, f"{charts}.charts.get('Loss').range === undefined")
    page.select_option("#x-axis", "epoch")
    until(page, f"Math.abs({points}.at(-1)[0] - 100) < 0.01")
    assert "x=epoch" in page.url
    times = page.evaluate(FRAMES, {"points": 100_000})
    assert times[len(times) // 2] < MOST_MS, json.dumps([round(t) for t in times])
    assert not page.alarms
