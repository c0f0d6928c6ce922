"""R7: the machine loses power, and the disk forgets every byte and every name that nobody flushed.

Each test records one run of the product and then takes away the power after every single flush of it: what had been told by
then is there, the rest is there whole or not at all, and the product goes on from it. In `make test` the product is started
at a few of these moments, drawn by chance; with TUNESMITH_SOAK=10 (`make soak`) at each.
"""

from __future__ import annotations

import hashlib
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from tests.accounts.ground import first, with_token
from tests.catalog.ground import make_base
from tests.conftest import REPO, ServerProcess, kill_processes_of, lay_database
from tests.reliability import real_worker
from tests.reliability.ground import TIMES, Ground
from tests.reliability.payload import expected
from tests.reliability.power import Moment, Power
from tests.reliability.recorded import STEPS
from tunesmith.features.accounts.tokens import load_secret, read
from tunesmith.features.datasets import files
from tunesmith.features.datasets.service import upload_size
from tunesmith.features.datasets.tables import DatasetRow, UploadRow
from tunesmith.features.registry.service import find_version
from tunesmith.features.registry.store import Store
from tunesmith.settings import Settings
from tunesmith.storage.database import Database
from tunesmith.worker.checkpoints import damage


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk"
    path.mkdir()
    return path


def some(moments: list[Moment], count: int) -> list[Moment]:
    """So many of them with the last, or all in full counts."""
    if TIMES > 1 or len(moments) <= count:
        return moments
    return [*sorted(random.Random(7).sample(moments[:-1], count - 1), key=lambda one: one.number), moments[-1]]


def last_words(moment: Moment, name: str) -> dict[Any, dict[str, Any]]:
    """What was told last of each thing of that kind."""
    return {words[name]: words for words in moment.told if name in words}


def test_no_step_checkpoint_or_end_that_was_told_is_forgotten(
    make_ground: Callable[..., Ground], disk: Path, tmp_path: Path, record_property: Callable[[str, Any], None]
) -> None:
    """Checkpoints, events, specs, launches and exit records of two jobs with the real worker."""
    lay_database(disk / "home")
    power = Power(disk, tmp_path / "record")
    command = [sys.executable, "-m", "tests.reliability.recorded", "jobs", str(disk / "home")]
    subprocess.run(command, cwd=REPO, env=power.with_environment(), check=True, timeout=120)
    moments = power.moments()
    assert len(moments) > 100 and {words["status"] for words in moments[-1].told} >= {"queued", "running", "completed"}
    for moment in some(moments, 60):
        power.lay(moment, tmp_path / "laid")
        check_jobs(make_ground, tmp_path / "laid" / "home", moment)
    going_on = some(moments, 4)
    for moment in going_on:
        power.lay(moment, tmp_path / "laid")
        ground = make_ground(home=tmp_path / "laid" / "home", worker=real_worker.COMMAND)
        for job_id in last_words(moment, "job"):
            ground.until_ended(job_id, 60)
            ground.check_completed(job_id, STEPS)
        ground.close()
    record_property("figures", f"R7, jobs: {len(some(moments, 60))} losses of power, {len(going_on)} gone on from")


def check_jobs(make_ground: Callable[..., Ground], home: Path, moment: Moment) -> None:
    ground = make_ground(home=home, worker=real_worker.COMMAND)
    for job_id, words in last_words(moment, "job").items():
        job, where = ground.job(job_id), f"record {moment.number}, {words}"
        assert job.last_seq >= words["seq"], f"an event is forgotten: {where}"
        whole = [path for path in ground.dir(job_id).complete_checkpoints() if damage(path) is None]
        steps = [int(path.name.removeprefix("step-")) for path in whole]
        assert max(steps, default=0) >= words["checkpoint"], f"a checkpoint is forgotten: {where}"
        if words["status"] == "completed":
            assert job.status == "completed", where
            assert (ground.dir(job_id).artifacts / "model" / "sum").read_text() == expected(STEPS), where
    ground.close()


class RecordedServer(ServerProcess):
    """A server on a disk that forgets."""

    power: Power
    program = "server"

    def launch(self) -> None:
        command = [sys.executable, "-m", "tests.reliability.recorded", self.program, str(self.home), str(self.port)]
        self.env = self.power.with_environment(**self.env)
        with (self.power.record / "server.log").open("ab") as log:
            self.process = subprocess.Popen(command, cwd=REPO, env=self.env, stdout=log, stderr=log)

    def log(self) -> str:
        return (self.power.record / "server.log").read_text(errors="replace")


@pytest.mark.parametrize("program", ["server", "old_sqlite_server"])
def test_nothing_that_was_acknowledged_over_http_is_forgotten(
    disk: Path, tmp_path: Path, program: str, record_property: Callable[[str, Any], None]
) -> None:
    """From the first start on an empty disk: the key, the account, settings, uploads in one piece and in parts, datasets, and
    versions in the registry, with SQLite's two kinds of journal."""
    models = disk / "models"
    make_base(models / "tiny")
    server = RecordedServer(disk / "home", {"TUNESMITH_AUTH": "on", "TUNESMITH_MODEL_DIRS": f'["{models}"]'})
    server.power, server.program = Power(disk, tmp_path / "record"), program
    try:
        server.start()
        use(server)
    finally:
        server.stop()
        server.client.close()
    moments = server.power.moments()
    assert len(moments) > 60
    for moment in some(moments, 40):
        server.power.lay(moment, tmp_path / "laid")
        check_home(tmp_path / "laid" / "home", moment)
    starts = some(moments, 2)
    for moment in starts:
        server.power.lay(moment, tmp_path / "laid")
        check_started(ServerProcess(tmp_path / "laid" / "home", {"TUNESMITH_AUTH": "on"}), moment)
    figures = f"R7, {program}: {len(some(moments, 40))} losses of power, {len(starts)} starts after one"
    record_property("figures", figures)


