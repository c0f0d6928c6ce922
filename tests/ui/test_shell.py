"""What every page has: its frame, its safety, its keys, its weight, its behaviour when the server goes away."""

from __future__ import annotations

import gzip
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import ServerProcess, kill_processes_of
from tests.ui.conftest import axe
from tests.ui.ground import PAGES, fill

ASK_AS_BROWSER = {"Accept": "text/html"}
MOST_SCRIPT_BYTES = 150_000
"""Compressed, on any page of ours."""

SETTLED = """dark => document.documentElement.classList.contains("dark") === dark
  && !document.getAnimations().some(each => each instanceof CSSTransition)"""
"""A theme is there, and no colour is still on its way."""


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[ServerProcess]:
    """A server with data; no test of this file changes what it holds."""
    server = ServerProcess(tmp_path_factory.mktemp("shell") / "home").start()
    fill(server, tiny_model)
    yield server
    server.stop()
    server.client.close()
    kill_processes_of(server.home)


@pytest.mark.parametrize("path", PAGES)
def test_a_page_runs_nothing_inline_and_asks_nobody_else(filled: ServerProcess, path: str) -> None:
    answer = httpx.get(f"{filled.url}{path}", headers=ASK_AS_BROWSER, follow_redirects=True)
    assert answer.status_code == (404 if path == "/nothing-there" else 200), filled.log()[-1500:]
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    for tag in re.findall(r"<[a-zA-Z][^>]*>", answer.text):
        assert not re.search(r"\s(style|on[a-z]+|hx-on[^=]*)=", re.sub(r'"[^"]*"', '""', tag)), tag
    assert not re.search(r"<script(?![^>]*\ssrc=)", answer.text)
    loaded = re.findall(r'<(?:script|link|img)[^>]*\s(?:src|href)="([^"]+)"', answer.text)
    assert loaded and all(address.startswith("/") and not address.startswith("//") for address in loaded)


def test_files_are_kept_by_browsers_and_nothing_else_is_served(filled: ServerProcess) -> None:
    page = httpx.get(filled.url).text
    addresses = re.findall(r'"(/static/[0-9a-f]{16}/[^"]+)"', page)
    assert len(addresses) > 5
    for address in addresses:
        answer = httpx.get(f"{filled.url}{address}")
        assert answer.status_code == 200 and "immutable" in answer.headers["cache-control"], address
    script = next(address for address in addresses if address.endswith("app.js"))
    old = httpx.get(f"{filled.url}{script.replace(script.split('/')[2], '0' * 16)}")
    assert old.status_code == 200 and old.headers["cache-control"] == "no-cache", "a page that is open goes on working"
    with httpx.stream("GET", f"{filled.url}{script}", headers={"Accept-Encoding": "gzip"}) as packed:
        assert gzip.decompress(b"".join(packed.iter_raw())).decode() == old.text
    for path, encoding in (
        ("/jobs", "gzip"),
        ("/api/v1/jobs/methods", "gzip"),
        ("/api/v1/system/resources/stream", None),
    ):
        with httpx.stream("GET", f"{filled.url}{path}", headers={"Accept-Encoding": "gzip"}) as answer:
            assert answer.status_code == 200 and answer.headers.get("content-encoding") == encoding, path
    for name in ("../routes.py", "%2e%2e/routes.py", "vendor/icons.json", "vendor/made-from", "absent.js"):
        answer = httpx.get(f"{filled.url}/static/{'0' * 16}/{name}", follow_redirects=True)
        assert answer.status_code == 404, name
    assert httpx.get(f"{filled.url}/icons/copy.svg").headers["content-type"].startswith("image/svg+xml")
    assert httpx.get(f"{filled.url}/icons/absent.svg").status_code == 404


def test_the_api_page_has_every_operation_with_a_line_to_copy(filled: ServerProcess, page: Any) -> None:
    from playwright.sync_api import expect

    document = httpx.get(f"{filled.url}/openapi.json").json()
    told = [operation for methods in document["paths"].values() for operation in methods.values()]
    page.goto(f"{filled.url}/docs#{told[0]['operationId']}")
    expect(page.locator("#count")).to_have_text(f"{len(told)} operations")
    for operation in told:
        assert page.locator(f"#{operation['operationId']} .code code").count() == 1, operation["operationId"]
    expect(page.locator("details[open]")).to_have_attribute("id", told[0]["operationId"])
    axe(page)
    page.fill("#wanted", "learning rate post")
    expect(page.locator(".operation:visible .path").first).to_have_text("/api/v1/jobs/")
    line = page.locator(".operation:visible .code code").last.text_content()
    assert line.startswith("curl -X POST") and filled.url in line


