"""In a real browser: the whole way from a file to a model in use, and that nothing a person can type is ever executed."""

from __future__ import annotations

import json
import re
import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.conftest import CommandServer, ServerProcess, kill_processes_of
from tests.ui.ground import PAGES, TINY, add_tiny_model, conversations, train, upload

STEPS = 6


def expect(what: Any, **options: Any) -> Any:
    from playwright.sync_api import expect

    return expect(what, **options)


def send_and_save(page: Any, url: str, file: Path) -> None:
    """Upload through the page: sent, looked at, and saved only when asked to."""
    page.goto(f"{url}/datasets/new")
    page.set_input_files("#files", file)
    expect(page.locator(".upload[data-state=ready]")).to_be_visible(timeout=60_000)
    expect(page.locator("#uploads")).to_contain_text("60 rows")
    page.get_by_role("button", name="Save dataset").click()
    page.wait_for_url(re.compile(r"/datasets/1"))
    expect(page.locator("main .status[data-status=ready]").first).to_be_visible(timeout=60_000)


def start_training(page: Any) -> None:
    """From the dataset's page through the wizard."""
    page.locator("header.topbar").get_by_role("link", name="Train").click()
    page.wait_for_url(re.compile(r"/jobs/new\?dataset=1"))
    page.locator(".nj-steps [data-go=parameters]").click()
    page.locator("[data-by-hand=basic]").check()
    page.fill("#set-max_steps", str(STEPS))
    page.wait_for_function(f"() => document.querySelector('[data-estimate=steps]').textContent.includes('{STEPS}')")
    page.locator(".nj-side [data-start]").click()
    page.wait_for_url(re.compile(r"/jobs/1"))


def curve(page: Any) -> str:
    return str(page.locator("[role=img][aria-label^='Loss']").first.get_attribute("aria-label") or "")


@pytest.mark.timeout(1200)
def test_from_a_file_to_a_model_in_use(
    start_server: Callable[..., ServerProcess], tmp_path: Path, starter_model: Path, page: Any
) -> None:
    """Upload, wizard, SmolLM2's training watched over a restart of the server, chat, download."""
    shutil.copytree(starter_model, tmp_path / "home" / "models" / starter_model.name)
    file = tmp_path / "support.jsonl"
    file.write_text(conversations(60))
    server = start_server(kind=CommandServer)
    page.goto(server.url)
    expect(page.get_by_role("main")).to_contain_text("first model", ignore_case=True)
    send_and_save(page, server.url, file)
    start_training(page)

    page.wait_for_function(
        "() => / at \\d/.test(document.querySelector('[role=img][aria-label^=Loss]')?.ariaLabel ?? '')", timeout=300_000
    )
    page.evaluate("() => { window.same = true; }")
    server.kill()
    expect(page.locator("#offline")).to_be_visible(timeout=20_000)
    server.start()
    expect(page.locator("#offline")).to_be_hidden(timeout=30_000)
    expect(page.locator("main .status[data-status=completed]").first).to_be_visible(timeout=300_000)
    page.wait_for_function(
        f"() => document.querySelector('[role=img][aria-label^=Loss]').ariaLabel.includes(' at {STEPS}')"
    )
    assert page.evaluate("window.same"), "the page went on by itself, without a reload"
    assert " at 1," in curve(page), "and its curve has no gap at the beginning"

    with page.expect_download() as download:
        page.locator("header.topbar").get_by_role("link", name="Download").click()
    with tarfile.open(download.value.path()) as packed:
        assert any(name.endswith("adapter_model.safetensors") for name in packed.getnames())

    page.locator("header.topbar").get_by_role("link", name="Try it").click()
    page.wait_for_url(re.compile(r"/playground\?with=job(:|%3A)1"))
    page.fill("#message", "Where is the parcel?")
    page.keyboard.press("Enter")
    expect(page.locator(".turn-answer:not([aria-busy])")).to_have_count(1, timeout=300_000)
    expect(page.locator(".turn-answer .problem")).to_have_count(0)
    page.goto(server.url)
    expect(page.get_by_role("main")).to_contain_text("1 completed")
    unexpected = [
        alarm for alarm in page.alarms if not re.search("ERR_CONNECTION|ERR_INCOMPLETE|Failed to fetch", alarm)
    ]
    assert not unexpected


