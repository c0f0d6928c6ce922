"""What lists, charts, logs and comparisons of jobs are made of."""

from __future__ import annotations

import hashlib
import json
import math
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.jobs.conftest import custom
from tunesmith.core import log_lines
from tunesmith.core.clock import utc_now
from tunesmith.core.events import EvaluationEvent, GpuUse, MetricsEvent, PhaseEvent, ResourcesEvent, StepEvent
from tunesmith.core.job_status import JobStatus
from tunesmith.features.jobs import logs
from tunesmith.features.jobs.curves import SPARKLINE_POINTS, Sparkline, per_second
from tunesmith.features.jobs.lifecycle import Lifecycle


def make(client: TestClient, **fields: Any) -> int:
    answer = client.post("/jobs/", json=custom(**fields))
    assert answer.status_code == 201, answer.text
    return int(answer.json()["id"])


def write(client: TestClient, job_id: int, events: list[Any], *, end: JobStatus | None = None) -> None:
    """What the scheduler does with what a worker wrote."""
    state: Any = client.app.state.tunesmith  # type: ignore[attr-defined]
    with state.database.unit_of_work() as session:
        life = Lifecycle(session, state.bus)
        job = life.jobs.get(job_id, for_update=True)
        if job.status == JobStatus.QUEUED:
            life.transition(job, JobStatus.RUNNING)
        life.record_events(job, events, job.events_offset + 1)
        if end:
            life.transition(job, end)


def step(number: int, loss: float, **more: Any) -> StepEvent:
    return StepEvent(step=number, total_steps=100, epoch=number / 50, loss=loss, learning_rate=1e-4, **more)


def test_a_list_says_how_far_each_job_is_and_can_be_sorted_and_paged(idle: TestClient) -> None:
    ids = [make(idle, name=name, tags=["mine"]) for name in ("banana", "Apple", "cherry", "apple 2")]
    write(idle, ids[0], [step(50, 1.5, remaining_s=12.0), EvaluationEvent(step=50, loss=2.0)])
    write(idle, ids[1], [EvaluationEvent(step=9, loss=1.0), EvaluationEvent(step=10, loss=1.2), step(10, math.nan)])
    page = idle.get("/jobs/", params={"sort": "eval_loss", "order": "asc", "limit": 3}).json()
    assert [job["name"] for job in page["items"]] == ["Apple", "banana", "cherry"] and page["total"] == 4
    rest = idle.get("/jobs/", params={"sort": "eval_loss", "order": "asc", "cursor": page["next_cursor"]}).json()
    assert [job["name"] for job in rest["items"]] == ["apple 2"] and rest["next_cursor"] is None
    names = [job["name"] for job in idle.get("/jobs/", params={"sort": "name", "order": "asc"}).json()["items"]]
    assert names == ["Apple", "apple 2", "banana", "cherry"]
    apple, banana = page["items"][:2]
    assert (banana["progress"], banana["step"], banana["remaining_s"], banana["loss"]) == (0.5, 50, 12.0, 1.5)
    assert (apple["loss"], apple["eval_loss"], apple["best_eval_loss"]) == (None, 1.2, 1.0)
    assert banana["sparkline"] == [1.5] and apple["sparkline"] == []
    assert idle.get("/jobs/", params={"tag": "other"}).json() == {"items": [], "next_cursor": None, "total": 0}
    assert idle.delete(f"/jobs/{make(idle, start='manual')}").status_code == 204
    gone = idle.get("/jobs/", params={"sort": "name", "cursor": 99})
    assert gone.status_code == 400 and gone.json()["hint"]


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 3000), st.integers(1, 60))
def test_a_sparkline_stays_short_and_spans_the_run(count: int, from_step: int) -> None:
    line = Sparkline()
    for number in range(count):
        line = Sparkline(**json.loads(json.dumps(line.with_point(number, float(number))._asdict())))
    assert len(line.points) <= SPARKLINE_POINTS and line.points[0][0] == 0
    gaps = {later[0] - sooner[0] for sooner, later in zip(line.points, line.points[1:], strict=False)}
    assert gaps <= {line.every} and count - line.points[-1][0] <= line.every
    resumed = line.with_point(min(from_step, count - 1), -1.0)
    steps = [at for at, _ in resumed.points]
    assert steps == sorted(set(steps)) and max(steps) <= max(from_step, 0)