def test_an_error_is_a_page_for_people_and_json_for_programs(filled: ServerProcess) -> None:
    for path, status in (("/datasets/99", 404), ("/jobs/99", 404), ("/jobs/x", 422), ("/nothing", 404)):
        page = httpx.get(f"{filled.url}{path}", headers=ASK_AS_BROWSER)
        assert (page.status_code, "text/html" in page.headers["content-type"]) == (status, True), path
        assert "<h1" in page.text and 'href="/"' in page.text
    assert httpx.get(f"{filled.url}/api/v1/jobs/99", headers=ASK_AS_BROWSER).json()["error"] == "not_found"
    assert httpx.get(f"{filled.url}/nothing").json()["error"] == "not_found"


def test_no_page_violates_wcag(filled: ServerProcess, window: Callable[..., Any]) -> None:
    """Each is loaded in the light theme, and becomes dark then."""
    page = window(color_scheme="light")
    problems = []
    for path in PAGES:
        page.emulate_media(color_scheme="light")
        page.goto(f"{filled.url}{path}")
        page.wait_for_timeout(300)  # what scripts draw
        for theme in ("light", "dark"):
            page.emulate_media(color_scheme=theme)
            page.wait_for_function(SETTLED, arg=theme == "dark")
            try:
                axe(page, colours_only=theme == "dark")
            except AssertionError as found:
                problems.append(f"{theme}: {found}")
    assert not problems, "\n\n".join(problems)
    assert [alarm for alarm in page.alarms if "404" not in alarm] == []


def test_every_page_is_light_and_fits_a_phone_and_a_wide_screen(
    filled: ServerProcess, window: Callable[..., Any]
) -> None:
    """It is loaded on a phone, and the window made wide then."""
    page = window(375, 400)
    for path in PAGES:
        page.set_viewport_size({"width": 375, "height": 400})
        page.goto(f"{filled.url}{path}")
        page.wait_for_timeout(300)
        loaded = page.evaluate(
            "performance.getEntriesByType('resource').filter(e => e.name.endsWith('.js')).map(e => [e.name, e.encodedBodySize])"
        )
        assert loaded and sum(size for _, size in loaded) < MOST_SCRIPT_BYTES, f"{path}: {loaded}"
        assert page.evaluate("document.documentElement.scrollWidth") <= 375, f"{path} on a phone"
        page.set_viewport_size({"width": 2560, "height": 400})
        page.wait_for_timeout(150)
        assert page.evaluate("document.documentElement.scrollWidth") <= 2560, f"{path} on a wide screen"


def test_pages_are_quick(filled: ServerProcess, page: Any) -> None:
    times: list[float] = []
    limit = 300.0
    while len(times) < 24 and not (times and min(times) < limit):  # a shared machine has slow moments
        before = crowding()
        times += first_paints(page, filled.url)
        limit = 300 * max(before, crowding())
    assert min(times) < limit, f"first paint after {times} ms, allowed are {limit:.0f}"


def crowding() -> float:
    """How much longer work takes than its processor time: 1 on a machine that is free, 3 when two others want the core too."""
    wall, cpu = time.monotonic(), time.thread_time()
    while time.thread_time() - cpu < 0.2:
        pass
    return (time.monotonic() - wall) / 0.2


def first_paints(page: Any, url: str) -> list[float]:
    """Of several loads, ms after they began."""
    times = []
    for _ in range(6):
        page.goto(url)
        paint = page.wait_for_function("() => performance.getEntriesByName('first-contentful-paint')[0]?.startTime")
        times.append(paint.json_value())
    return times


def test_by_keyboard_alone(filled: ServerProcess, page: Any) -> None:
    from playwright.sync_api import expect

    page.goto(filled.url)
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#main")).to_be_focused()
    for keys, path in (("gd", "/datasets"), ("gj", "/jobs"), ("gm", "/models"), ("gs", "/system"), ("gh", "/")):
        for key in keys:
            page.keyboard.press(key)
        page.wait_for_url(f"{filled.url}{path}")
    page.keyboard.press("?")
    expect(page.locator("#shortcuts")).to_contain_text("Go to Training jobs")
    axe(page)
    page.keyboard.press("Escape")
    expect(page.locator("#shortcuts")).to_be_hidden()
    page.keyboard.press("[")
    expect(page.locator("html")).to_have_attribute("data-side", "narrow")
    expect(page.get_by_role("link", name="Datasets").first).to_be_visible()
    assert page.locator("#sidebar").bounding_box()["width"] < 100
    page.reload()
    expect(page.locator("html")).to_have_attribute("data-side", "narrow")
    assert not page.alarms


