"""The overview, resources over time, processes, storage with its clean-ups, and settings that change while the server runs."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.cli.command import tunesmith
from tests.conftest import ServerProcess, kill_processes_of, lay_database
from tests.jobs.conftest import custom, wait_until
from tunesmith.app import create_app
from tunesmith.core.clock import utc_now
from tunesmith.core.job_dir import JobDir
from tunesmith.features.datasets.tables import UploadRow
from tunesmith.features.jobs.tables import JobRow
from tunesmith.features.monitoring import overview, preferences, sampler
from tunesmith.features.monitoring.repository import Monitored
from tunesmith.live.bus import Bus
from tunesmith.settings import Settings, is_in_environment

GB = 1024**3


@pytest.fixture
def client(tmp_path: Path, database_url: str | None) -> Iterator[TestClient]:
    """The whole application, which starts no job."""
    settings = Settings(home=tmp_path / "home", database_url=database_url, cpu_slots=0, hub_offline=True)
    if database_url is None:
        lay_database(settings.home)
    with TestClient(create_app(settings), client=("127.0.0.1", 1), base_url="http://localhost/api/v1") as client:
        yield client


def add_job(client: TestClient, job_id: int, status: str, **fields: Any) -> None:
    now = utc_now()
    row: dict[str, Any] = {
        "id": job_id, "name": f"job {job_id}", "method": "lora", "hyperparameters": {}, "reasons": {}, "request": {}, "spec": {},
        "resources": {}, "tags": [], "output_name": f"out-{job_id}", "status": status, "created_at": now, "queued_at": now,
    }  # fmt: skip
    with client.app.state.tunesmith.database.unit_of_work() as session:  # type: ignore[attr-defined]
        session.add(JobRow(**{**row, **fields}))


def test_the_overview_counts_and_says_what_needs_attention(client: TestClient) -> None:
    now = utc_now()
    add_job(client, 1, "completed", created_at=now - timedelta(days=2))
    add_job(client, 2, "failed", ended_at=now, status_reason="The GPU ran out of memory.", hint="Use a smaller batch.")
    add_job(client, 3, "failed", ended_at=now - timedelta(days=30), created_at=now - timedelta(days=31))
    spark = {"every": 1, "seen": 3, "points": [[1, 3.0], [2, 2.0], [3, 1.5]]}
    add_job(client, 4, "running", step=30, total_steps=120, loss=1.5, sparkline=spark)
    add_job(client, 5, "queued", queued_at=now - timedelta(hours=3))
    found = client.get("/system/overview").json()
    assert found["jobs"] == {"completed": 1, "failed": 2, "running": 1, "queued": 1} and found["datasets"] == {}
    assert len(found["activity"]) == overview.DAYS and found["models"]["tuned"] == 0
    assert sum(day["completed"] for day in found["activity"]) == 1 and found["activity"][-3]["completed"] == 1
    assert found["activity"][-1] == {**found["activity"][-1], "failed": 1, "open": 1, "waiting": 1}
    assert found["running"][0]["progress"] == 0.25 and found["running"][0]["sparkline"] == [3.0, 2.0, 1.5]
    assert found["queue"][0]["job_id"] == 5 and found["queue"][0]["waiting_for"]
    attention = {(item["kind"], item["id"]): item for item in found["attention"]}
    assert attention["job_failed", 2]["hint"] == "Use a smaller batch." and ("job_failed", 3) not in attention
    assert ("job_waiting", 5) in attention

    path = client.app.state.tunesmith.settings.home / "bad.parquet"  # type: ignore[attr-defined]
    path.write_bytes(b"PAR1 and no more")
    made = client.put("/datasets/upload", params={"file_name": "bad.parquet"}, content=path.read_bytes()).json()
    until(lambda: client.get(f"/datasets/{made['id']}").json()["status"] == "failed")
    kinds = [(item["kind"], item["message"] != "") for item in client.get("/system/overview").json()["attention"]]
    assert ("dataset_failed", True) in kinds


def test_days_are_those_of_the_time_zone(client: TestClient) -> None:
    from datetime import datetime, timezone

    east = timezone(timedelta(hours=9))
    add_job(client, 1, "completed", created_at=datetime(2026, 3, 1, 20, 0, tzinfo=timezone.utc))  # noqa: UP017
    with client.app.state.tunesmith.database.unit_of_work(readonly=True) as session:  # type: ignore[attr-defined]
        days = overview.activity(Monitored(session), datetime(2026, 3, 5, 12, 0, tzinfo=east))
    assert {str(day.day): day.completed for day in days if day.completed} == {"2026-03-02": 1}
    assert str(days[0].day) == "2026-02-04" and str(days[-1].day) == "2026-03-05"


def until(check: Any, timeout_s: float = 30) -> None:
    deadline = time.monotonic() + timeout_s
    while not check():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.05)


def sample(at_s: float, cpu: float, gpu: float | None = None) -> sampler.Sample:
    gpus = [sampler.GpuSample(0, "H200", gpu, 5, 10, 40.0, 200.0)] if gpu is not None else []
    return sampler.Sample(at_s, cpu, 100, 200, 1.0, 2.0, 3.0, 4.0, gpus)


def test_samples_outlive_the_server_and_half_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampler, "EVERY_S", 0.05)
    settings = Settings(home=tmp_path)
    first = sampler.Sampler(settings, Bus())
    first.start()
    until(lambda: len(first.since()) >= 3)
    first.stop()
    kept = first.since()
    with first.file.open("a") as file:
        file.write('[1.0, 2.0, "half a li')
    second = sampler.Sampler(settings, Bus())
    second.start()
    until(lambda: len(second.since()) > len(kept))
    second.stop()
    assert second.since()[: len(kept)] == kept and second.since(kept[-1].at_s)[0].at_s > kept[-1].at_s
    third = sampler.Sampler(settings, Bus())
    third._load()
    assert len(third.since()) == len(second.since()), "what was written after the half line can be read"


def test_many_samples_are_thinned_to_means_with_gaps_left() -> None:
    samples = [sample(float(n), 10.0 if n % 2 else 30.0, gpu=50.0 if n < 500 else None) for n in range(1000)]
    samples += [sample(9000.0 + n, 100.0) for n in range(10)]
    found = sampler.thinned(samples, 100)
    assert len(found) <= 100 and sampler.thinned(samples[:50], 100) == samples[:50]
    assert abs(found[0].cpu_percent - 20.0) < 0.5 and found[-1].cpu_percent == 100.0 and found[-1].gpus == []
    assert found[0].gpus[0].utilization_percent == 50.0
    assert not [s for s in found if 1100 < s.at_s < 8900], "nothing is made up where the server was off"


def test_resources_are_told_over_time_and_live(sqlite_server: ServerProcess) -> None:
    shown = sqlite_server.wait_for("/system/resources/history", lambda found: len(found["times"]) >= 1, 30)
    columns = [name for name, value in shown.items() if isinstance(value, list) and name != "gpus"]
    assert len(columns) == 8 and {len(shown[name]) for name in columns} == {len(shown["times"])}
    assert 0 < shown["memory_used_bytes"][0] < shown["memory_total_bytes"] and shown["disk_used_bytes"][0] > 0
    later = {"since": shown["times"][-1]}
    assert sqlite_server.client.get("/system/resources/history", params=later).json()["times"] in (
        [],
        [later["since"] + 5],
    )
    with sqlite_server.client.stream("GET", "/system/resources/stream", params={"since": 0}) as answer:
        data = next(line for line in answer.iter_lines() if line.startswith("data: "))
    assert json.loads(data.removeprefix("data: "))["times"][0] == shown["times"][0]


def test_processes_are_those_of_tunesmith(sqlite_server: ServerProcess) -> None:
    assert sqlite_server.process
    found = sqlite_server.client.get("/system/processes").json()
    assert [(p["pid"], p["kind"]) for p in found] == [(sqlite_server.process.pid, "server")]
    assert found[0]["memory_bytes"] > 1e7 and found[0]["cpu_percent"] >= 0


def make_checkpoint(folder: JobDir, step: int, size: int = 1000) -> Path:
    path = folder.checkpoints / f"step-{step:06d}"
    path.mkdir(parents=True)
    (path / "weights").write_bytes(b"x" * size)
    (path / "complete.json").write_text("{}")
    return path


def test_old_checkpoints_go_and_those_that_are_needed_stay(client: TestClient) -> None:
    jobs_dir = client.app.state.tunesmith.settings.jobs_dir  # type: ignore[attr-defined]
    add_job(client, 1, "completed")
    add_job(client, 2, "running", launch={"attempt": 1})
    add_job(client, 3, "paused")
    for job_id in (1, 2, 3, 77):  # 77 is nobody's: it is left alone
        for step in (10, 20, 30):
            make_checkpoint(JobDir(jobs_dir / str(job_id)), step)
    shown = client.get("/system/storage/cleanups/checkpoints").json()
    assert shown["num_items"] == 2 and shown["frees_bytes"] >= 2000 and not shown["why_not"]
    assert {item["what"] for item in shown["items"]} == {"Job 1, step 10", "Job 1, step 20"}
    done = client.post("/system/storage/cleanups/checkpoints").json()
    assert (done["num_items"], done["freed_bytes"]) == (2, shown["frees_bytes"])
    left = {job: sorted(os.listdir(jobs_dir / job / "checkpoints")) for job in ("1", "2", "3", "77")}
    assert left["1"] == ["step-000030"] and {len(left[job]) for job in ("2", "3", "77")} == {3}
    assert client.get("/system/storage/cleanups/checkpoints").json()["num_items"] == 0


def test_caches_in_use_are_not_touched_and_uploads_only_when_abandoned(client: TestClient) -> None:
    state = client.app.state.tunesmith  # type: ignore[attr-defined]
    tokens = state.settings.cache_dir / "tokens" / "abc"
    tokens.mkdir(parents=True)
    (tokens / "rows").write_bytes(b"x" * 5000)
    add_job(client, 2, "running", launch={"attempt": 1})
    assert "job 2" in client.get("/system/storage/cleanups/caches").json()["why_not"]
    refused = client.post("/system/storage/cleanups/caches")
    assert refused.status_code == 409 and refused.json()["hint"] and tokens.is_dir()
    with state.database.unit_of_work() as session:
        session.get(JobRow, 2).launch = None
    assert client.post("/system/storage/cleanups/caches").json()["freed_bytes"] == 5000 and not tokens.exists()

    begun = [client.post("/datasets/uploads", json={"name": f"{n}.csv", "size_bytes": 10}).json()["id"] for n in (1, 2)]
    old = state.settings.uploads_dir / f"{begun[0]}.resumable"
    os.utime(old, (time.time() - 2 * 24 * 3600,) * 2)
    assert client.post("/system/storage/cleanups/uploads").json()["num_items"] == 1
    assert not old.exists() and (state.settings.uploads_dir / f"{begun[1]}.resumable").exists()
    with state.database.unit_of_work(readonly=True) as session:
        assert session.get(UploadRow, begun[0]) is None and session.get(UploadRow, begun[1]) is not None
    missing = client.post("/system/storage/cleanups/everything")
    assert missing.status_code == 404 and "checkpoints" in missing.json()["hint"]


def test_storage_is_counted_by_kind(client: TestClient) -> None:
    settings = client.app.state.tunesmith.settings  # type: ignore[attr-defined]
    add_job(client, 1, "completed")
    folder = JobDir(settings.jobs_dir / "1")
    make_checkpoint(folder, 1, 3000)
    make_checkpoint(folder, 2, 3000)
    folder.artifacts.mkdir()
    (folder.artifacts / "model.safetensors").write_bytes(b"x" * 7000)
    folder.log.write_bytes(b"x" * 500)
    (settings.home / "notes.txt").write_bytes(b"x" * 900)
    client.get("/system/storage")
    until(lambda: client.get("/system/storage").json()["counted_at"])
    found = client.get("/system/storage").json()
    sizes = {kind["name"]: kind["size_bytes"] for kind in found["kinds"]}
    assert sizes["checkpoints"] == 6004 and sizes["results"] == 7000 and sizes["logs"] == 500
    assert sizes["other"] >= 900 and found["disk_free_bytes"] > 0
    frees = {cleanup["name"]: cleanup["frees_bytes"] for cleanup in found["cleanups"]}
    assert frees["checkpoints"] == 3002 and frees["uploads"] == 0


def test_settings_change_at_once_and_are_kept(
    client: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = client.app.state.tunesmith  # type: ignore[attr-defined]
    changes = {"cpu_slots": 3, "serving_idle_s": 60, "max_upload_bytes": 10, "theme": "dark"}
    answer = client.patch("/system/settings", json=changes)
    assert answer.status_code == 200, answer.text
    shown = {item["name"]: item for item in answer.json()}
    assert (
        shown["cpu_slots"]["value"] == 3
        and shown["cpu_slots"]["source"] == "saved"
        and shown["cpu_slots"]["changeable"]
    )
    assert shown["port"]["group"] == "server" and not shown["port"]["changeable"] and shown["port"]["meaning"]
    assert state.serving.idle_s == 60 and state.settings.max_upload_bytes == 10
    too_large = client.put("/datasets/upload", params={"file_name": "x.csv"}, content=b"a,b\n1,2\n3,4\n5,6\n")
    assert too_large.status_code == 413
    assert Settings(home=tmp_path / "home").cpu_slots == 3, "the next server has it too"
    client.patch("/system/settings", json={"cpu_slots": None})
    assert Settings(home=tmp_path / "home").cpu_slots == 1 and state.settings.cpu_slots == 1
    assert state.settings.saved_path.stat().st_mode & 0o777 == 0o600

    monkeypatch.setenv("TUNESMITH_CPU_SLOTS", "7")
    assert is_in_environment("cpu_slots") and Settings(home=tmp_path / "home").cpu_slots == 7
    refused = client.patch("/system/settings", json={"cpu_slots": 2, "theme": "light"})
    assert refused.status_code == 409 and "TUNESMITH_CPU_SLOTS" in refused.json()["message"]
    assert state.settings.theme == "dark", "all or nothing"


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"cpu_slots": -1}, "cpu_slots"),
        ({"off_peak": "9 to 5"}, "off_peak"),
        ({"port": 1}, "port"),
        ({"default_method": "magic"}, "default_method"),
        ({"default_model": "../x"}, "default_model"),
        ({"output_dir": "relative/path"}, "output_dir"),
        ({"output_dir": "/proc/nothing"}, "output_dir"),
    ],
)
def test_settings_that_cannot_be_are_refused_by_name(tmp_path: Path, changes: dict[str, Any], place: str) -> None:
    lay_database(tmp_path / "h")
    with TestClient(
        create_app(Settings(home=tmp_path / "h")), client=("127.0.0.1", 1), base_url="http://localhost/api/v1"
    ) as client:
        answer = client.patch("/system/settings", json=changes)
        assert answer.status_code == 422 and [detail["loc"] for detail in answer.json()["details"]] == [place]
        assert not (tmp_path / "h" / "settings.json").exists()


def test_a_folder_is_tried_by_writing(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home")
    settings.make_dirs()
    found = preferences.test_directory(settings, str(tmp_path / "new" / "er"))
    assert not found.exists and found.free_bytes > 0 and not (tmp_path / "new").exists()
    assert preferences.test_directory(settings).exists
    (tmp_path / "file").touch()
    before = sorted(tmp_path.iterdir())
    for path in (str(tmp_path / "file"), str(settings.datasets_dir), "here", "/proc", "/" + "x" * 300):
        with pytest.raises(preferences.InvalidInput) as refused:
            preferences.test_directory(settings, path)
        assert refused.value.details[0]["loc"] == "path" and refused.value.hint, path
    assert sorted(tmp_path.iterdir()) == before


def test_new_jobs_go_to_the_output_folder_and_leave_it_when_deleted(tmp_path: Path) -> None:
    home, output = tmp_path / "home", tmp_path / "models"
    settings = Settings(home=home, custom_scripts=True, hub_offline=True, warm_workers=False)
    try:
        with TestClient(create_app(settings), client=("127.0.0.1", 1), base_url="http://localhost/api/v1") as client:
            first = client.post("/jobs/", json=custom(steps=2, name="my model")).json()["id"]
            wait_until(client, first, "completed")
            assert client.patch("/system/settings", json={"output_dir": str(output)}).status_code == 200
            (output / "my-model-2").mkdir()
            second = client.post("/jobs/", json=custom(steps=2, name="my model")).json()["id"]
            wait_until(client, second, "completed")
            assert sorted(os.listdir(output)) == ["my-model-2", "my-model-2-2"], "nobody else's folder is taken"
            assert (output / "my-model-2-2" / "exit.json").is_file() and not (home / "jobs" / str(first)).is_symlink()
            assert (
                client.get(f"/jobs/{second}/artifacts").json() and client.get(f"/jobs/{second}/logs").status_code == 200
            )
            assert client.delete(f"/jobs/{second}").status_code == 204
            assert sorted(os.listdir(output)) == ["my-model-2"] and os.listdir(home / "jobs") == [str(first)]

            output.rename(tmp_path / "unplugged")
            third = client.post("/jobs/", json=custom(steps=2)).json()["id"]
            failed = wait_until(client, third, "failed")
            assert str(output) in failed["message"] and "resume" in failed["hint"]
            (tmp_path / "unplugged").rename(output)
            client.post(f"/jobs/{third}/resume")
            wait_until(client, third, "completed")
    finally:
        kill_processes_of(home)


def test_keys_are_told_and_never_shown(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "s3cret")
    monkeypatch.delenv("MLFLOW_TRACKING_TOKEN", raising=False)
    answer = client.get("/system/keys")
    found = {key["name"]: key for key in answer.json()}
    assert found["Weights & Biases"]["is_set"] and "WANDB_API_KEY" in found["Weights & Biases"]["source"]
    assert not found["MLflow token"]["is_set"] and "s3cret" not in answer.text


def test_the_command_line_tells_and_changes_the_same(sqlite_server: ServerProcess, tmp_path: Path) -> None:
    def say(*words: str, code: int = 0) -> str:
        done = tunesmith(tmp_path, "system", *words, TUNESMITH_URL=sqlite_server.url)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    assert "memory" in say("status") and "Pages, API and scheduler" in say("processes")
    assert "Checkpoints" in say("storage") and "freed" in say("clean", "leftovers", "--yes")
    assert "max_rows is 1000." in say("set", "max_rows", "1000") and "such as 22:00" in say(
        "set", "off_peak", "late", code=2
    )
    shown = {item["name"]: item for item in json.loads(say("settings", "--json"))}
    assert shown["max_rows"]["value"] == 1000 and shown["max_rows"]["source"] == "saved"
    assert "checkpoints" in say("clean", "everything", code=4)