def test_curves_are_read_whole_in_part_and_as_they_grow(idle: TestClient) -> None:
    job_id = make(idle)
    losses = {n: 1 / n + (5 if n == 77 else 0) for n in range(1, 101)}
    write(idle, job_id, [step(n, loss, grad_norm=0.5) for n, loss in losses.items() if n <= 60])
    first = idle.get(f"/jobs/{job_id}/metrics", params={"points": 1000}).json()
    # It goes on from the checkpoint of step 50: the later word counts.
    again = [step(n, loss) for n, loss in losses.items() if n > 50]
    write(idle, job_id, [*again, EvaluationEvent(step=100, loss=0.5, metrics={"f1": 0.25})])
    write(idle, job_id, [MetricsEvent(step=100, values={"bleu": 30.0}), MetricsEvent(values={"final": 1.0})])
    new = idle.get(f"/jobs/{job_id}/metrics", params={"after": first["last_seq"], "points": 1000}).json()
    whole = idle.get(f"/jobs/{job_id}/metrics", params={"points": 1000}).json()
    assert set(whole["curves"]) == {
        "loss",
        "learning_rate",
        "grad_norm",
        "epoch",
        "elapsed_s",
        "eval_loss",
        "eval_f1",
        "bleu",
    }
    assert new["curves"]["loss"]["steps"] == list(range(51, 101)) and new["last_seq"] == whole["last_seq"]
    loss = whole["curves"]["loss"]
    assert dict(zip(loss["steps"], loss["values"], strict=True)) == pytest.approx(losses) and whole["num_steps"] == 100
    assert idle.get(f"/jobs/{job_id}/metrics", params={"after": whole["last_seq"]}).json()["curves"] == {}
    few = {"points": 4, "only": ["loss"], "from_step": 70, "to_step": 80}
    part = idle.get(f"/jobs/{job_id}/metrics", params=few).json()["curves"]
    assert set(part) == {"loss"} and part["loss"]["steps"] == [70, 77, 79, 80]
    assert idle.get("/jobs/999/metrics").status_code == 404


def test_resources_over_time(idle: TestClient) -> None:
    job_id, now = make(idle), utc_now()
    gpu = GpuUse(index=3, name="gpu", utilization_percent=90.0)
    write(idle, job_id, [
        ResourcesEvent(at=now + timedelta(seconds=2 * n), cpu_percent=10.0 * n, memory_bytes=n, machine_memory_percent=5.0,
                       disk_written_bytes=1000 * n, gpus=[gpu])
        for n in range(5)
    ])  # fmt: skip
    found = idle.get(f"/jobs/{job_id}/resources").json()
    assert found["curves"]["cpu_percent"]["values"] == [0.0, 10.0, 20.0, 30.0, 40.0]
    assert found["curves"]["disk_written_bytes_per_s"]["values"] == pytest.approx([500.0] * 4)
    assert found["curves"]["gpu3_utilization_percent"]["values"] == [90.0] * 5 and "gpu3_power_w" not in found["curves"]
    assert found["curves"]["memory_bytes"]["times"][0] == pytest.approx(now.timestamp(), abs=0.01)
    assert idle.get(f"/jobs/{job_id}/resources", params={"after": found["last_seq"]}).json()["curves"] == {}


def test_a_count_that_begins_anew_is_no_negative_rate() -> None:
    assert per_second([(0.0, 100.0), (2.0, 300.0), (4.0, 10.0), (5.0, 20.0)]) == [(2.0, 100.0), (5.0, 10.0)]