def test_the_palette_finds_pages_actions_and_things(filled: ServerProcess, page: Any) -> None:
    from playwright.sync_api import expect

    page.goto(f"{filled.url}/models")
    page.keyboard.press("Control+k")
    expect(page.locator("#palette-input")).to_be_focused()
    options = page.locator("#palette [role=option]")
    expect(options.filter(has_text="New training job")).to_be_visible()
    expect(options.filter(has_text="Support answers")).to_be_visible()
    axe(page)
    page.keyboard.type("support-bot-1")
    expect(options.first).to_contain_text("support-bot-1")
    expect(options.first).to_have_attribute("aria-selected", "true")
    page.keyboard.press("Enter")
    page.wait_for_url(f"{filled.url}/jobs/1")
    page.keyboard.press("Control+k")
    page.keyboard.type("no such thing")
    expect(page.locator("#palette-empty")).to_contain_text("No matches")
    page.keyboard.press("Escape")
    expect(page.locator("#palette")).to_be_hidden()
    assert not page.alarms


def test_the_theme_follows_the_system_until_somebody_chooses(filled: ServerProcess, window: Callable[..., Any]) -> None:
    from playwright.sync_api import expect

    page = window(color_scheme="dark")
    page.goto(filled.url)
    ground = "getComputedStyle(document.body).backgroundColor"
    html, dark = page.locator("html"), page.evaluate(ground)
    expect(html).to_have_class("dark")
    page.emulate_media(color_scheme="light")
    expect(html).not_to_have_class("dark")
    light = page.evaluate(ground)
    assert light != dark
    page.get_by_role("button", name="Theme: system").click()
    page.get_by_role("button", name="Theme: light").click()
    expect(html).to_have_class("dark")
    page.add_init_script(
        "document.addEventListener('DOMContentLoaded', () => { window.first = document.documentElement.className; })"
    )
    page.goto(f"{filled.url}/jobs")
    assert page.evaluate("window.first") == "dark", "it is there before the page is drawn"
    assert page.evaluate(ground) == dark
    assert not page.alarms


def test_the_drawer_of_a_phone(filled: ServerProcess, window: Callable[..., Any]) -> None:
    from playwright.sync_api import expect

    page = window(375, 800)
    page.goto(filled.url)
    link = page.locator("#sidebar").get_by_role("link", name="Training jobs", exact=True)
    expect(link).to_be_hidden()
    page.get_by_role("button", name="Open navigation").click()
    expect(link).to_be_visible()
    axe(page)
    page.keyboard.press("Escape")
    expect(link).to_be_hidden()
    expect(page.get_by_role("button", name="Open navigation")).to_be_focused()
    page.get_by_role("button", name="Open navigation").click()
    link.click()
    page.wait_for_url(f"{filled.url}/jobs")


ADD = """html => { const place = document.createElement("div"); place.innerHTML = html; document.querySelector("main").prepend(place); }"""


def test_actions_ask_tell_and_name_the_field(filled: ServerProcess, page: Any) -> None:
    from playwright.sync_api import expect

    page.goto(filled.url)
    page.evaluate(ADD, '<button id="go" data-action="POST /api/v1/jobs/99/pause">Pause it</button>')
    page.click("#go")
    expect(page.locator(".toast-box[role=alert]")).to_contain_text("99")
    page.locator(".toast-box button").click()
    expect(page.locator(".toast-box")).to_have_count(0)

    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.method) if request.method == "DELETE" else None)
    page.evaluate(ADD, '<button id="drop" data-action="DELETE /api/v1/jobs/99" data-confirm="Delete it?" data-word="Delete" '
                       'data-typed="support-bot">Delete</button>')  # fmt: skip
    page.click("#drop")
    expect(page.locator("#sure-yes")).to_be_disabled()
    axe(page)
    page.keyboard.type("support")
    page.keyboard.press("Enter")
    expect(page.locator("#sure")).to_be_visible()
    page.keyboard.press("Escape")
    assert asked == []
    page.click("#drop")
    page.keyboard.type("support-bot")
    page.keyboard.press("Enter")
    expect(page.locator(".toast-box[role=alert]")).to_be_visible()
    assert asked == ["DELETE"]

    page.evaluate(ADD, '<form data-action="PATCH /api/v1/datasets/1"><label>Name <input name="name" value=""></label>'
                       '<label>Tags <input name="tags" data-type="list" value="a, b"></label><button id="save">Save</button></form>')  # fmt: skip
    page.click("#save")
    field = page.locator("form [name=name]")
    expect(field).to_have_attribute("aria-invalid", "true")
    expect(field).to_be_focused()
    expect(page.locator("form [data-problem]")).to_have_count(1)
    assert [alarm for alarm in page.alarms if "status of 4" not in alarm] == []


