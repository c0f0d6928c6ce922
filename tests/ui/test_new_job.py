"""The page that makes a job: quick for a newcomer, whole for who knows, and nothing is lost or wrongly sent."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.catalog.ground import stand_in_hub
from tests.conftest import ServerProcess, kill_processes_of
from tests.ui.conftest import axe
from tests.ui.ground import TINY, add_tiny_model, conversations, upload

PROBE = "<img src=x onerror=\"document.title='hacked'\">'\"${1}"
STEPS = ("dataset", "model", "method", "parameters", "saving", "review")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[ServerProcess]:
    """Two datasets and a model; every job of these tests is saved and not started."""
    server = ServerProcess(tmp_path_factory.mktemp("new-job") / "home").start()
    add_tiny_model(server.home, tiny_model)
    upload(server, "Support answers", "support.jsonl", conversations(60))
    upload(server, PROBE, "other.jsonl", conversations(30, seed=8))
    yield server
    server.stop()
    server.client.close()
    kill_processes_of(server.home)


def newest(server: ServerProcess) -> Any:
    return server.client.get("/jobs/", params={"limit": 1}).json()["items"][0]


def go(page: Any, step: str) -> None:
    page.locator(f".nj-steps [data-go={step}]").click()
    page.locator(f"#{step}").wait_for(state="visible")


def by_hand(page: Any) -> None:
    """The job is to be saved, not started: nothing of these tests needs to train."""
    go(page, "saving")
    page.check("[name=when][value=manual]")


def planned(page: Any) -> None:
    """The estimate is there."""
    page.wait_for_function(
        "() => document.querySelector('#estimate').getAttribute('aria-busy') === 'false'"
        " && /\\d/.test(document.querySelector('[data-estimate=steps]').textContent)"
    )


def started(page: Any, act: Callable[[], None]) -> None:
    """`act` makes the job, and its page comes; what that page does is not looked at here."""
    assert not page.alarms
    act()
    page.wait_for_url(re.compile(r"/jobs/\d+"))
    page.wait_for_load_state()
    page.alarms.clear()


def unexpected(page: Any) -> list[str]:
    """Alarms but those of answers 422, which are wanted where a test fills in what cannot be."""
    return [alarm for alarm in page.alarms if "422" not in alarm]


def test_two_clicks_start_a_training(
    start_server: Callable[..., ServerProcess], tiny_model: Path, page: Any, tmp_path: Path
) -> None:
    add_tiny_model(tmp_path / "home", tiny_model)
    server = start_server()
    page.goto(f"{server.url}/jobs/new")
    page.get_by_text("No dataset is ready yet").wait_for()
    upload(server, "Support answers", "support.jsonl", conversations(24))
    page.reload()
    page.get_by_label("Support answers").check()
    started(page, lambda: page.locator(".nj-side [data-start]").click())
    job = server.client.get("/jobs/1").json()
    assert (job["dataset_id"], job["model"], job["method"]) == (1, TINY, "lora") and job["reasons"]["learning_rate"]
    page.goto(f"{server.url}/jobs/new")
    assert not page.get_by_label("Support answers").is_checked(), "the draft of a job that was made is over"
    server.client.post("/jobs/1/stop")
    assert not page.alarms


def test_by_keyboard_alone_through_every_step(server: ServerProcess, page: Any) -> None:
    page.goto(f"{server.url}/jobs/new")
    page.locator("#title-dataset").focus()

    def until(selector: str, most: int = 40) -> None:
        for _ in range(most):
            page.keyboard.press("Tab")
            if page.evaluate("s => document.activeElement.matches(s)", selector):
                return
        raise AssertionError(f"Tab does not get to {selector}")

    until("[name=dataset_id]")
    page.keyboard.press("Space")
    until("#dataset .nj-foot a")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "title-model"
    until("#model .nj-foot a:last-child", 60)
    page.keyboard.press("Enter")
    until("[name=method]")
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.value") == "qlora"
    until("#method .nj-foot a:last-child")
    page.keyboard.press("Enter")
    until("[data-by-hand=basic]")
    page.keyboard.press("Space")
    until("#set-max_steps")
    page.keyboard.type("7")
    until("[data-group=batching] summary")
    page.keyboard.press("Enter")
    until("#parameters .nj-foot a:last-child", 60)
    page.keyboard.press("Enter")
    until("[name=when]", 60)
    for _ in range(3):  # now, off-peak, at a time, (after another job: none), by hand
        page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.value") == "manual"
    until("#saving .nj-foot a:last-child")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "title-review"
    page.locator("#words").get_by_text("7 steps of").wait_for()
    until("#review [data-start]")
    started(page, lambda: page.keyboard.press("Enter"))
    job = newest(server)
    assert job["method"] == "qlora" and job["status"] == "created" and job["hyperparameters"]["max_steps"] == 7
    assert "max_steps" not in job["reasons"] and "learning_rate" in job["reasons"]
    assert not page.alarms


def test_a_reload_loses_nothing_and_the_texts_are_the_same_job(server: ServerProcess, page: Any) -> None:
    page.goto(f"{server.url}/jobs/new?dataset=1&method=standard")
    go(page, "parameters")
    page.check("[data-by-hand=basic]")
    page.locator("[data-setting=learning_rate]:visible [data-control]").fill("3e-5")
    page.locator("[data-group=data] summary").click()
    page.check("[data-by-hand=data]")
    page.fill("#set-system_prompt", f"Be kind. {PROBE}")
    page.locator("[data-group=saving]").evaluate("one => one.open = true")
    by_hand(page)
    page.check("[data-by-hand=saving]")
    page.check("#set-early_stopping-enabled")
    page.fill("#job-name", PROBE)
    page.fill("#job-tags", "support, night shift")
    page.select_option("#job-priority", "high")
    page.fill("#job-timeout", "1.5")
    go(page, "review")
    page.reload()
    assert page.url.endswith("#review") and "dataset=1" in page.url
    page.get_by_text("This is your draft").wait_for()
    planned(page)
    page.get_by_role("tab", name="cURL").click()
    page.wait_for_function("() => document.querySelector('#text').textContent.includes('curl')")
    wanted = {
        "name": PROBE,
        "method": "standard",
        "model": TINY,
        "dataset_id": 1,
        "hyperparameters": {
            "learning_rate": 3e-5,
            "system_prompt": f"Be kind. {PROBE}",
            "early_stopping": {"enabled": True},
        },
        "priority": "high",
        "timeout_s": 5400,
        "start": "manual",
        "tags": ["support", "night shift"],
    }
    texts = server.client.post("/jobs/write-out", json=wanted, params={"url": server.url}).json()
    for tab, key in (("YAML", "yaml"), ("cURL", "curl"), ("Python", "python"), ("Command line", "cli")):
        page.get_by_role("tab", name=tab).click()
        assert page.locator("#text").text_content() == texts[key]
        assert page.locator("#text-copy").get_attribute("data-copy") == texts[key]
    started(page, lambda: page.locator("#review [data-start]").click())
    made = newest(server)
    assert made["name"] == PROBE and made["timeout_s"] == 5400 and made["tags"] == wanted["tags"]
    assert made["hyperparameters"]["early_stopping"] == {
        "enabled": True,
        "patience": 3,
        "metric": "eval_loss",
        "min_delta": 0.0,
    }
    page.goto(f"{server.url}/jobs/new?from={made['id']}#parameters")
    page.get_by_text(f"A copy of job {made['id']}").wait_for()
    planned(page)
    assert page.locator("[data-setting=learning_rate]:visible [data-control]").input_value() == "0.00003"
    assert page.locator(".nj-picked").get_by_text("Standard").count() == 1
    go(page, "saving")
    assert page.is_checked("[name=when][value=manual]") and page.input_value("#job-timeout") == "1.5"
    page.click("#start-over")
    page.wait_for_url("**/jobs/new*")
    assert "Choose one" in page.locator(".nj-picked").inner_text()
    assert page.title().startswith("New training job") and not page.alarms


def test_problems_stand_at_their_fields_and_lead_there(server: ServerProcess, page: Any) -> None:
    page.goto(f"{server.url}/jobs/new")
    assert not page.alarms, "a form that is not filled in yet is no fault"
    page.locator(".nj-to-do").get_by_role("link", name="Choose a dataset").click()
    assert page.evaluate("document.activeElement.name") == "dataset_id"
    page.get_by_label("Support answers").check()
    planned(page)
    go(page, "parameters")
    page.check("[data-by-hand=basic]")
    page.locator("[data-setting=learning_rate]:visible [data-control]").fill("7")
    page.locator("[data-group=data] summary").click()
    page.check("[data-by-hand=data]")
    page.fill("#set-validation_split", "much")
    page.locator("[data-setting=validation_split] [data-problem]").wait_for()
    rate = page.locator("[data-setting=learning_rate]:visible")
    assert "at most 1" in rate.locator("[data-problem]").inner_text()
    assert rate.locator("[data-control]").get_attribute("aria-invalid") == "true"
    assert page.locator(".nj-steps [data-go=parameters]").get_attribute("data-trouble") is not None
    go(page, "model")
    page.fill("#model-name", "nobody/has-this")
    page.locator(".nj-to-do").get_by_text("nobody/has-this").wait_for()
    assert page.locator(".nj-to-do li").count() == 3, "all problems at once"
    page.locator(".nj-to-do").get_by_role("link", name="Held-out share").click()
    assert page.evaluate("document.activeElement.id") == "set-validation_split"
    page.locator("[data-setting=validation_split]").get_by_role("button", name="Choose for me").click()
    page.locator("[data-setting=learning_rate]:visible [data-control]").fill("0.1")
    page.locator("[data-setting=learning_rate]:visible").get_by_text("That is unusual").wait_for()
    go(page, "model")
    page.get_by_role("radio", name=TINY).check()
    planned(page)
    assert page.locator("#new-job [data-problem]").count() == 0 and page.locator("#to-do").is_hidden()
    assert page.locator("#set-validation_split").input_value() == "0.1"
    assert not unexpected(page)


def test_rows_and_lines_that_cannot_be_used_are_counted_apart_and_never_are_all_skipped(
    server: ServerProcess, page: Any
) -> None:
    rows = [{"question": f"Where is {n}?", "answer": f"At depot {n}."} for n in range(30)]
    lists = [{**row, "answer": [row["answer"], "Elsewhere."]} for row in rows]
    text = ["\n".join(json.dumps(row) for row in some) for some in (lists[:2] + rows, lists)]
    mixed = upload(server, "mixed", "mixed.jsonl", f"{text[0]}\n{{no\n{{json")
    answers = upload(server, "answers", "answers.jsonl", text[1])
    panel, start = page.locator("#bad-rows"), page.locator(".nj-side [data-start]")
    page.goto(f"{server.url}/jobs/new?dataset={mixed}&model={TINY}#dataset")
    panel.get_by_text("2 rows cannot be used for training and 2 lines of the file could not be read").wait_for()
    start.get_by_text("Skip 2 rows and start").wait_for()
    page.goto(f"{server.url}/jobs/new?dataset={answers}&model={TINY}#dataset")
    panel.get_by_text("No row can be used for training").wait_for()
    assert panel.get_by_role("button").all_inner_texts() == ["Keep the first answer of each row"]
    assert start.inner_text().strip() == "Start training"
    panel.get_by_role("button").click()
    panel.wait_for(state="hidden")
    assert server.client.get(f"/datasets/{answers}").json()["num_rows"] == 30
    assert server.client.get(f"/datasets/{answers}/validation").json()["valid"] and not unexpected(page)


def test_it_starts_later_with_other_rows_held_out(server: ServerProcess, page: Any) -> None:
    first = server.client.post("/jobs/", json={"model": TINY, "dataset_id": 1, "start": "manual"}).json()["id"]
    page.goto(f"{server.url}/jobs/new?dataset=1")
    page.check("[name=held_out][value=dataset]")
    page.locator(".nj-side [data-start]").click()
    page.locator(".nj-to-do").get_by_role("link", name="Choose the dataset that is held out").wait_for()
    assert page.evaluate("document.activeElement.id") == "eval-dataset", "what is begun and not finished is not sent"
    page.select_option("#eval-dataset", "2")
    go(page, "saving")
    page.check("[name=when][value=after]")
    page.select_option("#after-job", str(first))
    page.check("#after-success")
    go(page, "review")
    page.locator("#words").get_by_text(f"after job {first}").wait_for()
    text = page.locator("#text")
    page.wait_for_function("() => document.querySelector('#text').textContent.includes('after_job_id')")
    assert "after_failure: false" in text.inner_text() and "validation_dataset: 2" in text.inner_text()
    go(page, "saving")
    page.check("[name=when][value=at]")
    page.fill("#not-before", "2035-01-02T03:04")
    go(page, "review")
    page.wait_for_function("() => document.querySelector('#text').textContent.includes('not_before')")
    assert "after_job_id" not in text.inner_text()
    started(page, lambda: page.locator("#review [data-start]").click())
    job = newest(server)
    assert job["eval_dataset_id"] == 2 and job["not_before"].startswith("2035-01-0") and job["after_job_id"] is None
    assert job["hyperparameters"]["validation_split"] == 0.0
    server.client.post(f"/jobs/{job['id']}/stop")
    assert not page.alarms


def test_lists_are_searched_and_the_choice_stays(server: ServerProcess, page: Any) -> None:
    page.goto(f"{server.url}/jobs/new")
    page.get_by_label("Support answers").check()
    page.fill("[name=find]", "onerror")
    page.wait_for_function("() => document.querySelectorAll('#found-datasets .nj-card').length === 2")
    assert page.get_by_label("Support answers").is_checked(), "what is chosen stays on the list"
    assert page.locator(".nj-card-head").get_by_text(PROBE).is_visible()
    go(page, "model")
    page.fill("[name=q]", "no-such-model")
    page.get_by_text("No model fits").wait_for()
    page.get_by_text("The hub is switched off").wait_for()
    page.fill("[name=q]", "tiny")
    page.get_by_role("radio", name=TINY).wait_for()
    star = page.get_by_role("button", name=f"Keep {TINY} in the collection")
    star.click()
    page.wait_for_function("() => document.querySelector('[data-collect]').getAttribute('aria-pressed') === 'true'")
    assert [item["name"] for item in server.client.get("/models/collection").json()["items"]] == [TINY]
    star.click()
    page.wait_for_function("() => document.querySelector('[data-collect]').getAttribute('aria-pressed') === 'false'")
    go(page, "method")
    unsloth = page.locator(".nj-card", has_text="Unsloth")
    assert unsloth.locator("input").is_disabled() and "needs an NVIDIA GPU" in unsloth.inner_text()
    assert page.title().startswith("New training job") and not page.alarms


def test_a_model_of_the_hub_is_chosen_before_it_is_here(start_server: Callable[..., ServerProcess], page: Any) -> None:
    with stand_in_hub() as hub:
        address = f"http://127.0.0.1:{hub.server_address[1]}"
        server = start_server(TUNESMITH_HUB_OFFLINE="0", HF_HUB_OFFLINE="0", HF_ENDPOINT=address)
        upload(server, "Support answers", "support.jsonl", conversations(24))
        page.goto(f"{server.url}/jobs/new?dataset=1#model")
        page.get_by_role("radio", name="SmolLM2").wait_for()
        assert page.get_by_role("radio", name="SmolLM2").is_checked(), (
            "with no model here, the starter model is suggested"
        )
        assert not hub.asked, "the hub is asked only when somebody looks for something"  # type: ignore[attr-defined]
        page.fill("[name=q]", "chat")
        page.get_by_role("radio", name="acme/small-chat").check()
        assert "accepted its terms" in page.locator(".nj-card", has_text="acme/large-chat").inner_text()
        assert page.get_by_role("radio", name="other/pickled-chat").is_disabled()
        page.locator("[data-estimate=memory]").get_by_text("at least").wait_for()
        page.get_by_text("The model must be here before the time can be told.").wait_for()
        page.fill("[name=q]", "onerror")
        page.locator("#found-models strong", has_text="<img src=x").wait_for()
        by_hand(page)
        started(page, lambda: page.locator(".nj-side [data-start]").click())
        assert newest(server)["model"] == "acme/small-chat"


def test_what_cannot_be_copied_is_said(server: ServerProcess) -> None:
    for path, status in (("?from=999", 404), ("?from=0", 422), ("?dataset=x", 422), ("?category=nothing", 422)):
        answer = httpx.get(f"{server.url}/jobs/new{path}", headers={"Accept": "text/html"})
        assert answer.status_code == status and "text/html" in answer.headers["content-type"], path


@pytest.mark.parametrize(("theme", "width"), [("light", 375), ("dark", 1280)])
def test_anybody_can_use_it(server: ServerProcess, window: Callable[..., Any], theme: str, width: int) -> None:
    page = window(width, 900, color_scheme=theme)
    page.goto(f"{server.url}/jobs/new?dataset=1")
    planned(page)
    for step in STEPS:
        go(page, step)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, step
    axe(page)
    page.get_by_role("button", name="One page").click()
    axe(page)
    for group in ("basic", "data", "saving", "tracking"):
        page.locator(f"[data-group={group}]").evaluate("one => one.open = true")
        page.check(f"[data-by-hand={group}]")
    page.locator("[data-setting=learning_rate]:visible [data-control]").fill("7")
    page.locator("[data-setting=learning_rate] [data-problem]").wait_for()
    axe(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.reload()
    page.locator("#review").wait_for()  # the layout is remembered
    assert not unexpected(page)


def test_a_plan_is_told_at_once(server: ServerProcess) -> None:
    body = {"model": TINY, "dataset_id": 1}
    first = server.client.post("/jobs/plan", json=body).json()["estimate"]
    assert first["duration_s"] > 0 and first["disk_free_bytes"] > 0 and "guess" in first["duration_from"]
    times = sorted(server.client.post("/jobs/plan", json=body).elapsed.total_seconds() for _ in range(9))
    assert times[4] < 0.2, f"a plan takes {times[4]:.3f} s"
    fields = {f["name"]: f for f in server.client.get("/jobs/methods").json()[0]["fields"]}
    assert (
        fields["early_stopping.patience"]["unit"] == "evaluations"
        and json.dumps(fields["lora_r"]["usual"]) == "[4.0, 128.0]"
    )