def test_the_timeline_of_a_job_that_was_paused(idle: TestClient) -> None:
    job_id = make(idle)
    state: Any = idle.app.state.tunesmith  # type: ignore[attr-defined]
    for end in (JobStatus.PAUSED, JobStatus.COMPLETED):
        write(
            idle,
            job_id,
            [PhaseEvent(phase="loading"), PhaseEvent(phase="training"), PhaseEvent(phase="training")],
            end=end,
        )  # type: ignore[arg-type]
        if end == JobStatus.PAUSED:
            with state.database.unit_of_work() as session:
                life = Lifecycle(session, state.bus)
                life.resume(life.jobs.get(job_id, for_update=True))
    assert idle.get(f"/jobs/{make(idle, start='manual')}/timeline").json() == {"spans": [], "totals_s": {}}
    found = idle.get(f"/jobs/{job_id}/timeline").json()
    once = ["queued", "starting", "loading", "training"]
    assert [span["name"] for span in found["spans"]] == [*once, "paused", *once]
    assert found["spans"][-1]["ended_at"] and all(span["duration_s"] >= 0 for span in found["spans"])
    assert found["totals_s"]["training"] == pytest.approx(
        sum(span["duration_s"] for span in found["spans"] if span["name"] == "training")
    )


def test_jobs_side_by_side(idle: TestClient, home: Path) -> None:
    ids = [make(idle, name=f"job {n}", steps=n + 1) for n in range(3)]
    for n, job_id in enumerate(ids[:2]):
        write(idle, job_id, [step(10, 1.0 + n), MetricsEvent(values={"token_accuracy": 0.5 + n, "perplexity": 3.0})])
    folder = home / "jobs" / str(ids[0]) / "artifacts" / "adapter"
    folder.mkdir(parents=True)
    (folder / "validation.json").write_text(json.dumps({"sample": "Good day."}))
    (folder.parent / "model").mkdir()
    (folder.parent / "model" / "validation.json").write_text("[]")
    found = idle.get("/jobs/compare", params={"ids": ",".join(map(str, ids))}).json()
    assert [each["job"]["id"] for each in found["jobs"]] == ids
    assert found["jobs"][0]["curves"]["loss"] == {"steps": [10], "values": [1.0]}
    assert [each["samples"] for each in found["jobs"]] == [
        [{"prompt": "Hello", "turns": [], "expected": "", "answer": "Good day."}],
        [],
        [],
    ]
    settings = {item["name"]: item for item in found["settings"]}
    assert settings["script"]["differs"] and not settings["method"]["differs"]
    scores = {item["name"]: (item["values"], item["best"]) for item in found["scores"]}
    assert scores["loss"] == ([1.0, 2.0, None], [0]) and scores["token_accuracy"] == ([0.5, 1.5, None], [1])
    assert scores["perplexity"] == ([3.0, 3.0, None], [])
    assert idle.get("/jobs/compare", params={"ids": f"{ids[0]},999"}).status_code == 404
    assert idle.get("/jobs/compare", params={"ids": "1,2,3,4,5,6,7,8,9"}).status_code == 422


def test_answers_before_and_after_are_read_from_the_job_and_reach_the_comparison(idle: TestClient, home: Path) -> None:
    job_id = make(idle)
    url = f"/jobs/{job_id}/before-after"
    assert idle.get(url).json()["reason"] == "Only the training of a language model compares answers before and after."
    side = {"answer": "No.", "tokens": 2, "is_cut": False, "loss": None, "perplexity": 2.5, "chrf": 12.5}
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Is it?"}]
    one = {"row": 7, "turns": turns, "prompt_is_cut": False, "expected": "Yes.", "expected_tokens": 2, "base": side}
    told = {"dataset": "faq", "base_model": "tiny", "answer_limit": 18, "reason": "", "hint": "", "questions": [one | {"tuned": side | {"answer": "Yes."}}]}  # fmt: skip
    folder = home / "jobs" / str(job_id) / "artifacts" / "before_after"
    folder.mkdir(parents=True)
    (folder / "before_after.json").write_text(json.dumps(told))
    assert idle.get(url).json() == told
    (sample,) = idle.get("/jobs/compare", params={"ids": job_id}).json()["jobs"][0]["samples"]
    assert sample == {"prompt": "Is it?", "turns": turns, "expected": "Yes.", "answer": "Yes."}
    (folder / "before_after.json").write_text("{")  # a script may leave anything
    assert idle.get(url).status_code == 200 and idle.get(url).json()["questions"] == []
    assert idle.get("/jobs/999/before-after").status_code == 404


