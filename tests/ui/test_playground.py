"""The playground in a real browser, with a real model that a real job has tuned."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.conftest import ServerProcess, kill_processes_of
from tests.ui.conftest import axe
from tests.ui.ground import add_tiny_model, conversations, train, upload, wait_until_over

EVIL = "<img src=x onerror=alert(1)><script>alert(2)</script>"
BOTH = "with=job:1&with=tests/tiny"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, tiny_model: Any) -> Iterator[ServerProcess]:
    """A tiny base model and what a job of two steps made of it; both loaded already."""
    server = ServerProcess(tmp_path_factory.mktemp("playground") / "home").start()
    add_tiny_model(server.home, tiny_model)
    rows = upload(server, "Support answers", "support.jsonl", conversations(20))
    wait_until_over(server, train(server, rows, f"Bot {EVIL}", max_steps=2))
    for model in ("tests/tiny", "job:1"):
        ask = {"model": model, "messages": [{"role": "user", "content": "x"}], "max_tokens": 1, "stream": False}
        assert server.client.post("/models/chat", json=ask).status_code == 200
    yield server
    server.stop()
    server.client.close()
    kill_processes_of(server.home)


def answers(page: Any, count: int) -> list[str]:
    """What the models said, once all of them have."""
    page.locator(".answer-foot .pace").nth(count - 1).wait_for()
    page.locator("#send").wait_for()
    return [text.strip() for text in page.locator(".answer-text").all_inner_texts()]


def test_a_finished_job_is_tried_beside_its_base_with_questions_from_the_data(server: ServerProcess, page: Any) -> None:
    from playwright.sync_api import expect

    found = server.client.get("/jobs/1/before-after").json()
    assert len(found["questions"]) == 2  # of 20 rows two are held out
    page.goto(f"{server.url}/jobs/1")
    section = page.locator("#before-after")
    for one in found["questions"]:
        part = section.get_by_role("article", name=f"Row {one['row']}")
        expect(part).to_contain_text(one["turns"][0]["content"])
        expect(part.get_by_role("region", name="Expected")).to_contain_text(one["expected"])
        for name, side in (("Base", one["base"]), ("Tuned", one["tuned"])):
            answer = part.get_by_role("region", name=name)
            expect(answer.locator("dd").nth(0)).to_have_text(f"{side['loss']:.4g}")
            expect(answer.locator("dd").nth(2)).to_have_text(f"{side['chrf']:.1f}")
            assert answer.locator(".said").get_attribute("dir") == "auto"
    axe(page)
    page.get_by_role("link", name="Try it").click()
    expect(page.locator(".play-column")).to_have_count(2)
    chosen = [page.locator(".play-column select").nth(n).input_value() for n in range(2)]
    assert chosen == ["job:1", "tests/tiny"]
    asked = [one["turns"][0]["content"] for one in found["questions"]]
    first = page.locator(".play-column").first
    assert first.locator("[data-question]").all_inner_texts() == asked
    page.evaluate(
        "const old = window.fetch; window.fetch = async (...all) => {"
        " if (String(all[0]).includes('/models/chat')) await new Promise(done => setTimeout(done, 2600)); return old(...all); }; 0"  # else it would be called
    )
    page.evaluate("document.querySelector('#system').value = 'Be brief.'")
    first.locator("[data-question]").nth(1).click()
    assert page.locator("#system").input_value() == "Be brief.", "the question has no system message"
    expect(page.locator(".answer-foot progress")).to_have_count(2)
    expect(page.locator(".answer-foot").first).to_contain_text(re.compile("Waiting for its turn: [12]"))
    answers(page, 2)
    assert page.locator(".turn-user").all_inner_texts() == [asked[1]] * 2
    assert page.locator(".answer-foot progress").count() == 0
    assert "What can you help me with?" in page.request.get(f"{server.url}/playground?questions=999").text(), (
        "no such job"
    )
    assert not page.alarms


def test_two_models_answer_one_message_side_by_side_and_are_rated(server: ServerProcess, page: Any) -> None:
    page.goto(f"{server.url}/playground?{BOTH}&max_tokens=12&seed=5&system=Be+kind.")
    assert page.locator(".play-column").count() == 2 and page.get_by_label("System prompt").input_value() == "Be kind."
    page.get_by_label("Message to every model").fill(f"Where is it? {EVIL}")
    page.keyboard.press("Enter")
    answers(page, 2)
    for pace in page.locator(".pace").all_inner_texts():
        assert "tokens" in pace and "tokens/s" in pace and "first after" in pace
    axe(page)
    first = page.locator(".play-column").first
    first.get_by_role("button", name="Bad answer").click()
    first.get_by_label("Why this answer").fill("vague")
    page.keyboard.press("Enter")
    first.get_by_role("button", name="Kept").wait_for()
    (kept,) = server.client.get("/ratings/").json()["items"]
    assert (kept["model"], kept["verdict"], kept["note"], kept["sampling"]["seed"]) == ("job:1", "down", "vague", 5)
    assert [m["role"] for m in kept["messages"]] == ["system", "user"] and kept["messages"][1]["content"].endswith(EVIL)
    first.get_by_role("button", name="Good answer").click()
    first.locator("[data-verdict=up][aria-pressed=true]").wait_for()
    said = page.locator(".turns").all_inner_texts()
    page.reload()
    page.locator(".pace").nth(1).wait_for()
    assert page.locator(".turns").all_inner_texts() == said, "a reload loses nothing"
    first.locator("[data-verdict=up][aria-pressed=true]").click()
    first.locator("[data-verdict=up][aria-pressed=false]").wait_for()
    assert server.client.get("/ratings/").json()["items"] == []
    assert not page.alarms


def test_the_same_seed_says_the_same_and_an_answer_can_be_had_again(server: ServerProcess, page: Any) -> None:
    page.goto(f"{server.url}/playground?with=tests/tiny&max_tokens=10&seed=3&temperature=1.5")
    page.get_by_role("button", name="What can you help me with?").click()
    before = answers(page, 1)
    page.get_by_role("button", name="Answer again").click()
    page.locator(".turn-answer[aria-busy]").wait_for()
    assert answers(page, 1) == before and page.locator(".turn").count() == 2
    page.get_by_label("Seed").fill("4")  # settings are open, as the address names some
    page.wait_for_url("**seed=4*")
    page.get_by_role("button", name="Answer again").click()
    page.locator(".turn-answer[aria-busy]").wait_for()
    assert answers(page, 1) != before
    page.get_by_label("Maximum tokens").fill("100000")
    page.get_by_label("Message to every model").fill("too long")
    page.keyboard.press("Enter")
    assert page.evaluate("() => document.activeElement.id") == "max_tokens", "the setting that cannot be is shown"
    assert page.locator(".turn").count() == 2 and not page.alarms


def test_an_answer_is_stopped_and_what_cannot_be_is_told(server: ServerProcess, page: Any) -> None:
    page.goto(f"{server.url}/playground?with=tests/tiny&max_tokens=480&temperature=1.5")
    message = page.get_by_label("Message to every model")
    message.fill("Go on for long.")
    message.press("Enter")
    page.locator("#stop").wait_for()
    page.keyboard.press("Escape")
    page.locator(".pace", has_text="stopped").or_(page.locator(".pace", has_text="tokens")).wait_for()
    page.locator("#send").wait_for()
    page.get_by_role("button", name="Clear").click()
    page.locator("#sure-yes").click()
    page.locator(".play-start").wait_for()
    message.fill("word " * 600)
    message.press("Enter")
    page.locator(".problem", has_text="Shorten the conversation").wait_for()
    assert page.get_by_role("button", name="Try again").count() == 1
    axe(page)
    assert not page.alarms


def test_models_are_added_chosen_and_taken_out(server: ServerProcess, page: Any) -> None:
    page.goto(f"{server.url}/playground")
    columns = page.locator(".play-column")
    assert columns.count() == 2, "the newest tuned model beside its base"
    page.get_by_role("button", name="Add model").click()
    assert columns.count() == 3 and page.get_by_role("button", name="Add model").is_disabled()
    columns.nth(2).get_by_role("combobox").select_option("job:1")
    assert page.url.count("with=") == 3 and page.url.endswith("with=job%3A1")
    page.get_by_role("button", name="Take out").nth(1).click()
    assert columns.count() == 2 and page.url.count("with=") == 2
    page.goto(f"{server.url}/playground?with=gone")
    page.locator(".problem", has_text="There is no model gone here").wait_for()
    assert columns.count() == 2 and not page.alarms


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_works_on_a_telephone_by_switching_columns(
    server: ServerProcess, window: Callable[..., Any], theme: str
) -> None:
    page = window(375, 740, color_scheme=theme)
    page.goto(f"{server.url}/playground?{BOTH}&max_tokens=5")
    page.get_by_label("Message to every model").fill("Hello")
    page.get_by_role("button", name="Send").click()
    page.mouse.move(5, 5)
    answers_of = page.locator(".play-column:visible")
    answers_of.locator(".pace").wait_for()
    assert answers_of.count() == 1
    page.get_by_role("tab").nth(0).focus()
    page.keyboard.press("ArrowRight")
    assert page.get_by_role("tab").nth(1).get_attribute("aria-selected") == "true"
    answers_of.locator(".pace").wait_for()
    assert "tiny" in str(answers_of.get_attribute("aria-label"))
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
    box = page.locator("#message").bounding_box()
    assert box and box["y"] + box["height"] <= 740, "the message box is in sight"
    axe(page)
    page.get_by_role("button", name="Settings").click()
    axe(page)
    assert not page.alarms
