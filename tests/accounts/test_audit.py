"""The audit log: complete, readable by administrators alone, and impossible to change unnoticed."""

from __future__ import annotations

import csv
import io
import json
import os
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import event, insert

from tests.accounts.ground import another, dataset, first, with_token
from tests.conftest import ServerProcess, migrated_file
from tunesmith.core.acting import LOCAL, Act, acting
from tunesmith.core.clock import utc_now
from tunesmith.features.audit.repository import PART
from tunesmith.features.audit.service import AuditLog
from tunesmith.features.audit.tables import AuditRow
from tunesmith.storage.database import Database

Start = Callable[..., ServerProcess]
SOAK = int(os.environ.get("TUNESMITH_SOAK", "1"))


def test_every_change_is_told_with_who_what_and_from_where(start_server: Start, database_url: str | None) -> None:
    server = start_server(TUNESMITH_AUTH="on", **({"TUNESMITH_DATABASE_URL": database_url} if database_url else {}))
    ada = first(server)
    bob = another(server, ada, "bob")
    made = dataset(bob)
    bob.client.patch(f"/datasets/{made}", json={"description": "a secret of the company"})
    bob.client.delete(f"/users/{ada.user_id}")
    with_token(server, None).post("/auth/login", json={"username": "bob", "password": "hunter2 hunter2"})
    key_id, key = bob.key("train")
    with_token(server, key).delete(f"/datasets/{made}")
    bob.client.post("/jobs/", json={"model": "nothing/here", "dataset_id": 99})
    assert bob.client.get("/audit/").status_code == 403

    lines = ada.client.get("/audit/", params={"limit": 100}).json()["items"][::-1]
    told = [(line["username"], line["action"], line["objects"], line["result"]) for line in lines]
    assert told == [
        ("ada", "register", ["user 1"], "done"),
        ("ada", "login", ["user ada"], "done"),
        ("ada", "create_user", ["user 2"], "done"),
        ("bob", "login", ["user bob"], "done"),
        ("bob", "upload_raw", [f"dataset {made}"], "done"),
        ("bob", "update_dataset", [f"dataset {made}"], "done"),
        ("bob", "delete_user", ["user 1"], "refused"),
        ("anonymous", "login", ["user bob"], "refused"),
        ("bob", "create_key", [f"api key {key_id}"], "done"),
        ("bob", "delete_dataset", [f"dataset {made}"], "done"),
        ("bob", "create_job", [], "refused"),
    ]
    assert lines[9]["via"] == "key" and lines[9]["credential"] == str(key_id) and lines[9]["address"] == "127.0.0.1"
    whole = json.dumps(lines)
    assert not any(secret in whole for secret in ("secret of the company", "hunter2", key, "nothing/here", "numbers"))

    bobs = ada.client.get(
        "/audit/", params={"username": "bob", "result": "done", "about": "dataset", "limit": 2}
    ).json()
    assert len(bobs["items"]) == 2 and bobs["next_cursor"]
    rest = ada.client.get(
        "/audit/", params={"username": "bob", "result": "done", "about": "dataset", "cursor": bobs["next_cursor"]}
    )
    assert [line["action"] for line in rest.json()["items"]] == ["upload_raw"]
    rows = list(csv.DictReader(io.StringIO(ada.client.get("/audit/export", params={"format": "csv"}).text)))
    assert [row["action"] for row in rows] == [line["action"] for line in lines]
    jsonl = ada.client.get("/audit/export").text.splitlines()
    assert [json.loads(line)["seq"] for line in jsonl] == list(range(1, len(lines) + 1))
    assert ada.client.get("/audit/verify").json()["ok"] is True


def test_a_change_and_its_line_are_one(start_server: Start) -> None:
    """A server that is killed at any moment has both, or neither."""
    server = start_server(TUNESMITH_AUTH="on")
    ada = first(server)
    with ThreadPoolExecutor(4) as pool:
        sent = [pool.submit(ada.client.post, "/models/collection", json={"name": f"a/m{n}"}) for n in range(200)]
        sent[20].result()
        server.kill()
    server.start()
    names = ada.client.get("/models/collection", params={"limit": 500}).json()["items"]
    lines = ada.client.get("/audit/", params={"action": "collect_model", "result": "done", "limit": 500}).json()[
        "items"
    ]
    assert len(names) >= 15  # those that were under way may be gone
    assert sorted(line["objects"][0] for line in lines) == sorted(
        f"model in the collection {item['id']}" for item in names
    )
    assert ada.client.get("/audit/verify").json()["ok"] is True


def log_of(database: Database, home: Path) -> AuditLog:
    log = AuditLog(database, home, b"k" * 32)
    database.before_commit = log.before_commit
    return log


@pytest.fixture
def log(tmp_path: Path, database_url: str | None) -> AuditLog:
    database = Database(
        f"sqlite:///{tmp_path}/a.db"
        if database_url is None
        else database_url.replace("postgresql:", "postgresql+psycopg:")
    )
    if database_url is None:
        (tmp_path / "a.db").write_bytes(migrated_file())
    return log_of(database, tmp_path)


