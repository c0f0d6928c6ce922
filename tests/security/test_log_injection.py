"""What users name, wherever it is written down: it begins no line in a log, starts no escape sequence on a terminal, and no
formula in a spreadsheet (CWE-117, CWE-150, CWE-1236)."""

from __future__ import annotations

import csv
import io
import json
import logging
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, Request
from fastapi.testclient import TestClient

from tests.accounts.ground import PASSWORD
from tests.accounts.test_proxies import reached
from tests.conftest import lay_database
from tunesmith.app import create_app
from tunesmith.cli import output
from tunesmith.core.clock import utc_now
from tunesmith.core.errors import InvalidInput
from tunesmith.core.plain_text import PlainFormatter, lines, one_line
from tunesmith.core.spreadsheet import csv_rows
from tunesmith.features.audit.tables import AuditRow
from tunesmith.features.datasets.service import plain_name
from tunesmith.http.errors import install_error_handlers
from tunesmith.settings import Settings

FORGED = "2026-01-01 00:00:00,000 INFO tunesmith: ada logged in"
BREAKS = ["\n", "\r", "\r\n", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029"]
ESCAPES = [
    "\x1b[31m",
    "\x1b]0;title\x07",
    "\x1b[2J",
    "\x9b31m",
    "\x9d0;t\x9c",
    "\x00",
    "\x08\x08\x08",
    "\x7f",
    "\u202e",
    "\u2066",
]
NASTY = [f"a{mark}{FORGED}" for mark in BREAKS + ESCAPES]
ACTED_ON = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
RECORD = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} [A-Z]+ [\w.]+: |    ")
"""How a line of the server's log begins: a record, or what belongs to the one before."""
FORMULAS = ["=cmd|' /C calc'!A0", "+1+1", "-2+3", "@SUM(1)", "\t=1", "\r=1", "\n=1", "＝1+1", "＠x"]


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """The server's log, written as the server writes it."""
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(PlainFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    yield written
    root.removeHandler(handler)


def check(written: str) -> list[str]:
    """Every line is a record or belongs to one, however a reader splits lines."""
    assert not ACTED_ON.search(written)
    found = written.splitlines()
    for line in found:
        assert RECORD.match(line) and not line.startswith(FORGED), line
    return found


def test_a_record_is_one_line_whatever_it_is_told(log: io.StringIO) -> None:
    for text in NASTY:
        logging.getLogger("tunesmith.x").warning("dataset %s is refused", text)
        logging.getLogger(f"tunesmith.{'y'}").error(text)
    found = check(log.getvalue())
    assert len(found) == 2 * len(NASTY) and all("ada logged in" in line for line in found), "nothing is lost either"
    half = logging.makeLogRecord(
        {"msg": "half a character: %s", "args": ("\ud800",)}
    )  # no log of a test's own can hold it
    assert "\\ud800" in PlainFormatter("%(message)s").format(half).encode("utf-8").decode()


def test_a_traceback_does_not_look_like_records(log: io.StringIO) -> None:
    """Messages of exceptions hold users' text, in several lines, and exceptions hold each other."""
    for text in NASTY:
        try:
            try:
                raise ValueError(text)
            except ValueError as error:
                raise RuntimeError(f"{text}{text}") from error
        except RuntimeError:
            logging.getLogger("tunesmith.x").exception("unexpected")
    logging.getLogger("tunesmith.x").warning("here", stack_info=True)
    found = check(log.getvalue())
    assert sum(line.endswith("unexpected") for line in found) == len(NASTY)


def test_paths_of_requests_stay_in_their_line(log: io.StringIO) -> None:
    """The handler of unexpected errors writes the path down, which the server has decoded."""
    app = FastAPI()
    install_error_handlers(app)

    @app.middleware("http")
    async def defect(request: Request, _next: Any) -> None:
        raise ValueError(request.scope["path"])

    client = TestClient(app, raise_server_exceptions=False)
    for mark in ("%0A", "%0D%0A", "%1B[31m", "%E2%80%A8", "%C2%85", "%C2%9B31m"):
        assert client.get(f"/a{mark}{FORGED}").status_code == 500
    check("".join(line for line in log.getvalue().splitlines(keepends=True) if "httpx" not in line))


def test_the_server_writes_all_it_says_so() -> None:
    """Its own records, the web server's, warnings of libraries, and threads that end."""
    code = f"""
import logging, threading, warnings
from tunesmith.cli.serve import _write_log
_write_log("INFO")
text = {NASTY[0]!r}
logging.getLogger("uvicorn.error").error("Invalid request %s", text)
logging.getLogger("tunesmith").info(text)
warnings.warn(text)
def ends():
    raise ValueError(text)
thread = threading.Thread(target=ends)
thread.start()
thread.join()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found = check(done.stderr)
    assert sum("ada logged in" in line for line in found) >= 4 and not done.stdout


def test_commands_write_text_and_no_escapes(capsys: pytest.CaptureFixture[str]) -> None:
    for text in NASTY:
        output.show(None, output.table(("name", text), [(text, text)]))
        output.say(f"Dataset {one_line(text)} is ready.")
        output.say(text, "dim")
        output.complain(InvalidInput(text, hint=text, details=[{"loc": text, "message": text}]))
    told = capsys.readouterr()
    for written in (told.out, told.err):
        assert not ACTED_ON.search(written.replace("\x1b[0m", ""))
        assert "ada logged in" in written
    assert lines("50 %\r100 %\r\nok\x1b[2J\tx") == "50 %\n100 %\nok\\x1b[2J\tx", "a job's log keeps its lines"
    for text in NASTY:
        assert not ACTED_ON.search(output.as_json({"name": text})) and json.loads(output.as_json(text)) == text


def test_names_of_files_and_datasets_hold_no_control_characters() -> None:
    for text in NASTY:
        assert not ACTED_ON.search(plain_name(text)) and "\n" not in plain_name(text)
        assert len(plain_name(text).splitlines()) == 1
    assert plain_name("تقرير.jsonl") == "تقرير.jsonl"


@pytest.fixture
def here(tmp_path: Path) -> Iterator[TestClient]:
    """A server in this process, asked by its administrator."""
    lay_database(tmp_path / "h")
    with reached(create_app(Settings(home=tmp_path / "h", cpu_slots=0, auth="on")), "127.0.0.1") as client:
        body = {"username": "ada", "email": "ada@example.org", "password": PASSWORD}
        assert client.post("/api/v1/auth/register", json=body).status_code == 201
        agent = {"User-Agent": "curl\x85\x9b31m evil\ttab".encode("latin-1")}
        told = client.post("/api/v1/auth/login", json={"username": "ada", "password": PASSWORD}, headers=agent)  # type: ignore[arg-type]
        client.headers["authorization"] = f"Bearer {told.json()['access_token']}"
        yield client


def test_the_audit_log_holds_one_line_each(here: TestClient) -> None:
    """Paths and user names of requests, and lines that an earlier version has written."""
    for mark in ("%0A", "%0D%0A", "%1B[31m", "%E2%80%A8", "%C2%85"):
        here.delete(f"/api/v1/registry/x{mark}=cmd")
    for text in ("ada\nbob", "ada\x1b[31m", "\u2028"):
        here.post("/api/v1/auth/register", json={"username": text, "email": "x@example.org", "password": PASSWORD})
        here.post("/api/v1/auth/login", json={"username": text, "password": PASSWORD})
    state: Any = here.app.state  # type: ignore[attr-defined]
    with state.tunesmith.database.unit_of_work() as session:
        last = len(here.get("/api/v1/audit/", params={"limit": 100}).json()["items"])
        for number, text in enumerate([*NASTY, *FORMULAS], start=last + 1):
            session.add(
                AuditRow(
                    seq=number, at=utc_now(), user_id=None, username=text[:64], via="session", credential="", action=text[:80],
                    objects=[text, text], address="", result="done", status=200, hash="0" * 64,
                )
            )  # fmt: skip
    logins = here.get("/api/v1/auth/logins").json()
    assert "evil" in logins[0]["agent"] and not ACTED_ON.search(logins[0]["agent"])

    exact = here.get("/api/v1/audit/export").text
    total = last + len(NASTY) + len(FORMULAS)
    assert len(exact.splitlines()) == total and exact.isascii()
    entries = [json.loads(line) for line in exact.splitlines()]
    assert entries[-1]["objects"] == [FORMULAS[-1]] * 2, "JSON Lines is exact"
    assert not any(ACTED_ON.search(thing) for entry in entries[:last] for thing in entry["objects"])

    told = here.get("/api/v1/audit/export", params={"format": "csv"}).text
    assert not ACTED_ON.search(told.replace("\r\n", "\n")) and len(told.splitlines()) == total + 1
    cells = [cell for row in csv.reader(io.StringIO(told)) for cell in row]
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＠"))]


def test_no_cell_of_a_table_starts_a_formula() -> None:
    (row,) = csv.reader(io.StringIO(csv_rows([[*FORMULAS, "plain", -5, 1.5, None]]), newline=""))
    assert row == [*(f"'{text}" for text in FORMULAS), "plain", "-5", "1.5", ""]
