"""What leaves the server in names: spreadsheets that start no formula, headers and logs that nobody forges, no way elsewhere."""

from __future__ import annotations

import csv
import io
import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.conftest import ServerProcess
from tests.security.ground import raw, serving

FORMULAS = [
    "=1+1", "=cmd|' /C calc'!A0", "+1+1", "-1+1", "@SUM(1)", "\t=1+1", "\r=1+1", "=HYPERLINK(\"http://evil\")", "-2+3+cmd|' /C calc'!A0",
]  # fmt: skip
HARMLESS = ["a", "a=1", "1", "", "a-b", "x@y", " = 1"]
NAMES = [
    'a"b', "a\r\nX-Evil: 1", "a\nb", "a;b", "a\\b", "a'b", "ü ä 日本 🎵", "a%0d%0aX-Evil: 1", "../../a", "a/b", "-rf", '"; filename="evil.exe',
    "a\u2028b", "a\u0085X-Evil: 1", "\u202egpj.exe", "a\tb", "a\x7fb", "a\x1b[31mb", "CON", "a" * 190,
]  # fmt: skip
NAME_IN_HEADER = re.compile(r"attachment; filename(=\"[^\"\\\r\n]*\"|\*=(utf|UTF)-8''[A-Za-z0-9%._~!$&+^`|#/()*'-]*)")
"""RFC 6266: quoted without quotes in it, or escaped."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    settings = {"TUNESMITH_CUSTOM_SCRIPTS": "true", "TUNESMITH_CPU_SLOTS": "0", "TUNESMITH_LOG_LEVEL": "INFO"}
    with serving(tmp_path_factory.mktemp("exports") / "home", **settings) as server:
        yield server


@pytest.fixture(scope="module")
def dataset(server: ServerProcess) -> int:
    lines = [
        json.dumps({"question": text, "answer": f"{n}", "=evil": text}) for n, text in enumerate([*FORMULAS, *HARMLESS])
    ]
    made = server.client.put("/datasets/upload?file_name=f.jsonl", content="\n".join(lines).encode()).json()
    server.wait_for(f"/datasets/{made['id']}", lambda found: found["status"] == "ready")
    return int(made["id"])


def exported(server: ServerProcess, dataset: int) -> list[list[str]]:
    text = server.client.get(f"/datasets/{dataset}/download?format=csv").content.decode()
    return list(csv.reader(io.StringIO(text, newline="")))


def test_no_cell_of_a_csv_starts_a_formula(server: ServerProcess, dataset: int) -> None:
    rows = exported(server, dataset)[1:]
    assert len(rows) == len(FORMULAS) + len(HARMLESS)
    for row in rows:
        for cell in row:
            assert not cell.startswith(("=", "+", "-", "@", "\t", "\r", "\0")), cell
    assert [row[0] for row in rows][: len(FORMULAS)] == [f"'{text}" for text in FORMULAS]
    assert [row[0] for row in rows][len(FORMULAS) :] == HARMLESS, "what starts no formula is as it was"


def test_no_name_of_a_column_starts_a_formula(server: ServerProcess, dataset: int) -> None:
    assert not [name for name in exported(server, dataset)[0] if name.startswith(("=", "+", "-", "@", "\t", "\r"))]


def test_no_cell_of_the_ratings_starts_a_formula(server: ServerProcess) -> None:
    for text in FORMULAS:
        body = {
            "model": "org/tiny",
            "messages": [{"role": "user", "content": text}],
            "answer": text,
            "verdict": "up",
            "note": text,
        }
        server.client.post("/ratings/", json=body).raise_for_status()
    text = server.client.get("/ratings/export?format=csv").raise_for_status().content.decode()
    rows = list(csv.reader(io.StringIO(text, newline="")))
    assert len(rows) == len(FORMULAS) + 1
    assert not [cell for row in rows for cell in row if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]


def test_what_programs_read_is_exact(server: ServerProcess, dataset: int) -> None:
    text = server.client.get(f"/datasets/{dataset}/download?format=jsonl").text
    assert [json.loads(line)["question"] for line in text.split("\n") if line] == [*FORMULAS, *HARMLESS]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_no_name_forges_a_header(server: ServerProcess, dataset: int, name: str) -> None:
    server.client.patch(f"/datasets/{dataset}", json={"name": name}).raise_for_status()
    uploaded = (
        server.client.put("/datasets/upload", params={"file_name": name}, content=b"a,b\n1,2\n")
        .raise_for_status()
        .json()
    )
    job = {"method": "custom", "hyperparameters": {"script": "pass"}, "start": "manual", "name": name}
    job_id = server.client.post("/jobs/", json=job).raise_for_status().json()["id"]
    (server.home / "jobs" / str(job_id) / "output.log").parent.mkdir(parents=True, exist_ok=True)
    (server.home / "jobs" / str(job_id) / "output.log").write_text("said")
    targets = [f"/datasets/{dataset}/download?format={kind}" for kind in ("csv", "jsonl", "parquet")]
    targets += [f"/datasets/{uploaded['id']}/download", f"/jobs/{job_id}/config", f"/jobs/{job_id}/logs/download"]
    for target in targets:
        status, headers, _ = raw(server.port, "GET", f"/api/v1{target}")
        assert status == 200, target
        assert "x-evil" not in headers and headers["content-disposition"].isascii()
        assert NAME_IN_HEADER.fullmatch(headers["content-disposition"]), headers["content-disposition"]
        assert headers.get("x-content-type-options") == "nosniff" or "jobs" in target
        assert headers["content-type"].partition(";")[0] in (
            "application/octet-stream",
            "application/yaml",
            "text/plain",
        )


FORGED = "ERROR tunesmith forged line"


def test_no_name_forges_a_line_of_the_log(server: ServerProcess) -> None:
    """Whatever comes in, in addresses, headers, names and file names: the log has no line that begins with it."""
    breaks = ("\n", "\r\n", "\r", "\u2028", "\x85", "\x0b", "\x1b[2K\r")
    for text in (f"x{cut}{FORGED}" for cut in breaks):
        shown = quote(text, safe="")
        for target in (
            f"/api/v1/models/{shown}",
            f"/{shown}",
            f"/api/v1/jobs/?q={shown}",
            f"/static/{shown}/x",
            f"/icons/{shown}.svg",
        ):
            assert raw(server.port, "GET", target)[0] < 500
        raw(server.port, "PUT", f"/api/v1/datasets/upload?file_name={shown}.pkl&name={shown}", b"\x80\x04.")
        server.client.post(
            "/jobs/", json={"method": "custom", "name": text, "hyperparameters": {"script": "pass"}, "start": "manual"}
        )
        server.client.post("/jobs/", json={"method": text, "model": text})
        server.client.post("/chat/completions", json={"model": text, "messages": [{"role": "user", "content": "x"}]})
        raw(server.port, "GET", "/api/v1/system/health", user_agent="x " + FORGED, x_request_id="x " + FORGED)
        raw(server.port, "GET", "/api/v1/system/health", host="x " + FORGED)
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(
            b"GET /\x1b[31m" + FORGED.encode().replace(b" ", b"_") + b" HTTP/1.1\r\nHost: localhost\r\n\r\n"
        )
        connection.recv(1000)
    log = (server.home / "server.log").read_bytes()
    for line in re.split(rb"[\r\n\x0b\x0c\x85]|\xe2\x80\xa8", log):
        assert not line.lstrip().startswith(FORGED.encode()), line
    assert b"\x1b" not in log


POISON = (
    "a/?x=",
    "x/admin",
    "localhost/x",
    "evil.com",
    "localhost@evil.com",
    "localhost:8000.evil.com",
    "localhost#",
    "@evil",
    "localhost\\@evil",
)
TARGETS = ("//evil.com", "//evil.com/%2e%2e", "/\\evil.com", "/%5cevil.com", "///evil.com", "/%2f%2fevil.com", "/.//evil.com", "/api/v1//evil.com",
           "http://evil.com/", "/models//evil.com", "/api/docs", "/api/docs/", "/datasets/", "/models/", "/jobs/", "/docs/", "/@evil", "/..//evil.com/")  # fmt: skip


@pytest.mark.parametrize("host", POISON)
def test_a_poisoned_host_changes_nothing(server: ServerProcess, host: str) -> None:
    for target in ("/", "/api/v1/system/health", "/models", "/api/docs"):
        status, headers, body = raw(server.port, "GET", target, host=host)
        assert status == 400 and "location" not in headers and b"evil" not in body


@pytest.mark.parametrize("target", TARGETS)
def test_no_address_redirects_elsewhere(server: ServerProcess, target: str) -> None:
    for headers in (
        {},
        {"accept": "text/html"},
        {"x_forwarded_host": "evil.com", "forwarded": "host=evil.com", "x_forwarded_proto": "gopher"},
    ):
        for query in (
            "",
            "?next=//evil.com",
            "?next=https://evil.com",
            "?next=%2f%2fevil.com",
            "?url=//evil.com",
            "?tab=//evil.com",
        ):
            status, found, body = raw(server.port, "GET", target + query, **headers)
            assert status < 500
            location = found.get("location", "")
            own = (f"http://127.0.0.1:{server.port}/", f"http://localhost:{server.port}/")
            plain = location.startswith(own) or (location.startswith("/") and not re.match(r"/[/\\]", location))
            assert not location or plain, location
            assert "//evil.com" not in location.removeprefix(own[0]).partition("?")[0][:12]
            assert b'href="//evil.com' not in body and b'action="//evil.com' not in body


def test_at_evil_in_the_request_line(server: ServerProcess) -> None:
    """A target that is no path, or an address of another host: refused, or taken for the path alone."""
    for line in (b"GET @evil.com/ HTTP/1.1", b"GET evil HTTP/1.1", b"GET http://evil.com/api/v1/system/settings HTTP/1.1", b"GET * HTTP/1.1",
                 b"CONNECT evil.com:443 HTTP/1.1", b"TRACE / HTTP/1.1", b"GET / HTTP/9.9", b"GET /\x00 HTTP/1.1"):  # fmt: skip
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
            connection.sendall(line + b"\r\nHost: localhost\r\nX-Canary: canary-echo\r\n\r\n")
            answer = connection.recv(65_536)
        status = int(answer.split(b" ", 2)[1])
        assert status < 500 and b"canary-echo" not in answer and b"location: http://evil" not in answer.lower(), (
            line,
            answer[:300],
        )


def test_the_home_of_exports_is_ours(server: ServerProcess) -> None:
    """The names above are kept in the database; no file is called so."""
    names = {path.name for path in Path(server.home).rglob("*")}
    assert not [name for name in names if "evil" in name or "\n" in name or FORGED in name]
