"""Real connections that send half, take nothing, or are too many, against a real server; and those that must not be ended."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import os
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import uvicorn
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.conftest import ServerProcess, free_port, kill_processes_of
from tests.jobs.conftest import custom
from tunesmith.http.connections import Connections, HttpConnection, Limits

SHORT = {"TUNESMITH_REQUEST_HEAD_S": "1", "TUNESMITH_REQUEST_BODY_S": "1", "TUNESMITH_RESPONSE_S": "2",
         "TUNESMITH_KEEP_ALIVE_S": "1", "TUNESMITH_CPU_SLOTS": "0", "TUNESMITH_CUSTOM_SCRIPTS": "true"}  # fmt: skip
HEALTH = b"GET /api/v1/system/health HTTP/1.1\r\nHost: localhost\r\n\r\n"
BODY_HEAD = b"POST /api/v1/jobs/ HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n"
UPLOAD_HEAD = (
    b"PUT /api/v1/datasets/upload?file_name=a.jsonl HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n"
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """With limits of a second or two."""
    found = ServerProcess(tmp_path_factory.mktemp("connections") / "home", SHORT).start()
    yield found
    found.stop()
    found.client.close()
    kill_processes_of(found.home)


def knock(server: ServerProcess, *, source: str = "127.0.0.1", receive_bytes: int = 0) -> socket.socket:
    made = socket.socket()
    if receive_bytes:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    made.bind((source, 0))
    made.settimeout(20)
    made.connect(("127.0.0.1", server.port))
    return made


def said(connection: socket.socket) -> bytes:
    """All that comes until the other side ends it."""
    parts = []
    with contextlib.suppress(ConnectionError):
        while part := connection.recv(65_536):
            parts.append(part)
    return b"".join(parts)


def dribble(connection: socket.socket, pause_s: float) -> None:
    """A byte now and then, until the other side has had enough."""
    with contextlib.suppress(OSError):
        while True:
            connection.send(b"x")
            time.sleep(pause_s)


@pytest.mark.parametrize("dribbles", [False, True])
@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        (b"", b""),
        (b"GET / HTTP/1.1\r\nHost: loc", b"HTTP/1.1 408"),
        (HEALTH + b"GET / HTTP/1.1\r\nX-Filler: ", b"HTTP/1.1 200"),
        (BODY_HEAD + b'{"name": ', b"HTTP/1.1 408"),
        (UPLOAD_HEAD + b'{"prompt": ', b"HTTP/1.1 408"),
    ],
    ids=["nothing", "half a head", "half a second head", "half a body", "half an upload"],
)
def test_who_does_not_go_on_is_sent_away(server: ServerProcess, sent: bytes, answer: bytes, dribbles: bool) -> None:
    with knock(server) as connection:
        began_s = time.monotonic()
        connection.sendall(sent)
        if dribbles and sent:
            threading.Thread(target=dribble, args=(connection, 0.1), daemon=True).start()
        told = said(connection)
        assert 0.5 < time.monotonic() - began_s < 8
    assert answer in told or dribbles, told  # what is left unread takes the answer with it
    if sent.startswith(HEALTH):
        assert told.startswith(b"HTTP/1.1 200")


def test_an_idle_connection_is_ended_and_a_body_that_moves_arrives(server: ServerProcess) -> None:
    with knock(server) as connection:
        connection.sendall(HEALTH)
        began_s = time.monotonic()
        assert said(connection).startswith(b"HTTP/1.1 200") and time.monotonic() - began_s < 8
    row = json.dumps({"prompt": "what is it", "completion": "that is how it is"}).encode() + b"\n"

    def slowly() -> Iterator[bytes]:
        for _ in range(12):  # longer than all the limits, at a few hundred bytes a second
            yield row * 2
            time.sleep(0.25)

    answer = server.client.post("/datasets/", files={"file": ("slow.jsonl", row * 20)})
    assert answer.status_code == 201, answer.text
    boundary = b'--b\r\nContent-Disposition: form-data; name="file"; filename="slow.jsonl"\r\n\r\n'

    def form() -> Iterator[bytes]:
        yield boundary
        yield from slowly()
        yield b"\r\n--b--\r\n"

    headers = {"content-type": "multipart/form-data; boundary=b"}
    moved = server.client.post("/datasets/", content=form(), headers=headers)
    assert moved.status_code == 201, moved.text


def test_who_takes_nothing_of_an_answer_is_sent_away_and_who_takes_it_slowly_gets_it_all(server: ServerProcess) -> None:
    job = server.client.post("/jobs/", json=custom()).json()["id"]
    log = server.home / "jobs" / str(job) / "output.log"
    log.parent.mkdir(exist_ok=True)
    log.write_bytes(b"a line of a log\n" * 1024 * 1024)  # more than the kernel holds for both sides
    whole = log.stat().st_size
    ask = f"GET /api/v1/jobs/{job}/logs/download HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
    process = psutil.Process(server.process.pid)  # type: ignore[union-attr]
    with knock(server) as slow, knock(server, receive_bytes=4096) as stuck:
        ports = {connection.getsockname()[1] for connection in (slow, stuck)}
        memory = process.memory_info().rss
        for connection in (slow, stuck):
            connection.sendall(ask)
        got, deadline_s = 0, time.monotonic() + 4
        while time.monotonic() < deadline_s:
            got += len(slow.recv(16_384))
            time.sleep(0.05)
        held = {c.raddr.port for c in process.net_connections("tcp") if c.raddr} & ports
        assert held == {slow.getsockname()[1]}, "the one that takes nothing is gone"
        assert process.memory_info().rss - memory < whole, "and what it did not take was never in memory"
        assert got + len(said(slow)) > whole > len(said(stuck))


def test_streams_and_watchers_are_not_ended(server: ServerProcess) -> None:
    """300 of them, silent for longer than every limit; and a WebSocket that answers pings, beside one that does not."""
    job = server.client.post("/jobs/", json=custom()).json()["id"]
    address = f"ws://127.0.0.1:{server.port}/api/v1/jobs/{job}/live"
    watchers = [knock(server) for _ in range(300)]
    for watcher in watchers:
        watcher.sendall(b"GET /api/v1/jobs/stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
    with connect(address) as answering, knock(server) as silent:
        key = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
        silent.sendall(f"GET /api/v1/jobs/{job}/live HTTP/1.1\r\nHost: localhost\r\n{key}\r\n\r\n".encode())
        began_s = time.monotonic()
        assert said(silent).startswith(b"HTTP/1.1 101")
        assert time.monotonic() - began_s < 10
        time.sleep(max(0.0, 3.5 - (time.monotonic() - began_s)))
        with contextlib.suppress(TimeoutError):
            while answering.recv(timeout=0.2):
                pass
        assert server.client.post(f"/jobs/{job}/stop").status_code == 200
        told = []
        with contextlib.suppress(ConnectionClosed):
            while True:
                told.append(answering.recv(timeout=10))
        assert any('"cancelled"' in str(message) for message in told)
    for watcher in watchers:
        head = b""
        while b"cancelled" not in head:
            part = watcher.recv(65_536)
            assert part, head
            head += part
        watcher.close()


def answer_of(connection: socket.socket) -> int:
    connection.sendall(HEALTH)
    with contextlib.suppress(ConnectionError):
        if told := connection.recv(65_536):
            return int(told.split()[1])
    return 0


def test_connections_are_counted_in_all_and_by_address(start_server: Callable[..., ServerProcess]) -> None:
    server = start_server(TUNESMITH_MAX_CONNECTIONS="30", TUNESMITH_MAX_CONNECTIONS_PER_ADDRESS="10")
    server.client.close()
    with contextlib.ExitStack() as held:

        def fill(source: str, num: int) -> list[int]:
            made = [held.enter_context(knock(server, source=source)) for _ in range(num)]
            return [answer_of(connection) for connection in made]

        wait_until(lambda: open_connections(server) == 0)
        assert fill("127.0.0.1", 12) == [200] * 10 + [429, 429]
        assert fill("127.0.0.2", 10) == fill("127.0.0.3", 10) == [200] * 10
        assert fill("127.0.0.4", 2) == [503, 503]
    wait_until(lambda: open_connections(server) == 0)
    assert httpx.get(f"{server.url}/api/v1/system/health").status_code == 200
    assert server.log().count("a connection is refused") == 1


def open_connections(server: ServerProcess) -> int:
    found = psutil.Process(server.process.pid).net_connections("tcp")  # type: ignore[union-attr]
    return sum(1 for connection in found if connection.status == "ESTABLISHED")


def wait_until(check: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 20
    while not check():
        assert time.monotonic() < deadline_s
        time.sleep(0.05)


def test_a_server_that_can_open_no_more_files_says_so_and_goes_on(start_server: Callable[..., ServerProcess]) -> None:
    server = start_server()
    assert server.process
    pid = server.process.pid
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    num = max(int(name) for name in os.listdir(f"/proc/{pid}/fd")) + 5
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (num, before[1]))
    try:
        with contextlib.ExitStack() as held:
            told = [answer_of(held.enter_context(knock(server))) for _ in range(30)]
            time.sleep(1.5)
            told += [answer_of(held.enter_context(knock(server))) for _ in range(5)]
        assert told[0] == 200 and told[-5:] == [503] * 5, told
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
    wait_until(lambda: httpx.get(f"{server.url}/api/v1/system/health").status_code == 200)
    log = server.log()
    assert log.count("connections are refused") == 1 and "Traceback" not in log and len(log) < 5000, log[:3000]


def test_a_trusted_proxy_may_have_more_than_one_address(tmp_path: Path) -> None:
    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    class Here:
        port = free_port()

    def statuses(trusted: str) -> list[int]:
        limits = Limits(5, 5, 5, num=6, num_per_address=2, trusted=[ipaddress.ip_network(trusted)])
        config = uvicorn.Config(
            app,
            port=Here.port,
            http=partial(HttpConnection, Connections(limits)),
            lifespan="off",
            log_level="error",  # type: ignore[arg-type]
        )
        found = uvicorn.Server(config)
        thread = threading.Thread(target=lambda: asyncio.run(found.serve()))
        thread.start()
        wait_until(lambda: found.started)
        with contextlib.ExitStack() as held:
            told = [answer_of(held.enter_context(knock(Here))) for _ in range(7)]  # type: ignore[arg-type]
        found.should_exit = True
        thread.join()
        return told

    assert statuses("10.0.0.0/8") == [204] * 2 + [429] * 5
    assert statuses("127.0.0.0/8") == [204] * 6 + [503]
