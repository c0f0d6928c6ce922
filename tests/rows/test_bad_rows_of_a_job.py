"""A job on data with errors: refused with both remedies, started without the bad rows, and told on the pages."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.cli.command import tunesmith
from tests.conftest import ServerProcess
from tests.ui.conftest import axe, browser, page, window
from tests.ui.ground import TINY, add_tiny_model, upload, wait_until_over

__all__ = ["browser", "page", "window"]  # fixtures

BAD = [2, 5, 9]


def support() -> str:
    """40 questions with their answers, three of which are missing."""
    answers = {n: None if n in BAD else f"It is at depot {n * 7 % 13}." for n in range(1, 41)}
    return "\n".join(json.dumps({"question": f"Where is {n}?", "answer": answer}) for n, answer in answers.items())


@pytest.fixture
def ground(start_server: Callable[..., ServerProcess], tiny_model: Path) -> ServerProcess:
    server = start_server()
    add_tiny_model(server.home, tiny_model)
    return server


def request(dataset_id: int, **settings: Any) -> dict[str, Any]:
    given = {"max_steps": 2, "batch_size": 4, "validation_split": 0.25, **settings}
    return {"model": TINY, "dataset_id": dataset_id, "method": "lora", "hyperparameters": given}


def test_refused_with_number_rows_and_both_remedies_or_started_without_them(ground: ServerProcess) -> None:
    client, dataset = ground.client, upload(ground, "support", "support.jsonl", support())
    for path in ("/jobs/plan", "/jobs/"):
        answer = client.post(path, json=request(dataset))
        assert answer.status_code == 422
        (detail,) = answer.json()["details"]
        assert (detail["code"], detail["count"], detail["rows"]) == ("bad_rows", 3, BAD)
        assert detail["message"] == "3 rows of support cannot be used for training: rows 2, 5 and 9. 3 empty rows."
        assert "skip_bad_rows: true" in answer.json()["hint"] and "drop_bad_rows" in answer.json()["hint"]
    plan = client.post("/jobs/plan", json=request(dataset, skip_bad_rows=True)).json()
    assert plan["checks"][0]["code"] == "rows_skipped" and plan["checks"][0]["rows"] == BAD
    whole = client.post("/jobs/plan", json=request(dataset, skip_bad_rows=True, max_steps=None, epochs=1)).json()
    clean = upload(
        ground, "clean", "clean.jsonl", "\n".join(row for row in support().splitlines() if "null" not in row)
    )
    same = client.post("/jobs/plan", json=request(clean, max_steps=None, epochs=1)).json()
    assert whole["estimate"]["total_steps"] == same["estimate"]["total_steps"]

    made = client.post("/jobs/", json=request(dataset, skip_bad_rows=True)).json()
    wait_until_over(ground, made["id"])
    assert client.get(f"/jobs/{made['id']}").json()["metrics"]["rows_skipped"] == 3
    again = client.post(f"/jobs/{made['id']}/clone", json={"changes": {"start": "manual"}}).json()
    assert again["hyperparameters"]["skip_bad_rows"] is True
    many = client.post("/jobs/batch", json={"jobs": [request(dataset, skip_bad_rows=True) | {"start": "manual"}] * 2})
    assert [job["hyperparameters"]["skip_bad_rows"] for job in many.json()["jobs"]] == [True, True]
    held_out = client.post(
        "/jobs/", json={"model": f"job:{made['id']}", "method": "evaluate", "hyperparameters": {"max_prompts": 1}}
    ).json()
    wait_until_over(ground, held_out["id"])
    assert held_out["hyperparameters"]["held_out"]["skip_bad_rows"] is True
    body = {"model": TINY, "dataset_id": dataset, "method": "evaluate", "hyperparameters": {"max_prompts": 1}}
    assert client.post("/jobs/plan", json=body).json()["details"][0]["code"] == "bad_rows"


def test_the_wizard_repairs_them_or_starts_without_them_in_one_click(ground: ServerProcess, page: Any) -> None:
    dataset = upload(ground, "support", "support.jsonl", support())
    page.goto(f"{ground.url}/jobs/new?dataset={dataset}&model={TINY}#dataset")
    panel = page.locator("#bad-rows")
    panel.get_by_text("3 rows cannot be used for training").wait_for()
    assert [link.inner_text() for link in panel.locator("a.tag").all()] == ["2", "5", "9"]
    axe(page)
    page.locator(".nj-side").get_by_role("button", name="Skip 3 rows and start").click()
    page.wait_for_url(re.compile(r"/jobs/\d+$"))
    job_id = int(page.url.rpartition("/")[2])
    assert ground.client.get(f"/jobs/{job_id}").json()["hyperparameters"]["skip_bad_rows"] is True
    wait_until_over(ground, job_id)
    page.goto(f"{ground.url}/jobs/{job_id}")
    page.get_by_text("Skipped 3 rows of support that cannot be used for training: rows 2, 5 and 9.").first.wait_for()

    page.goto(f"{ground.url}/jobs/new?dataset={dataset}&model={TINY}#dataset")
    page.get_by_role("button", name="Drop 3 rows from the dataset").click()
    panel.wait_for(state="hidden")
    page.locator(".nj-side").get_by_role("button", name="Start training").wait_for()
    assert ground.client.get(f"/datasets/{dataset}/validation").json()["valid"]
    assert not [alarm for alarm in page.alarms if "422" not in alarm]


def test_a_job_that_fails_on_a_row_links_to_it_and_starts_again_without_it(ground: ServerProcess, page: Any) -> None:
    """The row is none of those that the plan looks at: only the job meets it."""
    answer = {"role": "assistant", "content": "It is at the depot beside the station, as ever."}
    talks: list[list[dict[str, Any]]] = [
        [{"role": "user", "content": f"Where is parcel {n}, that I sent on Monday?"}, answer] for n in range(2400)
    ]
    calls = [{"function": {"name": "f", "arguments": {}}}]
    talks[1] = [{"role": "user", "content": "W?"}, {"role": "assistant", "tool_calls": calls}]
    dataset = upload(ground, "talks", "talks.jsonl", "\n".join(json.dumps({"messages": talk}) for talk in talks))
    body = request(dataset, max_steps=4, validation_split=0.95, eval_steps=100)
    made = ground.client.post("/jobs/", json=body)
    assert made.status_code == 201, made.text
    wait_until_over(ground, made.json()["id"], "failed")
    page.goto(f"{ground.url}/jobs/{made.json()['id']}")
    page.get_by_text("1 row of talks cannot be used for training (row 2).").first.wait_for()
    assert "skip_bad_rows" not in page.locator("#job-now").inner_text()
    link = page.locator("#bad-rows").get_by_role("link", name="Row 2")
    assert f"/datasets/{dataset}?tab=rows" in str(link.get_attribute("href"))
    page.get_by_role("button", name="Skip this row and start again").click()
    page.wait_for_url(re.compile(rf"/jobs/(?!{made.json()['id']}$)\d+$"))
    again = ground.client.get(f"/jobs/{page.url.rpartition('/')[2]}").json()
    assert again["hyperparameters"]["skip_bad_rows"] is True
    ground.client.post(f"/jobs/{again['id']}/stop")
    assert not page.alarms


def test_a_step_opens_below_the_step_bar(ground: ServerProcess, window: Any) -> None:
    measure = """step => [".topbar", ".nj-steps", `#title-${step}`].map(one => document.querySelector(one))
        .flatMap(one => [one.getBoundingClientRect().top, one.getBoundingClientRect().bottom])"""

    def check(page: Any, step: str, where: object) -> None:
        is_open = "step => document.querySelector('.nj-steps [aria-current]').dataset.go === step"
        page.wait_for_function(is_open, arg=step)
        page.wait_for_timeout(300)
        _, bar_end, steps_top, steps_end, title, _ = page.evaluate(measure, step)
        assert steps_top >= bar_end - 1 and title >= steps_end - 1, where

    for width in (375, 1280):
        page = window(width, 720)
        page.goto(f"{ground.url}/jobs/new")
        for view in ("steps", "page"):
            page.evaluate("view => localStorage.setItem('tunesmith.new-job-view', view)", view)
            for step in ("dataset", "parameters"):
                page.goto("about:blank")
                page.goto(f"{ground.url}/jobs/new#{step}")
                check(page, step, (width, view, step))
            page.evaluate("scrollTo(0, 800)")
            page.locator('.nj-steps [data-go="method"]').click()
            check(page, "method", (width, view, "chosen"))


def test_without_a_server_they_are_refused_or_skipped_too(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "support.jsonl").write_text(support())
    (tmp_path / "job.yaml").write_text(
        f"model: {{name: {tiny_model}}}\ntraining_data: {{path: support.jsonl}}\n"
        "hyperparameters: {max_steps: 2, batch_size: 4, validation_split: 0.25}\n"
    )
    refused = tunesmith(tmp_path, "train", "--local", "--config", "job.yaml", "--output", "a")
    assert refused.returncode == 2 and "rows 2, 5 and 9" in refused.stderr and "--skip-bad-rows" in refused.stderr
    trained = tunesmith(tmp_path, "train", "--local", "--config", "job.yaml", "--output", "b", "--skip-bad-rows")
    assert trained.returncode == 0, trained.stderr
    assert "Skipped 3 rows of support.jsonl" in trained.stdout + trained.stderr


def test_nulls_deep_in_a_file_are_repairable(ground: ServerProcess) -> None:
    """Dropping empty rows leaves conversations whose only answer is null."""
    talks = [[{"role": "user", "content": f"Symbol {n}?"}, {"role": "assistant", "content": "He"}] for n in range(30)]
    talks[3][1]["content"] = None  # type: ignore[assignment]
    content = io.BytesIO()
    pq.write_table(pa.table({"messages": [None, *talks], "meta": [None, *[{"lang": "en"}] * 30]}), content)
    dataset = upload(ground, "nested", "nested.parquet", content.getvalue())
    report = ground.client.get(f"/datasets/{dataset}/validation").json()
    found = [(each["code"], each["rows"], each["repair"]) for each in report["findings"] if each["level"] == "error"]
    assert found == [("empty_rows", [1], "drop_empty"), ("bad_conversation", [5], "drop_bad_rows")]
    ground.client.post(f"/datasets/{dataset}/repair", json={"drop_bad_rows": True})
    after = ground.wait_for(f"/datasets/{dataset}", lambda found: found["status"] == "ready", 60)
    assert after["num_errors"] == 0 and after["num_rows"] == 29
    assert ground.client.post("/jobs/plan", json=request(dataset)).status_code == 200
    rows = "\n".join(json.dumps({"question": f"Where is {n}?", "answer": ""}) for n in range(3))
    nothing = upload(ground, "nothing", "nothing.jsonl", rows)
    answer = ground.client.post("/jobs/", json=request(nothing, skip_bad_rows=True))
    assert answer.status_code == 422 and "No row of nothing" in answer.json()["details"][0]["message"]
