"""Secrets of the server's environment reach nobody: no log, no answer, no file, no command line; and no port is open unsaid."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.conftest import CommandServer, ServerProcess
from tests.security.ground import TIMES, raw, serving
from tests.tiny import make_tiny_model

CANARIES = {
    "HF_TOKEN": "hf_CANARYtoken5Q9xVb2LkR7s", "WANDB_API_KEY": "wandbCANARY77c1f0a9e4d2", "AWS_SECRET_ACCESS_KEY": "awsCANARY/8h3kd+02mfJ",
    "AWS_SESSION_TOKEN": "sessCANARY41bd", "MLFLOW_TRACKING_TOKEN": "mlflowCANARY5d2e", "OPENAI_API_KEY": "openaiCANARY9b1c",
    "PGPASSWORD": "pgCANARY3f8a", "SECRET_KEY": "flaskCANARY6e7d", "TUNESMITH_UNKNOWN_SECRET": "ownCANARY2c4b",
}  # fmt: skip
PASSWORD = "dbCANARY0a9f"
COOKIE = "cookieCANARY1d3e"
ROWS = b'{"question": "why", "answer": "so"}\n' * 20


@pytest.fixture(scope="module")
def database_with_password(postgres_server: str) -> Iterator[str]:
    """A database of a user whose password is a canary."""
    import psycopg
    from psycopg.conninfo import conninfo_to_dict

    user = f"canary{os.getpid()}"
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {user} LOGIN PASSWORD '{PASSWORD}'")
        connection.execute(f"CREATE DATABASE {user} OWNER {user}")
    about = conninfo_to_dict(postgres_server)
    if str(about.get("host", "")).startswith("/"):
        yield f"postgresql://{user}:{PASSWORD}@/{user}?host={about['host']}"
    else:
        yield f"postgresql://{user}:{PASSWORD}@{about['host']}:{about.get('port', 5432)}/{user}"
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {user} WITH (FORCE)")
        connection.execute(f"DROP ROLE {user}")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, database_with_password: str) -> Iterator[ServerProcess]:
    home = tmp_path_factory.mktemp("secrets") / "home"
    make_tiny_model(home / "models" / "tiny")
    settings = {**CANARIES, "TUNESMITH_DATABASE_URL": database_with_password, "TUNESMITH_LOG_LEVEL": "DEBUG", "HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled"}  # fmt: skip
    with serving(home, CommandServer, **settings) as server:
        yield server


def of_the_server(server: ServerProcess) -> list[psutil.Process]:
    """The server and everything that it has started, children that left its session included."""
    assert server.process
    found = []
    for process in psutil.process_iter():
        try:
            mine = process.environ().get("TUNESMITH_HOME") == str(server.home) or str(server.home) in " ".join(
                process.cmdline()
            )
            if process.pid == server.process.pid or mine:
                found.append(process)
        except psutil.Error:
            continue
    return found


def all_canaries() -> list[bytes]:
    return [value.encode() for value in (*CANARIES.values(), PASSWORD, COOKIE)]


def leaked(data: bytes) -> list[bytes]:
    return [canary for canary in all_canaries() if canary in data]


def test_secrets_stay_where_they_are(server: ServerProcess) -> None:
    """Errors are forced, a job is run, and everything that was said and written is looked through."""
    answers = list(said_to_hostile_requests(server))
    server.client.put("/datasets/upload?file_name=a.jsonl", content=ROWS).raise_for_status()
    server.wait_for("/datasets/1", lambda found: found["status"] == "ready")
    body = {"model": "tiny", "dataset_id": 1, "method": "lora", "hyperparameters": {"max_steps": 2}}
    job = server.client.post("/jobs/", json=body).raise_for_status().json()
    lines: set[str] = set()
    deadline_s = time.monotonic() + 240
    while (found := server.client.get(f"/jobs/{job['id']}").json())["status"] not in ("completed", "failed"):
        assert time.monotonic() < deadline_s, found
        lines |= {" ".join(_command_line(process)) for process in of_the_server(server)}
        time.sleep(0.2)
    assert found["status"] == "completed", found
    lost = server.client.post("/jobs/", json={**body, "model": "org/absent"})
    for path in ("config", "logs", "events", "report", "timeline", "artifacts"):
        answers.append(server.client.get(f"/jobs/{job['id']}/{path}").content)
    answers.append(lost.content)
    assert len(lines) >= 2, "the worker was seen"
    assert not leaked("\n".join(lines).encode())
    assert not leaked(b"\n".join(answers))
    check_files(server.home)
    check_database(server)


def _command_line(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def said_to_hostile_requests(server: ServerProcess) -> Iterator[bytes]:
    """Answers of everything that tells of the server, and of requests that go wrong, with secrets in them."""
    headers = {"cookie": f"session={COOKIE}", "authorization": f"Bearer {COOKIE}", "content_type": "application/json"}
    for target in ("/api/v1/system/settings", "/api/v1/system/settings/details", "/api/v1/system/keys", "/api/v1/system/doctor",
                   "/api/v1/system/info", "/api/v1/system/processes", "/api/v1/system/overview", "/settings", "/system", "/settings?tab=keys",
                   "/openapi.json", "/api/v1/nothing", "/api/v1/jobs/x", "/docs"):  # fmt: skip
        yield raw(server.port, "GET", target, **headers)[2]
        yield raw(server.port, "GET", target, accept="text/html", cookie=headers["cookie"])[2]
    for body in (b"{", b'{"a": NaN}', b"[]", f'{{"{COOKIE}": "{COOKIE}"}}'.encode(), b"\xff"):
        for target in ("/api/v1/jobs/", "/api/v1/jobs/plan", "/api/v1/datasets/uploads", "/api/v1/chat/completions"):
            answer = raw(server.port, "POST", target, body, **headers)
            assert answer[0] < 500
            yield answer[2].replace(COOKIE.encode(), b"") if COOKIE.encode() in body else answer[2]
    database = server.home / "jobs"
    database.rename(server.home / "jobs-away")  # a defect that nobody foresees
    try:
        for target in ("/api/v1/jobs/1/logs", "/api/v1/system/storage", "/api/v1/models/", "/"):
            yield raw(server.port, "GET", target, **headers)[2]
    finally:
        (server.home / "jobs-away").rename(database)


def check_files(home: Path) -> None:
    found = []
    for root, _, files in os.walk(home):
        for name in files:
            path = Path(root, name)
            if path.is_file() and not path.is_symlink() and path.stat().st_size < 200_000_000:
                found += [f"{path}: {canary!r}" for canary in leaked(path.read_bytes())]
    assert not found


def check_database(server: ServerProcess) -> None:
    import psycopg

    with psycopg.connect(server.env["TUNESMITH_DATABASE_URL"]) as connection:
        tables = [row[0] for row in connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")]
        assert len(tables) > 3
        for table in tables:
            rows = connection.execute(f'SELECT t::text FROM "{table}" t').fetchall()  # type: ignore[call-overload]
            assert not leaked(json.dumps(rows).encode()), table


DECLARED = {"the server's own": ("127.0.0.1",)}


def test_only_declared_ports_are_open(server: ServerProcess) -> None:
    """The server listens on its own port on loopback; a serving process on one, on loopback, behind a token."""
    answer = {"model": "tiny", "messages": [{"role": "user", "content": "x"}], "max_tokens": 1} if TIMES > 1 else None
    if answer:
        server.client.post("/chat/completions", json=answer, timeout=240).raise_for_status()
    open_ports = {}
    for process in of_the_server(server):
        try:
            listening = [c for c in process.net_connections() if c.status == psutil.CONN_LISTEN]
        except psutil.Error:
            continue
        for connection in listening:
            assert connection.laddr.ip in ("127.0.0.1", "::1"), connection
            open_ports[connection.laddr.port] = " ".join(_command_line(process))
    undeclared = {
        port: said for port, said in open_ports.items() if port != server.port and "tunesmith.serving" not in said
    }
    assert server.port in open_ports and not undeclared
    for port, said in open_ports.items():
        if "tunesmith.serving" in said:
            assert raw(port, "GET", "/health")[0] == 401
