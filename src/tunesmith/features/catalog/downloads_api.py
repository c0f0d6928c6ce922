"""REST routes of downloads from the hub."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any, cast

from fastapi import APIRouter, Depends, Path, Response
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.requests import HTTPConnection

from tunesmith.core.acting import Scope
from tunesmith.features.catalog import downloads
from tunesmith.features.catalog.downloads import TOPIC, Downloads
from tunesmith.http.pagination import Cursor, Limit
from tunesmith.http.policy import declare
from tunesmith.http.session import AppState, State
from tunesmith.live.bus import Dropped
from tunesmith.schemas.common import ErrorBody, Page
from tunesmith.schemas.models import DownloadCreate, DownloadRead

router = APIRouter(prefix="/models/downloads", tags=["models"])

DownloadId = Annotated[int, Path(ge=1, lt=2**63, description="The download's number.", examples=[1])]
NOT_HERE: dict[int | str, dict[str, Any]] = {404: {"model": ErrorBody, "description": "No such download."}}
REFUSED: dict[int | str, dict[str, Any]] = {
    409: {"model": ErrorBody, "description": "The hub is switched off, or the model's terms have not been accepted."},
    503: {"model": ErrorBody, "description": "The hub does not answer."},
    507: {"model": ErrorBody, "description": "The disk has too little room."},
}
STREAM: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {}}, "description": "Server-sent events; `data` is a download."}
}
HEARTBEAT_S = 10.0


def get_downloads(connection: HTTPConnection) -> Downloads:
    return cast(Downloads, connection.app.state.downloads)


Watched = Annotated[Downloads, Depends(get_downloads)]


@router.get("", summary="Downloads")
def list_downloads(state: State, cursor: Cursor = None, limit: Limit = 50) -> Page[DownloadRead]:
    """Waiting, under way and over, newest first."""
    return downloads.list_downloads(state.settings, cursor=cursor, limit=limit)


@router.post("", status_code=202, responses=REFUSED, summary="Download a model")
def download_model(body: DownloadCreate, state: State, watched: Watched) -> DownloadRead:
    """Into the hub's cache: safetensors, configuration and tokenizer, or one GGUF file; never code or pickled weights.
    Each file is compared with the hub's digest. One that is under way already is given back as it is."""
    made = downloads.create(state.settings, body)
    watched.wake()
    return made


@router.get("/stream", response_class=StreamingResponse, responses=STREAM, summary="Downloads, live")
async def stream_downloads(state: State) -> StreamingResponse:
    """Those under way first, then each change as it happens."""
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(_lines(state), media_type="text/event-stream", headers=headers)


@router.get("/{download_id}", responses=NOT_HERE, summary="One download")
def get_download(download_id: DownloadId, state: State) -> DownloadRead:
    return downloads.read(state.settings, download_id)


@router.post("/{download_id}/cancel", responses=NOT_HERE, summary="Cancel a download")
def cancel_download(download_id: DownloadId, state: State, watched: Watched) -> DownloadRead:
    """What came in part is taken away; files that were whole stay in the cache."""
    ended = downloads.cancel(state.settings, download_id)
    watched.wake()
    return ended


@router.delete("/{download_id}", status_code=204, responses=NOT_HERE, summary="Take a download out of the list")
def remove_download(download_id: DownloadId, state: State) -> Response:
    """One that is over; the model stays."""
    downloads.remove(state.settings, download_id)
    return Response(status_code=204)


async def _lines(state: AppState) -> AsyncIterator[str]:
    yield "retry: 1000\n: connected\n\n"
    async with state.bus.subscribe(TOPIC) as news:
        for one in await run_in_threadpool(downloads.active, state.settings):
            yield _event(one)
        try:
            while True:
                one = await news.get(HEARTBEAT_S)
                yield ": still here\n\n" if one is None else _event(one)
        except Dropped:
            yield ": too slow; connect again\n\n"


def _event(one: DownloadRead) -> str:
    return f"event: download\ndata: {one.model_dump_json()}\n\n"


declare(router, read=Scope.READ, write=Scope.TRAIN)