def test_a_log_is_read_back_to_its_beginning_and_searched(idle: TestClient, home: Path) -> None:
    job_id = make(idle)
    folder = home / "jobs" / str(job_id)
    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(f"step {n} läuft gut\n" for n in range(5000)) + "Traceback: no newline at the end"
    (folder / "output.log").write_text(text)
    read, before = "", 2**40
    while before:
        chunk = idle.get(f"/jobs/{job_id}/logs", params={"before": before, "limit": 4096}).json()
        assert chunk["offset"] < before and (chunk["text"].startswith("step ") or not chunk["offset"])
        read, before = chunk["text"] + read, chunk["offset"]
    assert read == text
    found = idle.get(f"/jobs/{job_id}/logs/search", params={"q": "STEP 499", "limit": 5}).json()
    assert [match["line"] for match in found["matches"]][:2] == ["step 499 läuft gut", "step 4990 läuft gut"]
    place = found["matches"][1]["offset"]
    assert idle.get(f"/jobs/{job_id}/logs", params={"offset": place}).json()["text"].startswith("step 4990 ")
    more = idle.get(f"/jobs/{job_id}/logs/search", params={"q": "step 499", "offset": found["next_offset"]}).json()
    assert len(found["matches"]) + len(more["matches"]) == 11 and more["next_offset"] is None
    for q in ("LÄUFT", ".*", "nowhere"):
        assert idle.get(f"/jobs/{job_id}/logs/search", params={"q": q}).json() == {"matches": [], "next_offset": None}


def test_a_log_is_filtered_by_level_both_ways(idle: TestClient, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = make(idle)
    folder = home / "jobs" / str(job_id)
    folder.mkdir(parents=True, exist_ok=True)
    kinds = {"info": "", "warning": "", "error": "", "output": ""}
    text = ""
    for n in range(400):
        level = ("info", "output", "warning", "output", "error")[n % 5]
        line = f"printed {n} WARNING\n" if level == "output" else log_lines.line(level, f"Line {n}\nof läuft")
        kinds[level] += line
        text += line
    (folder / "output.log").write_text(text)
    url = f"/jobs/{job_id}/logs"
    lines = text.splitlines(keepends=True)
    levels = {
        "info": [line for line in lines if " WARNING\n" not in line], "error": kinds["error"].splitlines(keepends=True),
        "warning": [line for line in lines if " WARNING Line" in line or " ERROR " in line],
        "output": kinds["output"].splitlines(keepends=True), "": lines,
    }  # fmt: skip
    for looked_at in (logs.FILTERED_BYTES, 300):  # far fewer than there are, so that some calls find nothing
        monkeypatch.setattr(logs, "FILTERED_BYTES", looked_at)
        for level, wanted in levels.items():
            query = {"limit": 200, **({"level": level} if level else {})}
            read, offset = "", 0
            while offset < len(text.encode()):
                chunk = idle.get(url, params={**query, "offset": offset, "whole_lines": True}).json()
                assert chunk["next_offset"] > offset
                read, offset = read + chunk["text"], chunk["next_offset"]
            assert read.splitlines(keepends=True) == wanted
            read, before = "", 2**40
            while before:
                chunk = idle.get(url, params={**query, "before": before}).json()
                assert chunk["offset"] < before
                read, before = chunk["text"] + read, chunk["offset"]
            assert read.splitlines(keepends=True) == wanted
    found = idle.get(f"{url}/search", params={"q": "line 39", "level": "error"}).json()["matches"]
    assert [match["line"].split("Line ")[1].split("\\n")[0] for match in found] == ["39", "394", "399"]
    assert idle.get(url, params={"level": "loud"}).status_code == 422


@given(
    st.lists(st.sampled_from(["ab", "aab", "b", "xaby", "", "AB"]), max_size=40), st.integers(2, 30), st.integers(1, 4)
)
def test_search_finds_every_line_once_however_much_it_reads(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], read: int, limit: int
) -> None:
    path = tmp_path_factory.mktemp("log") / "output.log"
    path.write_text("\n".join(lines))
    found: list[int] = []
    offset: int | None = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logs, "SEARCHED_BYTES", read)
        while offset is not None:
            result = logs.search(path, "ab", offset, limit)
            found += [match.offset for match in result.matches]
            assert result.next_offset is None or result.next_offset > offset
            offset = result.next_offset
    starts = [sum(len(line) + 1 for line in lines[:n]) for n in range(len(lines))]
    assert len({max(s for s in starts if s <= at) for at in found}) == sum("ab" in line.lower() for line in lines)