PROBE = """"'><img src=x onerror="window.hacked=1"><script>window.hacked=1</script><svg onload=window.hacked=1>{{7*7}}${7*7}</textarea>"""
"""Ends an attribute, an element, a template; whatever of it became markup would say so."""


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[ServerProcess]:
    """A server whose every text that a person can choose is the probe."""
    server = ServerProcess(tmp_path_factory.mktemp("hostile") / "home").start()
    add_tiny_model(server.home, tiny_model)
    rows = [{"messages": [{"role": "system", "content": PROBE}, {"role": "user", "content": f"{PROBE} {n}"},
                          {"role": "assistant", "content": PROBE}]} for n in range(24)]  # fmt: skip
    first = upload(
        server, PROBE[:200], f"{PROBE[:60].replace('/', '')}.jsonl", "".join(json.dumps(row) + "\n" for row in rows)
    )
    upload(
        server,
        "columns",
        "columns.csv",
        f'"{PROBE.replace(chr(34), chr(34) * 2)}",label\n' + f"{PROBE.replace(',', ' ')},a\n" * 9,
    )
    upload(server, PROBE[:100], "broken.parquet", PROBE)
    change = {"description": PROBE, "tags": [PROBE[:45]]}
    assert server.client.patch(f"/datasets/{first}", json=change).status_code == 200
    job = train(server, first, PROBE[:200], max_steps=2, max_length=448, system_prompt=PROBE)
    assert server.client.patch(f"/jobs/{job}", json={"tags": [PROBE[:45]]}).status_code == 200
    second = {"name": PROBE[:200], "model": TINY, "dataset_id": first, "start": "manual", "tags": [PROBE[:45]]}
    assert server.client.post("/jobs/", json=second).status_code == 201
    assert server.client.post("/models/collection", json={"name": TINY, "note": PROBE}).status_code == 201
    rating = {
        "model": TINY,
        "messages": [{"role": "user", "content": PROBE}],
        "answer": PROBE,
        "verdict": "down",
        "note": PROBE,
    }
    assert server.client.post("/ratings/", json=rating).status_code == 201
    server.wait_for(f"/jobs/{job}", lambda found: found["status"] in ("completed", "failed"))
    yield server
    server.stop()
    server.client.close()
    kill_processes_of(server.home)


def nothing_ran(page: Any, where: str) -> None:
    page.wait_for_timeout(300)
    assert page.evaluate("() => window.hacked") is None, where
    assert page.locator("img[src='x'], svg[onload], main script").count() == 0, f"{where}: it became markup"
    assert "49" not in page.title(), where
    inline = [alarm for alarm in page.alarms if "Content Security Policy" in alarm or "dialog" in alarm]
    assert not inline, f"{where}: {inline}"


def test_no_stored_text_is_executed_on_any_page(hostile: ServerProcess, page: Any) -> None:
    seen = ""
    for path in [
        *PAGES,
        "/datasets/2",
        "/datasets/3",
        "/datasets/2?tab=columns",
        "/datasets/2?tab=statistics",
        "/jobs/2",
    ]:
        page.goto(f"{hostile.url}{path}")
        nothing_ran(page, path)
        seen += page.locator("main").inner_text()
    assert seen.count("onerror=") > 20, "the probe was on the pages, as text"
    page.keyboard.press("Control+k")
    expect(page.locator("#palette [role=option]").filter(has_text="onerror=").first).to_be_visible()
    nothing_ran(page, "palette")


def test_no_typed_text_and_no_address_is_executed(hostile: ServerProcess, page: Any, tmp_path: Path) -> None:
    probe = quote(PROBE, safe="")
    for path in (f"/datasets?q={probe}&tag={probe}&type={probe}", f"/jobs?q={probe}&method={probe}", f"/models?q={probe}",
                 f"/playground?with={probe}", f"/jobs/new?model={probe}&method={probe}", f"/models/{probe}", f"/{probe}",
                 f"/datasets/1?tab={probe}", f"/jobs/1?tab=logs&q={probe}", "/jobs/new?model=javascript:window.hacked=1"):  # fmt: skip
        page.goto(f"{hostile.url}{path}")
        nothing_ran(page, path)
    for path in ("/datasets", "/jobs", "/models", "/jobs/new", "/settings", "/datasets/1"):
        page.goto(f"{hostile.url}{path}")
        for field in page.locator(
            "main input:not([type]), main input[type=search], main input[type=text], main textarea"
        ).all():
            if field.is_visible() and field.is_editable():
                field.fill(PROBE)
                field.press("Tab")
        nothing_ran(page, f"typed on {path}")
    file = tmp_path / "<img src=x onerror=window.hacked=1>.jsonl"
    file.write_text(json.dumps({"question": PROBE, "answer": PROBE}) + "\n")
    page.goto(f"{hostile.url}/datasets/new")
    page.set_input_files("#files", file)
    expect(page.locator(".upload[data-state=ready]")).to_be_visible(timeout=60_000)
    nothing_ran(page, "preview of an upload")


def test_no_word_of_a_chat_is_executed(hostile: ServerProcess, page: Any) -> None:
    """Even if a model answers with markup."""
    answer = {
        "choices": [{"index": 0, "delta": {"content": f"```html\n{PROBE}\n``` {PROBE}"}, "finish_reason": "stop"}]
    }
    body = f"data: {json.dumps(answer)}\n\ndata: [DONE]\n\n"
    page.route(
        "**/api/v1/models/chat", lambda route: route.fulfill(status=200, content_type="text/event-stream", body=body)
    )
    page.goto(f"{hostile.url}/playground?with={TINY}")
    page.fill("#message", PROBE)
    page.keyboard.press("Enter")
    expect(page.locator(".turn-answer:not([aria-busy])")).to_contain_text("onerror=")
    nothing_ran(page, "chat")
    page.reload()
    expect(page.locator(".turn-user")).to_contain_text("onerror=")
    nothing_ran(page, "chat after a reload")
