"""Tables of jobs: any metric or parameter as a column, an order, a group or a filter, page by page, and saved views."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.jobs.conftest import custom
from tunesmith.core.clock import utc_now
from tunesmith.core.events import EvaluationEvent, MetricsEvent, StepEvent
from tunesmith.features.jobs.lifecycle import Lifecycle
from tunesmith.features.jobs.run_table import address
from tunesmith.features.jobs.tables import JobRow
from tunesmith.live.bus import Bus
from tunesmith.schemas.runs import RunTable

RANKS = (8, 16, 8, None, "auto", 4, 16)
NAMES = tuple(f"run {number}" for number in range(1, len(RANKS) + 1))


@pytest.fixture
def client(make_client: Callable[..., TestClient]) -> TestClient:
    """Seven jobs: with `lora_r` of `RANKS`, a held-out loss of 1/number where the number is odd, and one of three owners' tags."""
    client = make_client(cpu_slots=0)
    with state(client).database.unit_of_work() as session:
        for number, rank in enumerate(RANKS, start=1):
            loss = 1 / number if number % 2 else None
            session.add(
                JobRow(
                    name=NAMES[number - 1], method="lora", model=f"acme/m{number % 2}", status="completed", output_name=f"out-{number}",
                    hyperparameters={"lora_r": rank, "learning_rate": number / 1000, "early_stopping": {"patience": number}},
                    metrics={"f1": number / 10, "odd,name": 1.0}, eval_loss=loss, best_eval_loss=loss, created_at=utc_now(),
                    reasons={}, request={}, resources={}, tags=[], spec={"dataset": {"name": "support"}},
                )
            )  # fmt: skip
            session.flush()
    return client


def state(client: TestClient) -> Any:
    return client.app.state.tunesmith  # type: ignore[attr-defined]


def pages(client: TestClient, **params: Any) -> Iterator[list[int]]:
    """The numbers of the jobs, page by page."""
    cursor = None
    while True:
        answer = client.get("/jobs/", params={**params, "limit": 2, **({"cursor": cursor} if cursor else {})})
        assert answer.status_code == 200, answer.text
        yield [job["id"] for job in answer.json()["items"]]
        cursor = answer.json()["next_cursor"]
        if cursor is None:
            return


@pytest.mark.parametrize(
    ("sort", "order", "expected"),
    [
        ("metric.eval_loss.best", "asc", [7, 5, 3, 1, 6, 4, 2]),  # without a value last, newest first
        ("metric.eval_loss.best", "desc", [1, 3, 5, 7, 6, 4, 2]),
        ("metric.f1", "desc", [7, 6, 5, 4, 3, 2, 1]),
        ("param.lora_r", "asc", [6, 1, 3, 2, 7, 5, 4]),  # numbers, then text, then none
        ("param.early_stopping.patience", "asc", [1, 2, 3, 4, 5, 6, 7]),
        ("model", "desc", [7, 5, 3, 1, 6, 4, 2]),
    ],
)
def test_every_job_once_in_the_order_of_any_value(
    client: TestClient, sort: str, order: str, expected: list[int]
) -> None:
    assert list(itertools.chain(*pages(client, sort=sort, order=order))) == expected


def test_columns_filters_and_groups_say_what_the_jobs_have(client: TestClient) -> None:
    found = {one["name"]: one for one in client.get("/jobs/columns").json()}
    assert {"status", "dataset", "metric.f1", "metric.odd_name", "metric.eval_loss.best", "param.lora_r"} <= set(found)
    assert found["metric.eval_loss.best"] == {
        "name": "metric.eval_loss.best", "kind": "metric", "title": "Held-out loss, best",
    }  # fmt: skip
    first = client.get("/jobs/?sort=metric.f1&order=desc&columns=param.lora_r,metric.f1,param.nothing").json()["items"]
    assert first[0]["values"] == {"param.lora_r": 16, "metric.f1": 0.7, "param.nothing": None}
    assert first[2]["values"]["param.lora_r"] == "auto"
    assert client.get("/jobs/").json()["items"][0]["values"] is None

    for where, expected in (("param.lora_r=8", {1, 3}), ("param.lora_r=(none)", {4}), ("param.lora_r=auto", {5})):
        page = client.get("/jobs/", params={"where": where}).json()
        assert {job["id"] for job in page["items"]} == expected and page["total"] == len(expected), where

    path = "/jobs/groups?group=param.lora_r&sort=metric.f1&order=desc&each=1"
    groups = client.get(path).json()
    told = [(group["value"], group["total"], [job["id"] for job in group["jobs"]]) for group in groups["groups"]]
    assert told == [(4, 1, [6]), (8, 2, [3]), (16, 2, [7]), ("auto", 1, [5]), (None, 1, [4])]
    assert groups["next_offset"] is None
    part = client.get(f"{path}&limit=2&offset=2").json()
    assert [group["value"] for group in part["groups"]] == [16, "auto"] and part["next_offset"] == 4
    assert [group["value"] for group in client.get(f"{path}&limit=2&offset=4").json()["groups"]] == [None]


