"""The pages of the registry in a real browser: names, versions, one version, comparison, import."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ServerProcess, kill_processes_of
from tests.registry.ground import Ground, adapter, flip
from tests.ui.conftest import axe
from tunesmith.features.registry import changing, service
from tunesmith.features.registry.service import NewVersion

EVIL = "<img src=x onerror=alert(1)>"
PAGES = ("/registry", "/registry?metric=eval_loss<1.7", "/registry/new", "/registry/health", "/registry/health?keep_last=1&older_than_days=&stage=", "/registry/support-bot", "/registry/support-bot?tab=changelog",
         "/registry/support-bot?tab=charts", "/registry/support-bot?tab=usage", "/registry/support-bot?tab=events",
         "/registry/support-bot/1.2.0", "/registry/compare", "/registry/compare?ref=support-bot%401.0.0&ref=support-bot%401.2.0")  # fmt: skip

IN_THE_DARK = (
    "/registry",
    "/registry/health?keep_last=1&older_than_days=&stage=",
    "/registry/support-bot",
    "/registry/support-bot/1.2.0",
)


def fill(home: Path) -> None:
    """`support-bot` with three versions, a champion, scores and use."""
    ground = Ground(home)
    for seed, loss in enumerate((1.9, 1.6, 1.7)):
        lineage = {"job_id": seed + 1, "job_name": f"Run {EVIL}", "method": "standard", "dataset_name": "Letters", "dataset_id": 5,
                   "dataset_digest": f"{seed}" * 64}  # fmt: skip
        ground.model(
            seed, job_id=seed + 1, base_model="org/base", lineage=lineage, metrics={"eval_loss": loss, "training_s": 12.5},
            hyperparameters={"learning_rate": 0.001 * (seed + 1), "lora": {"r": 8}, "skip_bad_rows": seed == 2}, notes=f"Try {seed} {EVIL}", tags=["a"],
        )  # fmt: skip
    ground.register(NewVersion(name="other", sources={"adapter": adapter(home / "made" / "a")}, kind="adapter"))
    with ground.database.unit_of_work() as session:
        for version in ("1.0.0", "1.1.0"):
            changing.set_alias(session, "support-bot", "champion", version, gate=lambda *_: None)
        row = service.find_version(session, "support-bot@1.2.0")
        service.add_scores(
            session,
            row,
            "Letters (held out)",
            {"bleu": 21.5, "accuracy": 0.75, "about": {"intervals": {"bleu": [20.0, 23.0, 80]}}},
        )
        for days in range(12):
            service.record_use(session, row.id, requests=10 + days, errors=days % 3, latency_sum_s=4.5, tokens=100,
                               at=row.created_at - timedelta(days=days))  # fmt: skip
    ground.database.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    home = tmp_path_factory.mktemp("registry") / "home"
    fill(home)
    server = ServerProcess(home, {"TUNESMITH_MIN_FREE_BYTES": "0"}).start()
    yield server
    server.stop()
    server.client.close()
    kill_processes_of(home)


def test_every_page_is_accessible_in_both_schemes_and_on_a_telephone(
    server: ServerProcess, window: Callable[..., Any]
) -> None:
    for page in (window(), window(375, 800, color_scheme="dark")):
        for path in PAGES:
            page.goto(f"{server.url}{path}")
            if page.viewport_size["width"] > 1000 or path in IN_THE_DARK:
                axe(page)
            wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            assert wide <= 0, f"{path} is {wide} px too wide"
        assert not page.alarms


def test_an_alias_is_moved_and_rolled_back(server: ServerProcess, page: Any) -> None:
    put = server.client.put("/registry/support-bot/aliases/champion", json={"version": "1.1.0"})
    assert put.status_code == 200, put.text
    page.goto(f"{server.url}/registry/support-bot")
    champion = page.locator(".alias-item", has_text="champion")
    assert "1.1.0" in champion.inner_text()
    page.get_by_role("button", name="What to do with 1.2.0").click()
    page.get_by_role("button", name="Make it champion").locator("visible=true").click()
    champion.get_by_text("1.2.0").wait_for()
    page.get_by_role("button", name="What to do with champion").click()
    with page.expect_navigation():
        page.get_by_role("button", name="Roll back").click()
    champion.get_by_text("1.1.0").wait_for()
    page.get_by_label("Alias", exact=True).fill("night")
    page.get_by_label("stands for").select_option("1.0.0")
    page.get_by_role("button", name="Move", exact=True).click()
    page.locator(".alias-item", has_text="night").wait_for()
    page.goto(f"{server.url}/registry/support-bot?tab=events")
    assert "moved night to 1.0.0" in page.locator(".events").inner_text()
    assert not page.alarms


def test_versions_are_ticked_and_compared_and_one_says_what_it_is(server: ServerProcess, page: Any) -> None:
    page.goto(f"{server.url}/registry/support-bot")
    page.get_by_label("Compare 1.0.0").check()
    page.get_by_label("Compare 1.2.0").check()
    page.get_by_role("button", name="Compare", exact=True).click()
    page.wait_for_url("**/registry/compare?ref=*")
    best = page.locator("tr", has_text="Held-out loss").locator(".is-best")
    assert "1.7" in best.inner_text()
    page.goto(f"{server.url}/registry/support-bot/1.2.0")
    assert "Against 1.1.0" in page.locator("main").inner_text()
    bleu = page.locator(".version-scores tr", has_text="Bleu").inner_text()
    assert "20 to 23" in bleu and "80" in bleu
    page.get_by_role("button", name="Compress").click()
    assert page.get_by_label("Skip rows that cannot be used").is_checked(), "as in the training"
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Read every byte now").click()
    page.get_by_text("All 2 files are as they were registered.").wait_for()
    assert not page.alarms


def test_a_clean_up_says_what_would_go_and_takes_it_away(server: ServerProcess, page: Any) -> None:
    server.client.delete("/registry/support-bot/aliases/night")
    page.goto(f"{server.url}/registry")
    page.get_by_role("link", name="Health").click()
    page.get_by_role("button", name="Read every byte now").click()
    page.get_by_text(re.compile(r"All \d+ files are as they were registered")).wait_for()
    page.get_by_label("Keep the last").fill("1")
    page.get_by_role("button", name="Show what would go").click()
    page.wait_for_url("**keep_last=1**")
    assert "support-bot@1.1.0 stays: alias champion" in page.locator("main").inner_text()
    assert "1 version would go" in page.locator("main").inner_text()
    page.get_by_role("button", name="Delete them").click()
    page.get_by_role("button", name="Delete", exact=True).click()
    page.wait_for_url("**/registry/health")
    assert server.client.get("/registry/support-bot/versions/1.0.0").status_code == 404
    assert server.client.get("/registry/support-bot/versions/1.1.0").status_code == 200
    assert not page.alarms


def test_damage_is_shown_and_an_archive_is_sent(server: ServerProcess, page: Any, tmp_path: Path) -> None:
    import tarfile

    page.goto(f"{server.url}/registry/other/latest")
    files = server.client.get("/registry/other/versions/latest").json()["files"]
    weights = next(file["sha256"] for file in files if file["path"] == "adapter_model.safetensors")
    flip(next((server.home / "registry" / "blobs").rglob(weights)))
    page.get_by_role("button", name="Read every byte now").click()
    page.get_by_text("Damaged: adapter_model.safetensors").wait_for()
    with tarfile.open(tmp_path / "sent-bot.tar.gz", "w:gz") as tar:
        tar.add(adapter(tmp_path / "sent", seed=5), "sent")
    page.goto(f"{server.url}/registry/new")
    page.get_by_label("File").set_input_files(tmp_path / "sent-bot.tar.gz")
    page.get_by_role("button", name="Send and register").click()
    page.wait_for_url("**/registry/sent-bot")
    page.get_by_text("Registered sent-bot@1.0.0").wait_for()
    page.goto(f"{server.url}/registry/new")
    page.get_by_label("Path").fill("../x")
    page.get_by_role("button", name="Register", exact=True).click()
    page.locator("[data-problem]").wait_for()
    assert [alarm for alarm in page.alarms if "422" not in alarm] == []