def use(server: RecordedServer) -> None:
    """What people do, with what they are told."""
    told = server.power.told
    ada = first(server)
    told(account="ada", token=ada.access)
    ada.client.patch("/system/settings", json={"cpu_slots": 7}).raise_for_status()
    told(setting=7)
    rows = b'{"input": "question", "output": "answer"}\n' * 2000
    digest = hashlib.sha256(rows).hexdigest()
    put = ada.client.put("/datasets/upload", params={"file_name": "x.jsonl"}, content=rows)
    told(dataset=put.json()["id"], sha256=digest, rows=None)
    upload = ada.client.post("/datasets/uploads", json={"name": "y.jsonl", "size_bytes": len(rows)}).json()["id"]
    told(upload=upload, offset=0)
    for offset in range(0, len(rows), 30_000):
        part = rows[offset : offset + 30_000]
        ada.client.patch(f"/datasets/uploads/{upload}", params={"offset": offset}, content=part).raise_for_status()
        told(upload=upload, offset=offset + len(part))
    told(upload=upload, offset=len(rows), becomes=digest)
    made = ada.client.post(f"/datasets/uploads/{upload}/commit", json={"sha256": digest}).json()["id"]
    told(dataset=made, sha256=digest, rows=None, upload=upload, offset=None)
    for number in (put.json()["id"], made):
        path = f"/datasets/{number}"
        until(lambda path=path: ada.client.get(path).json()["status"] == "ready")  # type: ignore[misc]
        told(dataset=number, sha256=digest, rows=2000)
    for bump in ("minor", "major"):
        body = {"path": str(server.home.parent / "models" / "tiny"), "name": "bot", "bump": bump}
        version = ada.client.post("/registry/import", json=body)
        assert version.status_code == 201, version.text
        told(version=version.json()["ref"])
    ada.client.delete(f"/datasets/{made}").raise_for_status()
    told(dataset=made, sha256=None, rows=None)


def until(check: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 60
    while not check():
        assert time.monotonic() < deadline_s
        time.sleep(0.1)


def check_home(home: Path, moment: Moment) -> None:
    """All that had been told, read without a server."""
    where = f"after record {moment.number}"
    if not moment.told:
        return
    for token in last_words(moment, "token"):
        assert read(load_secret(home, None), "access", token), where
    settings = Settings(home=home)
    assert settings.cpu_slots in last_words(moment, "setting") or not last_words(moment, "setting"), where
    database = Database(settings.sqlalchemy_url)
    with database.unit_of_work(readonly=True) as session:
        assert session.scalar(text("PRAGMA integrity_check")) == "ok", where
        for number, words in last_words(moment, "dataset").items():
            row, original = session.get(DatasetRow, number), files.original_path(settings, number)
            if words["sha256"]:
                assert row and hashlib.sha256(original.read_bytes()).hexdigest() == words["sha256"], where
            if words["rows"] and row:
                assert (row.status, row.num_rows) == ("ready", words["rows"]), where
                data = files.version_dir(settings, number, row.version or "") / "data.parquet"
                assert parquet.read_metadata(data).num_rows == words["rows"], where
            if words["sha256"] is None:
                assert row is None, f"it was deleted, {where}"
        for number, words in last_words(moment, "upload").items():
            if words["offset"] is not None:
                if session.get(UploadRow, number):
                    assert upload_size(settings, number) >= words["offset"], where
                else:
                    assert words.get("becomes") in originals(session, settings), where
        for ref in last_words(moment, "version"):
            version = find_version(session, ref)
            assert Store(settings).damage(version.id, version.files, fresh=True) == [], where
    database.close()


def originals(session: Session, settings: Settings) -> set[str]:
    """What the files of all datasets are, as SHA-256."""
    numbers = session.scalars(select(DatasetRow.id))
    return {hashlib.sha256(files.original_path(settings, number).read_bytes()).hexdigest() for number in numbers}


def check_started(server: ServerProcess, moment: Moment) -> None:
    """The product starts on what is left and makes the rest of it: every dataset that is there becomes ready."""
    try:
        server.start()
        if not (tokens := list(last_words(moment, "token"))):
            return
        client = with_token(server, tokens[0])
        for number in [item["id"] for item in client.get("/datasets/").json()["items"]]:
            path = f"/datasets/{number}"
            until(lambda path=path: client.get(path).json()["status"] == "ready")  # type: ignore[misc]
            assert client.get(path).json()["num_rows"] == 2000
        assert client.post("/registry/verify", json={"refs": []}).status_code == 200
        assert client.get("/audit/verify").json()["ok"] is True
    finally:
        server.stop()
        server.client.close()
        kill_processes_of(server.home)