@pytest.mark.parametrize(
    "query", ["sort=metric.nothing", "sort=name;drop", "columns=a,b", "where=lora_r", "columns=metric.a,", "cursor=99"]
)
def test_what_cannot_be_done_is_refused_by_name(client: TestClient, query: str) -> None:
    answer = client.get(f"/jobs/?sort=metric.f1&{query}" if "cursor" in query else f"/jobs/?{query}")
    assert answer.status_code in (400, 422) and answer.json()["message"], answer.text


def test_values_follow_what_a_job_reports(client: TestClient) -> None:
    """The last and the best of each curve; a job that is deleted leaves nothing."""
    made = client.post("/jobs/", json=custom(start="manual")).json()["id"]
    steps = [
        StepEvent(step=step, total_steps=3, epoch=1, loss=loss, learning_rate=1e-3, attempt=0)
        for step, loss in ((1, 3.0), (2, 1.5), (3, 2.0))
    ]
    scores = [
        EvaluationEvent(step=step, loss=loss, metrics={"f1": f1}, attempt=0)
        for step, loss, f1 in ((1, 2.0, 0.4), (3, 2.5, 0.3))
    ]
    more = [MetricsEvent(step=2, values={"reward": 5.0}, attempt=0), MetricsEvent(values={"final": 1.0}, attempt=0)]
    with state(client).database.unit_of_work() as session:
        life = Lifecycle(session, Bus())
        life.record_events(life.jobs.get(made, for_update=True), [*steps, *scores, *more], 1)
    names = ["metric.loss", "metric.loss.best", "metric.eval_loss", "metric.eval_loss.best", "metric.eval_f1.best",
             "metric.reward", "metric.final", "metric.step", "status"]  # fmt: skip
    answer = client.get("/jobs/", params={"columns": ",".join(names), "sort": "metric.reward"}).json()["items"][0]
    assert answer["id"] == made
    assert list(answer["values"].values()) == [2.0, 1.5, 2.5, 2.0, 0.4, 5, 1, 3, "created"]
    assert client.delete(f"/jobs/{made}").status_code == 204
    assert client.get("/jobs/?sort=metric.reward").status_code == 422


def test_a_view_is_saved_replaced_and_opened_by_its_address(client: TestClient) -> None:
    view = {"columns": ["metric.f1", "param.lora_r"], "sort": "metric.f1", "order": "asc", "where": ["param.lora_r=8"]}
    made = client.post("/jobs/views", json={"name": " best ranks ", "view": view}).json()
    assert made["name"] == "best ranks"
    page = client.get(f"http://localhost{made['path']}").text
    assert page.index('id="job-1"') < page.index('id="job-3"') and 'id="job-2"' not in page
    again = client.post("/jobs/views", json={"name": "best ranks", "view": {"group": "model"}}).json()
    assert again["id"] == made["id"]
    assert [one["view"]["group"] for one in client.get("/jobs/views").json()] == ["model"]
    assert "acme/m1" in client.get(f"http://localhost{again['path']}").text
    assert client.post("/jobs/views", json={"name": "x", "view": {"sort": "nothing"}}).status_code == 422
    assert client.delete(f"/jobs/views/{made['id']}").status_code == 204
    assert client.get("/jobs/views").json() == []


def test_a_name_that_reads_like_a_number_is_found(client: TestClient) -> None:
    with state(client).database.unit_of_work() as session:
        session.get(JobRow, 1).model = "2024"
    for condition, number in (("model=2024", 1), ("param.lora_r=8", RANKS.index(8) + 1)):
        found = client.get("/jobs/", params={"where": condition}).json()["items"]
        assert number in [job["id"] for job in found]


def test_an_address_keeps_the_order_and_no_jobs_have_no_groups(make_client: Callable[..., TestClient]) -> None:
    view = RunTable(sort="metric.eval_loss.best", order="desc")
    assert "order=desc" in address(view)
    answer = make_client(cpu_slots=0).get("/jobs/groups", params={"group": "status"})
    assert (answer.status_code, answer.json()["groups"]) == (200, [])