def test_checksums_of_what_a_job_left(idle: TestClient, home: Path) -> None:
    job_id = make(idle)
    folder = home / "jobs" / str(job_id) / "artifacts" / "model"
    folder.mkdir(parents=True)
    (folder / "weights").write_bytes(b"some")
    url = f"/jobs/{job_id}/artifacts"
    assert idle.get(url).json() == [{"path": "model/weights", "size_bytes": 4, "sha256": None}]
    assert idle.get(url, params={"checksums": True}).json()[0]["sha256"] == hashlib.sha256(b"some").hexdigest()
    (folder / "weights").write_bytes(b"other")
    assert idle.get(url, params={"checksums": True}).json()[0]["sha256"] == hashlib.sha256(b"other").hexdigest()
    assert idle.get("/jobs/99/artifacts").status_code == 404


def test_jobs_of_an_older_database_have_their_curves_in_the_list(tmp_path: Path) -> None:
    """Whatever was recorded before lists showed it is filled in by the migration."""
    from alembic import command
    from alembic.config import Config
    from sqlalchemy import text

    from tunesmith.storage.database import MIGRATIONS, Database

    database = Database(f"sqlite:///{tmp_path / 'old.db'}")
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["engine"] = database.engine
    command.upgrade(config, "0004_models")
    empty = {"hyperparameters", "reasons", "request", "spec", "resources", "metrics"}
    with database.unit_of_work() as session:
        columns = session.execute(text("PRAGMA table_info(jobs)")).all()
        values = {name: "{}" if name in empty else "[]" if kind == "JSON" else "x" if "CHAR" in kind else 0
                  for _, name, kind, needed, *_ in columns if needed and name != "id"}  # fmt: skip
        names = ", ".join(["id", *values])
        session.execute(text(f"INSERT INTO jobs ({names}) VALUES (1, {', '.join(':' + n for n in values)})"), values)
        for n in range(1, 101):
            kind = "evaluation" if n % 50 == 0 else "step"
            body = json.dumps(
                {"loss": 200.0 - n if kind == "evaluation" else float(n), "total_steps": 120, "elapsed_s": n}
            )
            session.execute(
                text("INSERT INTO job_events VALUES (1, :n, :kind, :n, :body)"), {"n": n, "kind": kind, "body": body}
            )
    command.upgrade(config, "head")
    with database.unit_of_work(readonly=True) as session:
        kept = session.execute(
            text("SELECT step, total_steps, loss, best_eval_loss, elapsed_s, sparkline FROM jobs")
        ).one()
    database.close()
    assert tuple(kept[:5]) == (99, 120, 99.0, 100.0, 99.0)
    assert 2 <= len(Sparkline(**json.loads(kept[5])).points) <= SPARKLINE_POINTS
