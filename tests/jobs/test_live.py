"""Live streams over real connections: nothing lost, doubled or out of order, whoever writes and however often readers return."""

from __future__ import annotations

import asyncio
import json
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import websockets

from tests.conftest import lay_database
from tests.jobs.conftest import custom
from tests.jobs.serving_app import serve
from tunesmith.app import create_app
from tunesmith.core.events import StepEvent
from tunesmith.core.job_status import JobStatus
from tunesmith.features.jobs import live_api
from tunesmith.features.jobs.lifecycle import Lifecycle
from tunesmith.live import bus as bus_module
from tunesmith.live.bus import Bus
from tunesmith.settings import Settings
from tunesmith.storage.database import Database

EVENTS = 300


@pytest.fixture
def settings(home: Path, database_url: str | None) -> Settings:
    if database_url is None:
        lay_database(home)
    return Settings(home=home, database_url=database_url, custom_scripts=True, hub_offline=True, cpu_slots=0)


@pytest.fixture
def app(settings: Settings) -> Any:
    return create_app(settings)


@pytest.fixture
def host(app: Any) -> Iterator[str]:
    with serve(app) as found:
        yield found


def new_job(host: str) -> int:
    return int(httpx.post(f"http://{host}/api/v1/jobs/", json=custom()).json()["id"])


def write_events(database: Database, bus: Bus, job_id: int, *, count: int = EVENTS, pause_s: float = 0.002) -> None:
    """What the scheduler does for a running job: batches of events, then the end."""
    step = 0
    with database.unit_of_work() as session:
        life = Lifecycle(session, bus)
        life.transition(life.jobs.get(job_id, for_update=True), JobStatus.RUNNING)
    while step < count:
        batch = min(random.randint(1, 5), count - step)
        events = [
            StepEvent(step=step + n + 1, total_steps=count, epoch=0, loss=1.0, learning_rate=1e-4) for n in range(batch)
        ]
        step += batch
        with database.unit_of_work() as session:
            life = Lifecycle(session, bus)
            life.record_events(life.jobs.get(job_id, for_update=True), events, step)
        time.sleep(pause_s)
    with database.unit_of_work() as session:
        life = Lifecycle(session, bus)
        life.transition(life.jobs.get(job_id, for_update=True), JobStatus.COMPLETED)


async def read_socket(host: str, job_id: int, after: int, most: int | None = None) -> tuple[list[dict[str, Any]], bool]:
    """Messages until the stream ends (True) or `most` have come."""
    got: list[dict[str, Any]] = []
    # Without max_queue=None the client stops reading at 16 messages, and hanging up then takes it ten seconds.
    async with websockets.connect(f"ws://{host}/api/v1/jobs/{job_id}/live?after={after}", max_queue=None) as socket:
        async for text in socket:
            message = json.loads(text)
            if "seq" in message:
                got.append(message)
            if most is not None and len(got) >= most:
                return got, False
    return got, True


async def read_stream(host: str, job_id: int, after: int, most: int | None = None) -> tuple[list[dict[str, Any]], bool]:
    """The same over server-sent events, with `Last-Event-ID` as browsers send it."""
    got: list[dict[str, Any]] = []
    headers = {"Last-Event-ID": str(after)} if after else {}
    async with (
        httpx.AsyncClient(timeout=30) as client,
        client.stream("GET", f"http://{host}/api/v1/jobs/{job_id}/stream", headers=headers) as answer,
    ):
        async for line in answer.aiter_lines():
            if line == "event: end":
                return got, True
            if line.startswith('data: {"job_id"'):
                got.append(json.loads(line[6:]))
            if most is not None and len(got) >= most:
                return got, False
    return got, False


async def read_with_breaks(host: str, job_id: int, seed: int) -> list[int]:
    """Every sequence number that a reader sees who hangs up at random and comes back with the last one."""
    chance = random.Random(seed)
    seen: list[int] = []
    is_over = False
    while not is_over:
        read = read_socket if chance.random() < 0.5 else read_stream
        got, is_over = await read(host, job_id, seen[-1] if seen else 0, chance.choice([2, 7, 40, None]))
        seen += [message["seq"] for message in got]
    return seen


def test_readers_that_come_and_go_see_every_event_once_and_in_order(host: str, app: Any) -> None:
    job_id = new_job(host)
    state = app.state.tunesmith
    writer = threading.Thread(target=write_events, args=(state.database, state.bus, job_id))
    writer.start()

    async def watch() -> list[list[int]]:
        return await asyncio.gather(*(read_with_breaks(host, job_id, seed) for seed in range(12)))

    seen = asyncio.run(asyncio.wait_for(watch(), 60))
    writer.join()
    # created → queued, queued → running, the steps, running → completed
    assert all(numbers == list(range(1, EVENTS + 4)) for numbers in seen)


