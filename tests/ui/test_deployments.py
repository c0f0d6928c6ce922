"""The pages of deployments in a real browser: put a model in use, try it, roll out another, go back, take it away."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import ServerProcess, kill_processes_of
from tests.ui.conftest import axe

SETTINGS = {"threads": 1, "context_tokens": 512, "max_concurrent": 2}
EVIL = "<img src=x onerror=alert(1)>"
PASSWORD = "quartz meadow lantern"
PAGES = ("/deployments", "/deployments/new?model=bot%40latest", "/deployments/1", "/deployments/1?tab=use", "/deployments/1?tab=requests",
         "/deployments/1?tab=history", "/deployments/1?tab=settings", "/deployments/2")  # fmt: skip


class Place:
    """A server with two versions of `bot`."""

    def __init__(self, home: Path, tiny_model: Path, **env: str) -> None:
        for name in ("one", "two"):
            shutil.copytree(tiny_model, home / "models" / name)
        self.server = ServerProcess(home, {"TUNESMITH_MIN_FREE_BYTES": "0", **env}).start()
        self.client, self.url = self.server.client, self.server.url

    def register(self) -> None:
        for name in ("one", "two"):
            self.post("/registry/import", path=name, name="bot")

    def post(self, path: str, /, **body: Any) -> dict[str, Any]:
        answer = self.client.post(path, json=body)
        assert answer.status_code < 300, answer.text
        return dict(answer.json())

    def deploy(self, name: str, model: str, *, target: str = "local", **more: Any) -> int:
        settings = SETTINGS | more if target == "local" else more
        made = self.post(
            "/deployments/", name=name, model=model, target=target, settings=settings, sampling={"max_tokens": 12}
        )
        return int(made["id"])

    def wait(self, deployment_id: int, check: Callable[[Any], bool]) -> None:
        self.server.wait_for(f"/deployments/{deployment_id}", check, 90)

    def ask(self, name: str, text: str) -> None:
        body = {"model": name, "messages": [{"role": "user", "content": text}]}
        assert httpx.post(f"{self.url}/v1/chat/completions", json=body, timeout=60).status_code == 200

    def close(self) -> None:
        self.server.stop()
        self.client.close()
        kill_processes_of(self.server.home)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[Place]:
    place = Place(tmp_path_factory.mktemp("deployments") / "home", tiny_model)
    yield place
    place.close()


def test_the_empty_page_says_what_to_do_next(place: Place, page: Any) -> None:
    page.goto(f"{place.url}/deployments")
    assert page.get_by_role("link", name="Deploy one").get_attribute("href") == "/deployments/new?model=one"
    axe(page)
    place.register()
    page.reload()
    page.get_by_role("link", name="Deploy bot@latest").click()
    page.wait_for_url("**/deployments/new?model=bot%40latest")
    assert page.get_by_label("Name of the deployment").input_value() == "bot"
    assert not page.alarms


def test_a_model_is_deployed_tried_replaced_and_taken_away(place: Place, page: Any) -> None:
    """The whole life of a deployment, by its buttons only."""
    page.goto(f"{place.url}/deployments/new?model=bot%401.0.0")
    page.get_by_label("Longest request (tokens)").fill("512")
    page.get_by_label("Requests at the same time").fill("0")
    page.get_by_text("More settings of this place").click()
    page.get_by_label("Processor threads").fill("1")
    page.get_by_role("button", name="Deploy", exact=True).click()
    problem = page.locator(".field", has=page.get_by_label("Requests at the same time")).locator("[data-problem]")
    assert "at least 1" in problem.inner_text()
    page.get_by_label("Requests at the same time").fill("2")
    page.get_by_text("Sampling, where a request").click()
    page.get_by_label("Max tokens").fill("12")
    page.get_by_label("Temperature").fill("0")  # by chance it would say nothing at times
    page.get_by_role("button", name="Deploy", exact=True).click()
    page.wait_for_url("**/deployments/1")
    now = page.locator("#now")
    now.get_by_text("Ready").wait_for(timeout=90_000)
    assert place.client.get("/deployments/1").json()["sampling"]["max_tokens"] == 12

    page.get_by_label("Message to bot").fill("Where is my parcel?")
    page.get_by_role("button", name="Send").click()
    page.locator("#try-turns .pace", has_text="bot@1.0.0").wait_for()
    page.locator("#numbers [data-label=Requests]", has_text="1").wait_for()
    page.locator("#try-turns").get_by_role("button", name="Good answer").click()
    page.locator("#try-turns [data-verdict=up][aria-pressed=true]").wait_for()
    page.locator("#numbers tr", has_text="bot@1.0.0").get_by_text("1 of 1").wait_for()
    page.locator("#chart-requests canvas").wait_for()

    page.get_by_role("button", name="Roll out").click()
    page.locator("#roll-out-model").fill("bot@latest")
    page.get_by_text("A/B test").click()
    assert page.get_by_label("Share of the traffic").input_value() == "50"
    axe(page, include="#roll-out")
    page.locator("#roll-out").get_by_role("button", name="Roll out").click()
    now.get_by_text("bot@1.1.0 is candidate with 50 %").wait_for(timeout=90_000)
    page.get_by_role("heading", name="bot@1.1.0 against bot@1.0.0").wait_for()
    assert "Too few requests to say" in page.locator("#numbers").inner_text()
    page.get_by_role("button", name="Promote").click()
    page.locator("#sure-yes").click()
    now.get_by_role("link", name="bot@1.1.0").wait_for()
    page.get_by_role("button", name="Roll back").click()
    page.locator("#sure-yes").click()
    place.wait(1, lambda told: told["model"] == "bot@1.0.0" and told["status"] == "ready")
    now.get_by_role("link", name="bot@1.0.0").wait_for()

    page.get_by_role("button", name="More for this deployment").click()
    page.get_by_role("button", name="Undeploy").click()
    page.locator("#sure-yes").click()
    now.get_by_text("nobody can use it").wait_for()
    page.goto(f"{place.url}/deployments/1?tab=history")
    log = page.locator("#history").inner_text()
    assert "undeployed" in log and "bot@1.1.0 is live: promoted by" in log
    page.wait_for_load_state()  # what is clicked before the scripts are there does nothing
    page.get_by_role("button", name="Deploy again").click()
    now.get_by_text("Ready").wait_for(timeout=90_000)
    assert [alarm for alarm in page.alarms if "422" not in alarm] == []


def test_requests_are_looked_at_rated_and_made_a_dataset(place: Place, page: Any) -> None:
    page.goto(f"{place.url}/deployments/1?tab=requests")
    page.get_by_role("button", name="Record conversations").click()
    page.locator("#sure-yes").click()
    page.get_by_role("button", name="Stop recording").wait_for()
    place.wait(1, lambda told: told["status"] == "ready")
    time.sleep(1.5)  # the gateway looks at settings once a second
    for text in ("Where is it?", EVIL):
        place.ask("bot", text)
    place.server.wait_for("/deployments/1/requests", lambda told: len(told["items"]) >= 3)  # written soon after
    page.reload()
    request = page.locator("#requests article", has_text="Where is it?")
    request.get_by_role("button", name="Good answer").click()
    request.locator("[data-verdict=up][aria-pressed=true]").wait_for()
    assert page.locator("#requests article", has_text=EVIL).count() == 1, "what people send is text"
    page.get_by_role("link", name="Liked", exact=True).click()
    page.wait_for_url("**rating=up*")
    assert page.locator("#requests article").count() == 2
    page.get_by_role("button", name="Make a dataset of these").click()
    page.get_by_role("button", name="Make it").click()
    page.wait_for_url(re.compile("/datasets/1$"))
    assert not page.alarms


def test_another_place_shows_what_to_do_next(place: Place, page: Any) -> None:
    page.goto(f"{place.url}/deployments/new?model=one")
    page.get_by_label("Name of the deployment").fill("box")
    page.get_by_label("Cloud or container").check()
    page.get_by_label("Provider").select_option("kubernetes")
    page.get_by_role("button", name="Deploy", exact=True).click()
    page.wait_for_url("**/deployments/2")
    page.get_by_role("heading", name="What to do next").wait_for(timeout=90_000)
    told = place.client.get("/deployments/2").json()
    assert told["settings"]["provider"] == "kubernetes" and told["address"] in page.locator("#now").inner_text()
    page.goto(f"{place.url}/deployments")
    page.get_by_label("Place").select_option("cloud")
    page.locator(".model-card", has_text="box").wait_for()
    page.locator(".model-card", has_text="bot@").wait_for(state="detached")
    assert not page.alarms


def test_the_playground_carries_its_settings_over(place: Place, page: Any) -> None:
    page.goto(f"{place.url}/playground?with=two&temperature=0.3&system=Be%20brief.&stop=END")
    page.get_by_role("link", name="Deploy the first model").click()
    page.wait_for_url("**/deployments/new?*")
    shown = {
        label: page.get_by_label(label, exact=True).input_value()
        for label in ("Model", "System prompt", "Temperature", "Stop")
    }
    assert shown == {"Model": "two", "System prompt": "Be brief.", "Temperature": "0.3", "Stop": "END"}
    page.goto(f"{place.url}/models/two")
    assert page.get_by_role("link", name="Deploy", exact=True).get_attribute("href") == "/deployments/new?model=two"
    assert not page.alarms


def test_anybody_can_use_it(place: Place, window: Callable[..., Any]) -> None:
    for page in (window(), window(375, 800, color_scheme="dark")):
        for path in PAGES:
            page.goto(f"{place.url}{path}")
            axe(page)
            wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            assert wide <= 0, f"{path} is {wide} px too wide"
        assert not page.alarms


def test_a_viewer_sees_it_and_gets_no_buttons(tmp_path: Path, tiny_model: Path, page: Any) -> None:
    team = Place(tmp_path / "home", tiny_model, TUNESMITH_AUTH="on")
    try:
        team.post("/auth/register", username="ada", email="ada@example.org", password=PASSWORD)
        told = team.post("/auth/login", username="ada", password=PASSWORD)
        team.client.headers["Authorization"] = f"Bearer {told['access_token']}"
        team.post("/users/", username="linus", email="linus@example.org", role="viewer", password=PASSWORD)
        deployment_id = team.deploy("bot", "one")
        assert team.client.patch(f"/deployments/{deployment_id}", json={"visibility": "team"}).status_code == 200
        team.wait(deployment_id, lambda told: told["status"] == "ready")
        page.goto(f"{team.url}/login")
        page.fill("[name=username]", "linus")
        page.fill("[name=password]", PASSWORD)
        with page.expect_navigation():
            page.click("main form [type=submit]")
        page.goto(f"{team.url}/deployments")
        assert not page.get_by_role("link", name="Deploy a model").count()
        page.get_by_role("link", name="bot", exact=True).click()
        page.locator("#now").get_by_text("Ready").wait_for()
        for name in ("Roll out", "Roll back", "Promote", "More for this deployment", "Make a dataset of these"):
            assert not page.get_by_role("button", name=name).count(), name
        page.wait_for_load_state()
        page.get_by_label("Message to bot").fill("Where is my parcel?")  # it may be used, with the login alone
        page.get_by_role("button", name="Send").click()
        page.locator("#try-turns .pace", has_text="one").wait_for()
        page.goto(f"{team.url}/deployments/1?tab=settings")
        assert not page.locator("main input").count()
        page.goto(f"{team.url}/deployments/new")
        assert "Not allowed" in page.inner_text("h1")
        assert [alarm for alarm in page.alarms if "403" not in alarm] == []
    finally:
        team.close()
