"""What no handler knew of before it came."""

from __future__ import annotations

import errno
from pathlib import Path

from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import create_engine, text

from tunesmith.http.errors import install_error_handlers


def test_a_full_disk_is_507_wherever_it_shows(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'small.db'}")
    app = FastAPI()
    install_error_handlers(app)

    @app.get("/database")
    def fill_database() -> None:
        with engine.connect() as connection:
            connection.execute(text("CREATE TABLE t (x BLOB)"))
            connection.execute(text("PRAGMA max_page_count = 3"))
            connection.execute(text("INSERT INTO t VALUES (zeroblob(1000000))"))

    @app.get("/file")
    def fill_file() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    @app.get("/defect")
    def defect() -> None:
        raise OSError(errno.EIO, "secret words")

    client = TestClient(app, raise_server_exceptions=False)
    for path in ("/database", "/file"):
        answer = client.get(path)
        assert answer.status_code == 507 and answer.json()["error"] == "disk_full" and answer.json()["hint"]
    answer = client.get("/defect")
    assert answer.status_code == 500 and "secret" not in answer.text
