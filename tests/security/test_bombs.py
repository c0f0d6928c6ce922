"""Small requests and files that would take much memory or time: each is refused, and nobody else waits for it."""

from __future__ import annotations

import ast
import gzip
import http.client
import io
import json
import lzma
import re
import socket
import struct
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import zstandard

import tunesmith
from tests.conftest import ServerProcess
from tests.security.ground import TIMES, Watch, raw, serving, share

MIB = 1024**2
CHILD_BYTES = 1024 * MIB
"""What a child that reads a dataset may take here; most of it are the libraries themselves."""
OTHERS_WAIT_S = 2.0
"""Longest that 99 of 100 other requests take; generous, since the machine has other things to do."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    settings = {"TUNESMITH_DATASET_MEMORY_BYTES": str(CHILD_BYTES), "TUNESMITH_DATASET_WORKERS": "2", "TUNESMITH_CPU_SLOTS": "0"}  # fmt: skip
    with serving(tmp_path_factory.mktemp("bombs") / "home", **settings) as server:
        yield server


# -- files --------------------------------------------------------------------------------------------------------------


def zipped(*entries: tuple[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in entries:
            file.writestr(name, content)
    return buffer.getvalue()


def overlapping(num_entries: int, kernel_bytes: int) -> bytes:
    """Every entry of the directory points at the same compressed stream."""
    one = zipped(("a.png", b"\0" * kernel_bytes))
    start = one.index(b"PK\x01\x02")
    entry = one[start : one.index(b"PK\x05\x06")]
    entries = [entry[:46] + f"{n:05d}".encode() for n in range(num_entries)]
    entries = [line[:28] + struct.pack("<H", 9) + line[30:51] + b".png" + entry[51:] for line in entries]
    directory = b"".join(entries)
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, num_entries, num_entries, len(directory), start, 0)
    return one[:start] + directory + end


def many_entries(num_entries: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for number in range(num_entries):
            file.writestr(f"{number}.png", b"")
    return buffer.getvalue()


def workbook(shared: str, sheet: str, doctype: str = "") -> bytes:
    head = f'<?xml version="1.0" encoding="UTF-8"?>{doctype}'
    main = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
    rel = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    package = "http://schemas.openxmlformats.org/package/2006"
    parts = {
        "[Content_Types].xml": f'<Types xmlns="{package}/content-types"><Default Extension="xml" ContentType="application/xml"/></Types>',
        "_rels/.rels": f'<Relationships xmlns="{package}/relationships"><Relationship Id="r1" Type="{rel}/officeDocument" Target="xl/workbook.xml"/></Relationships>',
        "xl/workbook.xml": f'{head}<workbook {main} xmlns:r="{rel}"><sheets><sheet name="s" sheetId="1" r:id="r1"/></sheets></workbook>',
        "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{package}/relationships"><Relationship Id="r1" Type="{rel}/worksheet" Target="worksheets/s.xml"/><Relationship Id="r2" Type="{rel}/sharedStrings" Target="sharedStrings.xml"/></Relationships>',
        "xl/sharedStrings.xml": f"{head}<sst {main}>{shared}</sst>",
        "xl/worksheets/s.xml": f"{head}<worksheet {main}><sheetData>{sheet}</sheetData></worksheet>",
    }  # fmt: skip
    return zipped(*((name, text.encode()) for name, text in parts.items()))


LAUGHS = (
    "<!DOCTYPE x [<!ENTITY a0 'lol'>" + "".join(f"<!ENTITY a{n} '{f'&a{n - 1};' * 10}'>" for n in range(1, 10)) + "]>"
)
OUTER = "<!DOCTYPE x [<!ENTITY e SYSTEM 'file:///etc/passwd'>]>"


def cells(num_rows: int, cell: str) -> str:
    head = '<row r="1"><c r="A1" t="inlineStr"><is><t>a</t></is></c></row>'
    return head + "".join(f'<row r="{row}"><c r="A{row}" {cell}</c></row>' for row in range(2, num_rows + 2))


def columns(num_columns: int) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    out = io.BytesIO()
    table = pa.table([pa.array([1], pa.int8())] * num_columns, names=[f"c{n}" for n in range(num_columns)])
    pq.write_table(table, out, compression="none", use_dictionary=False, write_statistics=False)
    return out.getvalue()


def zstd_bomb() -> bytes:
    return zstandard.ZstdCompressor(level=19).compress(b"\0" * (300 * MIB))


FILES: dict[str, tuple[str, Callable[[], bytes], tuple[str, ...]]] = {
    "gzip": ("x.csv.gz", lambda: gzip.compress(b"\0" * (300 * MIB), 9), ("too_large",)),
    "overlapping ZIP": ("x.zip", lambda: overlapping(2000, 15 * MIB), ("too_large", "bad_data")),
    "a hundred columns of one name": ("x.csv", lambda: b",".join([b"a"] * 2000) + b"\n" + b",".join([b"1"] * 2000), ()),
    "shared strings": (
        "x.xlsx",
        lambda: workbook(f"<si><t>{'x' * (2 * MIB)}</t></si>", cells(5000, 't="s"><v>0</v>')),
        ("too_large", "bad_data"),
    ),
    "deep JSON": ("x.json", lambda: b"[" * 2_000_000, ("bad_data",)),
    "Parquet of many columns": ("x.parquet", lambda: columns(20_000 if TIMES == 1 else 1_000_000), ("too_large",)),
    "zstd": ("x.jsonl.zst", zstd_bomb, ("too_large",)),
    "xz": ("x.csv.xz", lambda: lzma.compress(b"\0" * (100 * MIB)), ("unsupported_format",)),
    "gzip in gzip": ("x.csv.gz", lambda: gzip.compress(gzip.compress(b"\0" * MIB)), ("unsupported_format",)),
    "ZIP of zeros": ("x.zip", lambda: zipped(("a.png", b"\0" * (300 * MIB))), ("too_large",)),
    "ZIP of many entries": ("x.zip", lambda: many_entries(10_000 * TIMES**2), ("too_large", "")),
    "entities": ("x.xlsx", lambda: workbook("<si><t>&a9;</t></si>", cells(9, 't="s"><v>0</v>'), LAUGHS), ("bad_data", "")),
    "outer entity": ("x.xlsx", lambda: workbook("<si><t>&e;</t></si>", cells(9, 't="s"><v>0</v>'), OUTER), ("bad_data", "")),
    "a far cell": ("x.xlsx", lambda: workbook("", '<row r="1048576"><c r="XFD1048576"><v>1</v></c></row>'), ("too_large",)),
    "wide CSV": ("x.csv", lambda: b",".join(b"c%d" % n for n in range(1_000_000)), ("too_large",)),
    "JSON of many fields": ("x.json", lambda: json.dumps([{f"f{n}": n for n in range(300_000)}]).encode(), ("too_large",)),
    "JSON of long numbers": ("x.jsonl", lambda: b'{"a": ' + b"9" * 5_000_000 + b"}\n", ("bad_data", "")),
    "one endless line": ("x.csv", lambda: b"a" * (40 * MIB), ("bad_data", "too_large", "")),
    "quotes": ("x.csv", lambda: b"a,b\n" + b'"' * 2_000_001, ("bad_data", "")),
    "delimiters": ("x.txt", lambda: b",;\t|" * 2_000_000, ("bad_data", "too_large", "")),
}  # fmt: skip
"""File name, content, and the errors that it may come to; empty when it may also be taken."""


@pytest.mark.parametrize("what", share(list(FILES), always=6))
def test_a_file_that_grows_is_refused_within_bounds(server: ServerProcess, what: str) -> None:
    file_name, make, errors = FILES[what]
    content = make()
    with Watch(server) as watch:
        began_s = time.monotonic()
        made = server.client.put(f"/datasets/upload?file_name={file_name}", content=content).raise_for_status().json()
        found = server.wait_for(f"/datasets/{made['id']}", lambda d: d["status"] != "processing", 120)
        took_s = time.monotonic() - began_s
    error = (found["error"] or {}).get("error", "")
    assert error in errors or (not errors and not error), f"{what}: {found['error']}"
    assert not error or found["error"]["hint"]
    assert "root:x:0" not in json.dumps(server.client.get(f"/datasets/{made['id']}/preview").json())
    assert watch.most_child_bytes <= CHILD_BYTES and watch.p99_s < OTHERS_WAIT_S, (watch.most_child_bytes, watch.p99_s)
    assert took_s < 60, "a machine that is busy needs longer than the five seconds of the bar"


# -- requests -----------------------------------------------------------------------------------------------------------

FORM = "multipart/form-data; boundary=b"
UPLOAD = "/api/v1/datasets/"
FIELD = b'--b\r\nContent-Disposition: form-data; name="x"\r\n\r\nx\r\n'
SIZE = MIB if TIMES == 1 else 64 * MIB

REQUESTS: dict[str, tuple[str, str, Callable[[], bytes], dict[str, str]]] = {
    "preamble": ("POST", UPLOAD, lambda: b"\r\n-" * (SIZE // 3) + b"--b--", {"content_type": FORM}),
    "epilogue": ("POST", UPLOAD, lambda: FIELD + b"--b--" + b"\r\n--x" * (SIZE // 5), {"content_type": FORM}),
    "long part header": ("POST", UPLOAD, lambda: b"--b\r\nX: " + b"a" * SIZE, {"content_type": FORM}),
    "many part headers": ("POST", UPLOAD, lambda: b"--b\r\n" + b"A: b\r\n" * (SIZE // 6), {"content_type": FORM}),
    "many parts": ("POST", UPLOAD, lambda: FIELD * (SIZE // len(FIELD)) + b"--b--", {"content_type": FORM}),
    "long field": ("POST", UPLOAD, lambda: FIELD[:-3] + b"x" * SIZE, {"content_type": FORM}),
    "almost boundaries": ("POST", UPLOAD, lambda: FIELD[:-3] + b"\r\n--" * (60 * 1024 // 4), {"content_type": FORM}),
    "long boundary": ("POST", UPLOAD, lambda: b"x" * 1000, {"content_type": "multipart/form-data; boundary=" + "b" * 60_000}),
    "options": ("POST", UPLOAD, lambda: b"x", {"content_type": "multipart/form-data; " + '!="\\' * 15_000}),
    "spaces in options": ("POST", UPLOAD, lambda: b"x", {"content_type": "multipart/form-data;" + " ;" * 30_000 + "x"}),
    "deep JSON": ("POST", "/api/v1/jobs/", lambda: b'{"a":' * (SIZE // 5), {"content_type": "application/json"}),
    "JSON of long numbers": ("POST", "/api/v1/jobs/", lambda: b'{"a":' + b"9" * SIZE + b"}", {"content_type": "application/json"}),
    "many query values": ("GET", "/api/v1/jobs/?" + "tag=a&" * 9000, lambda: b"", {}),
    "batch": ("POST", "/api/v1/jobs/batch", lambda: json.dumps({"jobs": [{"model": "x"}] * 20_000}).encode(), {"content_type": "application/json"}),
    "accept": ("GET", "/models", lambda: b"", {"accept": "text/html," * 6000}),
    "encodings": ("GET", "/", lambda: b"", {"accept_encoding": "gzip;q=0.1," * 5000}),
    "cookies": ("GET", "/", lambda: b"", {"cookie": "a=b;" * 15_000}),
}  # fmt: skip


@pytest.mark.parametrize("what", list(REQUESTS))
def test_a_request_that_asks_for_much_is_refused_quickly(server: ServerProcess, what: str) -> None:
    method, target, make, headers = REQUESTS[what]
    with Watch(server) as watch:
        began_s = time.monotonic()
        try:
            status, _, body = raw(server.port, method, target, make(), **headers)
        except (http.client.HTTPException, ConnectionError):
            status, body = 400, b""  # hung up on before all of it was sent
        took_s = time.monotonic() - began_s
    assert (400 <= status < 500) or (status == 200 and method == "GET"), f"{status} {body[:200]!r}"
    assert took_s < 5 * (1 if TIMES == 1 else 6) and watch.p99_s < OTHERS_WAIT_S, (took_s, watch.p99_s)


@pytest.mark.parametrize(
    "ranges", ["0-0," * 10_000 + "1-1", "-1," * 10_000 + "-1", ",".join(f"{n}-" for n in range(8000))]
)
def test_thousands_of_ranges(server: ServerProcess, ranges: str) -> None:
    made = server.client.put("/datasets/upload?file_name=r.csv", content=b"a,b\n" + b"1,2\n" * 20_000).json()
    header = "bytes=" + ranges[:60_000].rpartition(",")[0]
    with Watch(server) as watch:
        began_s = time.monotonic()
        status, _, body = raw(server.port, "GET", f"/api/v1/datasets/{made['id']}/download", range=header)
        took_s = time.monotonic() - began_s
    assert status in (200, 206, 400, 416, 431) and len(body) < 4 * 80_004, (status, len(body))
    assert took_s < 1 and watch.p99_s < OTHERS_WAIT_S


def test_a_body_of_another_kind_does_not_fill_the_memory(server: ServerProcess) -> None:
    """A JSON route that is sent 200 MB of something else refuses it before it has kept them."""
    assert server.process
    process = psutil.Process(server.process.pid)
    before = process.memory_info().rss
    most, total = 0, 200 * MIB
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        head = f"POST /api/v1/jobs/ HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nContent-Length: {total}\r\n\r\n"
        connection.sendall(head.encode())
        try:
            for _ in range(total // MIB):
                connection.sendall(b"x" * MIB)
                most = max(most, process.memory_info().rss)
        except ConnectionError:
            pass
    assert most - before < 100 * MIB


def test_slow_headers_do_not_stop_others(server: ServerProcess) -> None:
    open_ones = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(20 * TIMES)]
    try:
        for connection in open_ones:
            connection.sendall(b"GET /api/v1/system/health HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
        with Watch(server) as watch:
            deadline_s = time.monotonic() + 20
            while len(watch.took_s) < 10 and time.monotonic() < deadline_s:
                time.sleep(0.1)
        assert len(watch.took_s) >= 10 and watch.p99_s < OTHERS_WAIT_S
    finally:
        for connection in open_ones:
            connection.close()


# -- regular expressions ------------------------------------------------------------------------------------------------

HOSTILE_BYTES = 64 * 1024
SEARCHES = ("compile", "match", "fullmatch", "search", "sub", "subn", "split", "findall", "finditer")
SOURCE = Path(tunesmith.__file__).parent


def patterns() -> dict[str, re.Pattern[Any]]:
    """Every regular expression that stands in the source, by where it stands."""
    found = {}
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in SEARCHES):
                continue
            if isinstance(node.func.value, ast.Name) and node.func.value.id == "re" and node.args:
                first = node.args[0]
                if isinstance(first, ast.Constant) and isinstance(first.value, str | bytes):
                    names = {n.attr for argument in [*node.args[1:], *(k.value for k in node.keywords)]
                             for n in ast.walk(argument) if isinstance(n, ast.Attribute)}  # fmt: skip
                    flags = re.RegexFlag(0)
                    for name in names & set(re.RegexFlag.__members__):
                        flags |= re.RegexFlag[name]
                    found[f"{path.relative_to(SOURCE)}:{node.lineno}"] = re.compile(first.value, flags)
    return found


def hostile(pattern: str) -> Iterator[str]:
    """Long strings that begin as the pattern wants them to and do not end so."""
    plain = re.sub(r"\\[a-zA-Z]|[\\^$*+?{}\[\]()|.]", "", pattern)[:40]
    units = {"a", " ", "0", "\n", "\r\n", "\t", "-", "_", "a ", "a1", "a.", "a,", "a:", "a=", "()", "[[", "{{", "<a", "\"", "'", "%",
             "---\n", "\n---", "http://", "#", "*", "`", "A1", "é", "\\", "/", plain, plain[:1], plain[-1:], plain + " ", "r=\"A"}  # fmt: skip
    for unit in sorted(units - {""})[:: 2 if TIMES == 1 else 1]:
        body = unit * (HOSTILE_BYTES // len(unit))
        yield plain + body + "\x00"
        if TIMES > 1:
            yield body + "!"
            yield "---\n" + body


@pytest.mark.parametrize("place", sorted(patterns()))
def test_no_regular_expression_takes_long(place: str) -> None:
    pattern = patterns()[place]
    is_bytes = isinstance(pattern.pattern, bytes)
    shown = pattern.pattern.decode("latin-1") if is_bytes else pattern.pattern
    slowest = 0.0
    for text in hostile(shown):
        subject: Any = text.encode() if is_bytes else text
        for search in (pattern.fullmatch, lambda given: sum(1 for _ in pattern.finditer(given))):
            began_s = time.process_time()
            search(subject)
            slowest = max(slowest, time.process_time() - began_s)
    assert slowest < 0.2, f"{shown!r} takes {slowest:.2f} s"


def test_all_regular_expressions_are_seen() -> None:
    """Those made of parts could be slow unseen: there are none but the ones that quote a text."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = [f"{path.relative_to(SOURCE)}:{node.lineno}" for path in SOURCE.rglob("*.py")
                for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute) and node.func.attr in SEARCHES
                and isinstance(node.func.value, ast.Name) and node.func.value.id == "re"
                and not (node.args and isinstance(node.args[0], ast.Constant))]  # fmt: skip
    assert len(patterns()) > 10 and not made, made