def test_what_another_server_writes_comes_within_a_second_or_two(
    host: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    if settings.database_url is None:
        monkeypatch.setattr(live_api, "LOOK_ALONE_S", 1.0)  # SQLite has one server; another writer is only made up here
    job_id = new_job(host)
    other = Database(settings.sqlalchemy_url)
    writer = threading.Thread(target=write_events, args=(other, Bus(), job_id), kwargs={"count": 40})
    writer.start()
    started = time.monotonic()
    got, is_over = asyncio.run(asyncio.wait_for(read_socket(host, job_id, 0), 30))
    writer.join()
    other.close()
    assert is_over and [m["seq"] for m in got] == list(range(1, 44))
    assert time.monotonic() - started < 8


def test_the_replay_of_a_job_that_is_over_ends_at_once(host: str, app: Any) -> None:
    job_id = new_job(host)
    state = app.state.tunesmith
    write_events(state.database, state.bus, job_id, count=1200, pause_s=0)
    for read in (read_socket, read_stream):
        got, is_over = asyncio.run(asyncio.wait_for(read(host, job_id, 0), 20))
        assert is_over and [m["seq"] for m in got] == list(range(1, 1204))
        assert got[-1]["event"]["new"] == "completed"
        got, is_over = asyncio.run(asyncio.wait_for(read(host, job_id, 1200), 20))
        assert [m["seq"] for m in got] == [1201, 1202, 1203]


def test_a_reader_that_falls_behind_is_told_to_come_back_and_loses_nothing(
    app: Any, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bus_module, "MAX_QUEUED", 20)
    state = app.state.tunesmith
    with serve(app) as host:
        job_id = new_job(host)

        async def slow() -> tuple[list[int], str]:
            seen: list[int] = []
            last = ""
            lines = live_api._lines(live_api.follow(state, job_id, 0))
            async for text in lines:
                last = text
                if text.startswith("id: "):
                    seen.append(int(text[4:].split("\n")[0]))
                    if len(seen) == 2:
                        await asyncio.to_thread(write_events, state.database, state.bus, job_id, count=200, pause_s=0)
                        await asyncio.sleep(0.1)
            return seen, last

        with state.database.unit_of_work() as session:
            life = Lifecycle(session, state.bus)
            job = life.jobs.get(job_id)
            life.transition(job, JobStatus.PAUSED)
        with state.database.unit_of_work() as session:
            life = Lifecycle(session, state.bus)
            life.enqueue(life.jobs.get(job_id))

        async def main() -> None:
            seen, last = await asyncio.wait_for(slow(), 30)
            while live_api.COME_BACK in last:
                rest, is_over = await read_stream(host, job_id, seen[-1])
                seen += [m["seq"] for m in rest]
                last = "" if is_over else last
            assert seen == list(range(1, 206))

        asyncio.run(main())


def test_a_stream_of_all_jobs_and_refusals(host: str, app: Any) -> None:
    async def main() -> None:
        async with (
            httpx.AsyncClient(timeout=20) as client,
            client.stream("GET", f"http://{host}/api/v1/jobs/stream") as answer,
        ):
            lines = answer.aiter_lines()
            assert await anext(lines) == "retry: 1000"
            ids = [(await client.post(f"http://{host}/api/v1/jobs/", json=custom())).json()["id"] for _ in range(2)]
            told = []
            while len(told) < 2:
                line = await anext(lines)
                if line.startswith("data: "):
                    told.append(json.loads(line[6:]))
            assert [t["job_id"] for t in told] == ids and {t["event"]["new"] for t in told} == {"queued"}
            assert (await client.get(f"http://{host}/api/v1/jobs/999/stream")).status_code == 404
        for job_id in ("999", "0", str(2**70)):
            with pytest.raises(websockets.ConnectionClosed) as closed:
                async with websockets.connect(f"ws://{host}/api/v1/jobs/{job_id}/live") as socket:
                    await socket.recv()
            assert closed.value.rcvd and closed.value.rcvd.code == 4404
        with pytest.raises(websockets.InvalidStatus):
            await websockets.connect(f"ws://{host}/api/v1/jobs/1/live", origin="http://evil.example")  # type: ignore[arg-type]

    asyncio.run(asyncio.wait_for(main(), 30))
