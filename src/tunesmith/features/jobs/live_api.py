"""Jobs as they run: WebSocket and server-sent events, replayed after a sequence number and then followed.

Events are numbered by the database. What the bus brings in sequence goes out as it is; after any gap the database is read,
so nothing is lost, doubled or sent out of order. Another server on the same database (PostgreSQL) says nothing on our bus:
there the database is looked at every second as well.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Query, WebSocket, WebSocketDisconnect
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from tunesmith.core.acting import Scope, current
from tunesmith.core.errors import NotFound
from tunesmith.core.job_status import JobStatus
from tunesmith.features.jobs import service
from tunesmith.features.jobs.repository import JobRepository
from tunesmith.http.policy import declare
from tunesmith.http.session import AppState, State, get_state
from tunesmith.live.bus import Dropped, Subscription
from tunesmith.storage.outage import DatabaseAway

router = APIRouter(prefix="/jobs", tags=["jobs"])

JobId = Annotated[int, Path(ge=1, lt=2**63, description="The job's number.", examples=[1])]
After = Annotated[int, Query(ge=0, lt=2**31, description="Sequence number of the last event you have.")]

BATCH = 500
"""Events read from the database at once."""
LOOK_S = 1.0
"""Longest pause between two looks at a database that other servers write too."""
LOOK_ALONE_S = 10.0
"""The same where this server is the only one."""
HEARTBEAT_S = 10.0
"""A sign of life on a silent stream, so that proxies keep it open."""
SLOW_S = 30.0
"""A reader that takes nothing for so long is sent away; it comes back with its last number."""
AWAY = "the database does not answer; connect again"
COME_BACK = "too slow; connect again with after=<your last seq>"
STREAM: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {}}, "description": "Server-sent events; `id` is the sequence number."}
}


async def follow(state: AppState, job_id: int, after: int) -> AsyncIterator[dict[str, Any] | None]:
    """`{job_id, seq, event}` for every event after `after`, in order; None when all is silent. Ends with the job.

    Raises `Dropped` when the reader falls too far behind.
    """
    look_s = LOOK_ALONE_S if state.database.is_sqlite else LOOK_S
    async with state.bus.subscribe(f"job:{job_id}") as news:
        spoke = time.monotonic()
        while True:
            try:
                events, is_over = await run_in_threadpool(_read_after, state, job_id, after)
            except DatabaseAway:  # the reader stays: what happens meanwhile comes when it is back
                await asyncio.sleep(LOOK_S)
                yield None
                continue
            for event in events:
                after, spoke = event["seq"], time.monotonic()
                yield event
            if len(events) == BATCH:
                continue
            if is_over:
                return
            async for message in _in_sequence(news, after, look_s):
                after, spoke = message["seq"], time.monotonic()
                yield message
            if time.monotonic() - spoke >= HEARTBEAT_S:
                spoke = time.monotonic()
                yield None


async def _in_sequence(news: Subscription, after: int, look_s: float) -> AsyncIterator[dict[str, Any]]:
    """What the bus says next, until a gap, a last word, or `look_s` have passed: then the database is to be asked."""
    until = time.monotonic() + look_s
    while (left_s := until - time.monotonic()) > 0:
        message = await news.get(left_s)
        if message is None:
            return
        if message["seq"] <= after:
            continue
        if message["seq"] > after + 1:
            return
        after = message["seq"]
        yield message
        if message["event"]["type"] == "status" and JobStatus(message["event"]["new"]).is_final:
            return


async def follow_all(state: AppState) -> AsyncIterator[dict[str, Any] | None]:
    """What happens from now on to any job that may be seen, as the bus tells it."""
    sees_all = current().sees_all
    async with state.bus.subscribe("jobs") as news:
        while True:
            message = await news.get(HEARTBEAT_S)
            if message is None or sees_all or await run_in_threadpool(_may_see, state, message["job_id"]):
                yield message


def _may_see(state: AppState, job_id: int) -> bool:
    with contextlib.suppress(DatabaseAway), state.database.unit_of_work(readonly=True) as session:
        return bool(JobRepository(session).statuses([job_id]))
    return False


def _read_after(state: AppState, job_id: int, after: int) -> tuple[list[dict[str, Any]], bool]:
    """The next events, and whether the job is over with nothing left to come. A job that was deleted is over."""
    with state.database.unit_of_work(readonly=True) as session:
        jobs = JobRepository(session)
        status = jobs.statuses([job_id]).get(job_id)
        rows = jobs.events(job_id, after=after, limit=BATCH)
        events = [{"job_id": job_id, "seq": row.seq, "event": row.body} for row in rows]
    return events, status is None or (JobStatus(status).is_final and len(events) < BATCH)


def _check(state: AppState, job_id: int) -> None:
    with state.database.unit_of_work(readonly=True) as session:
        service.get(session, job_id)


@router.get("/stream", response_class=StreamingResponse, responses=STREAM, summary="All jobs, live")
async def stream_all(state: State) -> StreamingResponse:
    """Server-sent events of every job from now on, without replay: list the jobs first."""
    return _server_sent(follow_all(state))


@router.get("/{job_id}/stream", response_class=StreamingResponse, responses=STREAM, summary="One job, live")
async def stream_job(
    job_id: JobId,
    state: State,
    after: After = 0,
    last_event_id: Annotated[str | None, Header(max_length=20, pattern=r"^[0-9]{1,9}$")] = None,
) -> StreamingResponse:
    """Server-sent events: first those after `after` (or the browser's `Last-Event-ID`), then what happens; ends with the job."""
    await run_in_threadpool(_check, state, job_id)
    return _server_sent(follow(state, job_id, max(after, int(last_event_id or 0))))


@router.websocket("/{job_id}/live")
async def live_job(websocket: WebSocket, job_id: int, after: int = 0) -> None:
    """The same as a WebSocket: one JSON object `{job_id, seq, event}` a message; `{"heartbeat": true}` when silent.

    Closed with 1000 when the job has ended, 4404 when there is none, 1013 when the reader is too slow or the
    database is away: connect again.
    """
    state = get_state(websocket)
    await websocket.accept()
    try:
        await run_in_threadpool(_check, state, job_id)
    except NotFound:
        await websocket.close(4404, "there is no such job")
        return
    except DatabaseAway:
        await websocket.close(1013, AWAY)
        return
    gone = asyncio.create_task(_until_gone(websocket))
    sending = asyncio.create_task(_send_all(websocket, follow(state, job_id, min(max(0, after), 2**31 - 1))))
    done, pending = await asyncio.wait({gone, sending}, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    await asyncio.gather(*pending, return_exceptions=True)
    for task in done:
        task.result()


async def _send_all(websocket: WebSocket, messages: AsyncIterator[dict[str, Any] | None]) -> None:
    try:
        async for message in messages:
            await asyncio.wait_for(websocket.send_text(json.dumps(message or {"heartbeat": True})), SLOW_S)
        await websocket.close(1000)
    except (TimeoutError, Dropped):
        await websocket.close(1013, COME_BACK)
    except WebSocketDisconnect:
        return


async def _until_gone(websocket: WebSocket) -> None:
    """Until the reader closes; what it says is not listened to."""
    try:
        while True:
            await websocket.receive_text()
    except (WebSocketDisconnect, KeyError):
        return


def _server_sent(messages: AsyncIterator[dict[str, Any] | None]) -> StreamingResponse:
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(_lines(messages), media_type="text/event-stream", headers=headers)


async def _lines(messages: AsyncIterator[dict[str, Any] | None]) -> AsyncIterator[str]:
    yield "retry: 1000\n: connected\n\n"
    try:
        async for message in messages:
            if message is None:
                yield ": still here\n\n"
                continue
            yield f"id: {message['seq']}\nevent: {message['event']['type']}\ndata: {json.dumps(message)}\n\n"
    except Dropped:
        yield f": {COME_BACK}\n\n"
        return
    yield "event: end\ndata: {}\n\n"


declare(router, read=Scope.READ, write=Scope.TRAIN)