def write(log: AuditLog, number: int) -> None:
    with acting(Act(LOCAL, action="try", objects=[f"thing {number}"])), log.database.unit_of_work():
        pass


def test_ten_thousand_at_once_are_one_chain(log: AuditLog) -> None:
    """A tenth of them in `make test`."""
    count = 1000 * SOAK
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda number: write(log, number), range(count)))
    found = log.verify()
    assert found.ok and found.entries == count


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("UPDATE audit_log SET username = 'localx' WHERE seq = 7", 7),
        ("UPDATE audit_log SET objects = '[\"thing 8\"]' WHERE seq = 7", 7),
        (
            "UPDATE audit_log SET hash = replace(hash, substr(hash, 1, 1), 'f') WHERE seq = 7 AND hash NOT LIKE 'f%'",
            None,
        ),
        ("DELETE FROM audit_log WHERE seq = 7", 7),
        ("DELETE FROM audit_log WHERE seq > 17", 18),
        ("DELETE FROM audit_log", 1),
        ("UPDATE audit_log SET at = datetime(at, '+1 second') WHERE seq = 20", 20),
        ("UPDATE audit_log SET user_id = 0 WHERE seq = 1", 1),
    ],
)
def test_a_changed_or_missing_line_is_found(tmp_path: Path, change: str, told: int | None) -> None:
    (tmp_path / "a.db").write_bytes(migrated_file())
    database = Database(f"sqlite:///{tmp_path}/a.db")
    log = log_of(database, tmp_path)
    for number in range(20):
        write(log, number)
    assert log.verify().ok
    with sqlite3.connect(tmp_path / "a.db") as direct:
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            direct.execute(change)
        for name in ("update", "delete"):
            direct.execute(f"DROP TRIGGER audit_log_no_{name}")  # what somebody with the file can do
        changed = direct.execute(change).rowcount
    found = log.verify()
    assert found.ok is (changed == 0)
    if told and changed:
        assert found.broken_at == told


def test_one_byte_in_the_file_is_found(tmp_path: Path) -> None:
    (tmp_path / "a.db").write_bytes(migrated_file())
    database = Database(f"sqlite:///{tmp_path}/a.db")
    log = log_of(database, tmp_path)
    for number in range(20):
        write(log, number)
    with database.unit_of_work() as session:
        session.connection().exec_driver_sql("COMMIT")
        session.connection().exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        session.connection().exec_driver_sql("BEGIN")
    database.close()
    data = bytearray((tmp_path / "a.db").read_bytes())
    place = data.index(b"thing 11")
    data[place + 7] = ord("2")
    (tmp_path / "a.db").write_bytes(data)
    again = log_of(Database(f"sqlite:///{tmp_path}/a.db"), tmp_path)
    found = again.verify()
    assert not found.ok and found.broken_at == 12 and "not as it was written" in found.message


def test_another_key_cannot_write_a_line_that_fits(tmp_path: Path) -> None:
    """Who can write the database but not read the server's secret cannot go on with the chain."""
    (tmp_path / "a.db").write_bytes(migrated_file())
    database = Database(f"sqlite:///{tmp_path}/a.db")
    log = log_of(database, tmp_path)
    write(log, 1)
    forger = AuditLog(database, tmp_path, b"x" * 32)
    database.before_commit = forger.before_commit
    write(forger, 2)
    assert log.verify().broken_at == 2


def test_the_export_holds_one_part_at_a_time(tmp_path: Path) -> None:
    """However long the log is: each piece is one part of it, made when it is asked for."""
    (tmp_path / "tunesmith.db").write_bytes(migrated_file())
    database = Database(f"sqlite:///{tmp_path}/tunesmith.db")
    count, read = 12_345, list[int]()
    line = {
        "at": utc_now(), "user_id": 1, "username": "ada", "via": "key", "credential": "7", "action": "delete_job",
        "objects": ["job 7"], "address": "127.0.0.1", "result": "done", "status": 204, "hash": "0" * 64,
    }  # fmt: skip
    with database.unit_of_work() as session:
        session.execute(insert(AuditRow), [{"seq": seq, **line} for seq in range(1, count + 1)])
    log = AuditLog(database, tmp_path, b"k" * 32)
    event.listen(AuditRow, "load", lambda row, _context: read.append(row.seq))
    for form, extra in (("jsonl", 0), ("csv", 1)):
        read.clear()
        sizes = []
        for piece in log.export(form):
            sizes.append(piece.count("\n"))
            assert len(read) <= sum(sizes) <= len(read) + extra, "nothing is read ahead"
        assert sum(sizes) == count + extra and max(sizes) == PART
    first = next(log.export("jsonl"))
    assert json.loads(first.splitlines()[0])["seq"] == 1
    database.close()