def test_a_page_goes_on_when_the_server_comes_back(start_server: Callable[..., ServerProcess], page: Any) -> None:
    from playwright.sync_api import expect

    server = start_server()
    page.goto(f"{server.url}/jobs")
    page.evaluate("""() => { window.told = []; for (const name of ["tunesmith:back", "tunesmith:jobs", "tunesmith:datasets"])
        document.body.addEventListener(name, () => window.told.push(name)); }""")
    page.wait_for_timeout(500)
    server.kill()
    expect(page.locator("#offline")).to_be_visible(timeout=15_000)
    assert page.evaluate("window.told") == []
    server.start()
    expect(page.locator("#offline")).to_be_hidden(timeout=30_000)
    page.wait_for_function("() => window.told.includes('tunesmith:jobs') && window.told.includes('tunesmith:datasets')")
    assert page.evaluate("window.told[0]") == "tunesmith:back"


def test_charts_stay_smooth_with_a_hundred_thousand_points(filled: ServerProcess, page: Any) -> None:
    """Thinning keeps what a person looks for, and each change of what is shown fits into a frame or two."""
    page.goto(filled.url)
    found = page.evaluate("""async () => {
        const folder = document.querySelector('script[type=module]').src.replace(/app\\.js$/, '');
        const { lineChart } = await import(folder + 'chart.js'), { thin, Smooth, join } = await import(folder + 'points.js');
        const points = Array.from({ length: 100_000 }, (_, i) => [i, Math.sin(i / 9000) + ((i * 7919) % 1000) / 5000]);
        points[54_321] = [54_321, 99]; points[60_000] = [60_000, NaN];
        const few = thin(points, 800), part = thin(points, 800, [100, 200]);
        const place = document.createElement('div');
        document.querySelector('main').prepend(place);
        const chart = lineChart(place, { series: [{ label: 'Loss', points }], xLabel: 'Step', yLabel: 'Loss', smoothing: 0.6 });
        const times = [];
        for (let i = 0; i < 20; i++) {
            const start = performance.now();
            chart.zoom([i * 1000, 50_000 + i * 1000]);
            chart.append('Loss', [[100_000 + i, 1]]);
            chart.draw();
            times.push(performance.now() - start);
        }
        const again = [[1, 5], [2, 6]], line = lineChart(document.createElement('div'), { series: [{ label: 'a', points: again }] });
        line.append('a', [[2, 7], [3, 8]]);
        return { kept: few.length, peak: few.some(p => p[1] === 99), last: few.at(-1)[0], finite: few.every(p => Number.isFinite(p[1])),
                 part: [part[0][0], part.at(-1)[0]], again, steady: new Smooth(0.9).of([[0, 2], [1, 2]]).every(p => Math.abs(p[1] - 2) < 1e-9),
                 joined: join([[[1, 5]], [[1, 6], [2, 7]]]), median: times.sort((a, b) => a - b)[10],
                 label: place.querySelector('[role=img]').getAttribute('aria-label') };
    }""")
    assert found["kept"] <= 1602 and found["peak"] and found["last"] == 99_999 and found["finite"]
    assert found["part"] == [99, 200] and found["steady"]
    assert found["again"] == [[1, 5], [2, 7], [3, 8]], "a step that comes again after a resume is there once"
    assert found["joined"] == {"xs": [1, 2], "columns": [[5, None], [6, 7]]}
    assert found["label"].startswith("Loss by Step. Loss: ")
    assert found["median"] < 50, found["median"]
