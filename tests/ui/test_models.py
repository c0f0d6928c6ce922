"""The pages of models in a real browser: what is here, the hub, the collection, one model."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.catalog.ground import make_base, make_job, stand_in_hub
from tests.conftest import ServerProcess, kill_processes_of
from tests.ui.conftest import axe
from tunesmith.core.job_spec import DatasetRef, ModelRef
from tunesmith.settings import Settings

EVIL = "<img src=x onerror=alert(1)>"
CARD = f"""---
license: mit
tags: [a, {EVIL!r}]
---
# About {EVIL}

<script>alert(2)</script> [here](javascript:alert(3)) ![picture](https://example.org/p.png)
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Base `org/bot`; job 1 from it, job 2 from job 1; a hub that answers."""
    home = tmp_path_factory.mktemp("models") / "home"
    settings = Settings(home=home)
    settings.make_dirs()
    folder = make_base(settings.models_dir / "org--bot")
    (folder / "README.md").write_text(CARD)
    base = ModelRef(name="org/bot", path=str(folder))
    digest = "d" * 64
    rows = DatasetRef(name=f"Letters {EVIL}", path=f"/x/datasets/5/versions/{digest}/r.parquet", digest=digest, shape="chat",
                      num_rows=1234)  # fmt: skip
    make_job(settings, 1, model=base, name=f"First {EVIL}", dataset=rows, eval_loss=2.5)
    make_job(settings, 2, model=ModelRef(name="job:1", path=str(folder)), name="Second", dataset=rows, eval_loss=1.25)
    with stand_in_hub() as hub:
        environment = {"TUNESMITH_HUB_OFFLINE": "0", "HF_HUB_OFFLINE": "0", "HF_HOME": str(home / "hf"),
                       "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_address[1]}"}  # fmt: skip
        server = ServerProcess(home, environment).start()
        yield server
        server.stop()
    server.client.close()
    kill_processes_of(home)


def test_cards_and_table_are_searched_and_the_address_says_how(server: ServerProcess, page: Any) -> None:
    page.goto(f"{server.url}/models")
    cards = page.locator(".model-card h2")
    assert sorted(cards.all_inner_texts()) == sorted(["Second", f"First {EVIL}", "bot"])
    axe(page)
    page.get_by_role("searchbox").fill("seco")
    page.locator(".model-card").nth(1).wait_for(state="detached")
    assert cards.all_inner_texts() == ["Second"] and "q=seco" in page.url
    page.get_by_label("Table").check(force=True)
    page.locator("#models table").wait_for()
    assert "view=table" in page.url and page.get_by_role("row").count() == 2
    axe(page)
    page.reload()
    assert page.locator("#models table").count() == 1 and page.get_by_role("searchbox").input_value() == "seco"
    page.get_by_role("searchbox").fill("no such thing")
    page.get_by_role("heading", name="No model fits").wait_for()
    page.goto(f"{server.url}/models?sort=score&kind=tuned")
    assert cards.first.inner_text() == "Second", "the lowest loss comes first"
    page.keyboard.press("Tab")
    page.locator(".model-card a.stretched").first.focus()
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Second", level=1).wait_for()
    assert page.url.endswith("/models/job%3A2") or page.url.endswith("/models/job:2")
    assert not page.alarms


def test_the_hub_is_searched_and_starred_models_are_collected(server: ServerProcess, page: Any) -> None:
    page.goto(f"{server.url}/models?tab=hub")
    found = page.locator("#found li.found")
    found.nth(3).wait_for()
    texts = " ".join(found.all_inner_texts())
    assert "acme/small-chat" in texts and "Too large here" in texts and "On this machine" in texts
    assert "Cannot be trained here" in texts and EVIL in texts and "terms to accept" in texts
    axe(page)
    page.get_by_label("Category").select_option("feature-extraction")
    found.nth(1).wait_for(state="detached")
    assert "other/embedder" in found.inner_text() and "category=feature-extraction" in page.url
    page.goto(f"{server.url}/models?tab=hub&q=small-chat")
    page.get_by_role("button", name="Add acme/small-chat to the collection").click()
    page.get_by_role("button", name="Take acme/small-chat out of the collection").wait_for()
    page.goto(f"{server.url}/models?tab=collection")
    page.get_by_label("Note on acme/small-chat").fill(f"because {EVIL}")
    page.get_by_role("button", name="Keep note").click()
    page.get_by_text("Note kept.").wait_for()
    axe(page)
    page.reload()
    assert page.get_by_label("Note on acme/small-chat").input_value() == f"because {EVIL}"
    page.get_by_role("button", name="Take acme/small-chat out of the collection").click()
    page.get_by_role("heading", name="Your collection is empty").wait_for()
    assert not page.alarms


def test_one_model_tells_all_that_is_known(server: ServerProcess, page: Any) -> None:
    page.goto(f"{server.url}/models/job:2")
    line = page.get_by_role("list", name="Lineage")
    text = re.sub(r"\s+", " ", line.inner_text())
    assert re.search(r"org/bot .*1,234 rows.*Job 1.*job:1.*Job 2.*job:2", text), text
    assert [a.get_attribute("href") for a in line.get_by_role("link").all()][:3] == [
        "/models/org/bot",
        "/datasets/5",
        "/jobs/1",
    ]
    page.get_by_role("link", name="Files").click()
    page.locator("#files .sum").nth(1).wait_for()
    weights = server.home / "jobs" / "2" / "artifacts" / "lora_model" / "model.safetensors"
    assert hashlib.sha256(weights.read_bytes()).hexdigest() in page.locator("#files").inner_text()
    link = page.get_by_role("link", name="model.safetensors").get_attribute("href")
    assert link == "/api/v1/jobs/2/artifacts/lora_model/model.safetensors"
    page.get_by_role("link", name="Versions").click()
    page.wait_for_url("**tab=versions")
    assert page.get_by_role("row").count() == 3
    page.goto(f"{server.url}/models/org/bot?tab=card")
    card = page.locator(".prose")
    assert EVIL in card.inner_text() and "<script>alert(2)</script>" in card.inner_text()
    assert card.locator("img, script").count() == 0 and card.locator("a[href]").count() == 0
    page.goto(f"{server.url}/models/job:1?tab=use")
    for tool, words in {
        "LM Studio": "lms import out-1.gguf",
        "PHP": "json_decode",
        "Python": f'Client("{server.url}")',
    }.items():
        page.get_by_role("navigation", name="Tools").get_by_role("link", name=tool, exact=True).click()
        page.get_by_role("heading", name=re.compile(re.escape(f"in {tool}"))).wait_for()
        assert words in page.locator(".code").inner_text()
    assert not page.alarms


@pytest.mark.parametrize("tab", ["overview", "files", "versions", "ratings", "card", "use"])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_tab_is_accessible_at_every_width(
    server: ServerProcess, window: Callable[..., Any], tab: str, theme: str
) -> None:
    page = window(375 if theme == "dark" else 1280, 900, color_scheme=theme)
    page.goto(f"{server.url}/models/job:1?tab={tab}")
    if tab == "files":
        page.locator("#files[aria-busy]").wait_for(state="detached")
    axe(page)
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth"), "nothing sticks out"
    assert not page.alarms


def test_ratings_are_shown_filtered_and_deleted(server: ServerProcess, page: Any) -> None:
    for verdict, answer in (("up", "Yes, at once."), ("down", EVIL)):
        body = {
            "model": "job:2",
            "messages": [{"role": "user", "content": "Well?"}],
            "answer": answer,
            "verdict": verdict,
        }
        assert server.client.post("/ratings/", json=body).status_code == 201
    page.goto(f"{server.url}/models/job:2?tab=ratings")
    assert page.locator(".rating").count() == 2 and "50 %" in page.locator("#ratings").inner_text()
    page.get_by_role("link", name="Disliked").click()
    page.wait_for_load_state("load")
    assert EVIL in page.locator(".rating").inner_text() and "verdict=down" in page.url
    page.get_by_role("button", name="Delete this rating").click()
    page.locator("#sure-yes").click()
    page.locator(".rating").wait_for(state="detached")
    assert server.client.get("/ratings/summary").json()[0]["down"] == 0
    assert not page.alarms


@pytest.mark.parametrize(("path", "status"), [
    ("/models/nobody/none", 404), ("/models/job:99", 404), ("/models/..%2f..%2fetc", 422), ("/models?cursor=x&tab=zzz&sort=1", 200),
    ("/models?cursor=99999", 200), ("/models/job:1?tab=zzz&tool=zzz&cursor=-1", 200), ("/models?tab=hub&size=1&category=x", 200),
])  # fmt: skip
def test_odd_addresses_are_answered_in_words(server: ServerProcess, path: str, status: int) -> None:
    answer = httpx.get(f"{server.url}{path}", headers={"Accept": "text/html"})
    assert answer.status_code == status and "<h1" in answer.text


def test_a_machine_without_models_shows_the_way(
    start_server: Callable[..., ServerProcess], page: Any, tmp_path: Path
) -> None:
    server = start_server(HF_HUB_CACHE=str(tmp_path / "none"))
    page.goto(f"{server.url}/models")
    page.get_by_role("link", name="Search the hub").click()
    page.get_by_text("TUNESMITH_HUB_OFFLINE").wait_for()
    axe(page)
    page.goto(f"{server.url}/playground")
    page.get_by_role("heading", name="No model yet").wait_for()
    axe(page)
    assert not page.alarms
