"""The machine as it goes: a sample every few seconds as a server-sent event, those that were missed first."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query
from fastapi.responses import StreamingResponse

from tunesmith.core.acting import Scope
from tunesmith.features.monitoring.api import Monitoring
from tunesmith.features.monitoring.history import columns
from tunesmith.features.monitoring.monitor import Monitor
from tunesmith.features.monitoring.sampler import TOPIC, Sample
from tunesmith.http.policy import declare
from tunesmith.http.session import AppState, State
from tunesmith.live.bus import Dropped

router = APIRouter(prefix="/system", tags=["system"])

HEARTBEAT_S = 15.0
STREAM: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {}}, "description": "Server-sent events; `data` is as of the history."}
}


@router.get("/resources/stream", response_class=StreamingResponse, responses=STREAM, summary="The machine, live")
async def stream_resources(
    state: State,
    monitor: Monitoring,
    since: Annotated[float | None, Query(ge=0, lt=1e12, description="Seconds since 1970.")] = None,
    last_event_id: Annotated[str | None, Header(max_length=20, pattern=r"^[0-9]{1,12}(\.[0-9]{1,3})?$")] = None,
) -> StreamingResponse:
    """Samples after `since` (or the browser's `Last-Event-ID`) in one event, then each as it is taken."""
    after_s = float(last_event_id) if last_event_id else since
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(_lines(state, monitor, after_s), media_type="text/event-stream", headers=headers)


async def _lines(state: AppState, monitor: Monitor, after_s: float | None) -> AsyncIterator[str]:
    yield "retry: 1000\n: connected\n\n"
    async with state.bus.subscribe(TOPIC) as news:
        missed = monitor.sampler.since(after_s) if after_s is not None else []
        if missed:
            yield _event(state, missed)
        told_s = missed[-1].at_s if missed else 0.0
        try:
            while True:
                sample: Sample | None = await news.get(HEARTBEAT_S)
                if sample is None:
                    yield ": still here\n\n"
                elif sample.at_s > told_s:
                    yield _event(state, [sample])
        except Dropped:
            yield ": too slow; connect again\n\n"


def _event(state: AppState, samples: list[Sample]) -> str:
    told = columns(state.settings, samples).model_dump_json()
    return f"id: {samples[-1].at_s:.3f}\nevent: sample\ndata: {told}\n\n"


declare(router, read=Scope.READ, write=Scope.ADMIN)
