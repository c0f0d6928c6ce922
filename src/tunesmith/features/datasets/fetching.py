"""Datasets from an address: the server fetches the file by the one checked way out, and takes it like an upload."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from urllib.parse import unquote

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool

from tunesmith.core.errors import BadRequest, TooMany
from tunesmith.core.outbound import checked_url, fetch
from tunesmith.features.datasets import files
from tunesmith.features.datasets.chosen_shape import check_reading
from tunesmith.features.datasets.upload_api import make_dataset
from tunesmith.http.session import State
from tunesmith.schemas.datasets import DatasetRead, FromUrl
from tunesmith.schemas.read_options import ReadOptions

router = APIRouter()

FETCH_WITHIN_S = 3600.0
MAX_FETCHES = 4
"""Files that are fetched at the same time."""
MAX_NAME_CHARS = 255

_fetching: list[str] = []
"""Addresses that are being fetched from at this moment."""


@router.post("/from-url", status_code=201, response_model=DatasetRead)
async def from_url(body: FromUrl, request: Request, state: State) -> DatasetRead:
    """Fetch a file from a public address and make it a dataset; the same limits as for an upload."""
    settings, options = state.settings, ReadOptions(**body.given())
    check_reading(options)
    file_name = name_of(body.url)
    with _one_more(body.url):
        pieces = fetch(
            body.url, max_bytes=settings.max_upload_bytes, timeout_s=FETCH_WITHIN_S,
            allowed_private=settings.allowed_addresses,
        )  # fmt: skip
        incoming = await run_in_threadpool(files.Incoming, settings)
        try:
            while piece := await run_in_threadpool(next, pieces, b""):
                await run_in_threadpool(incoming.write, piece)
                if await request.is_disconnected():
                    raise BadRequest("Nobody waits for the file any more, so it is not fetched.")
            received = await run_in_threadpool(incoming.finish)
            made = await run_in_threadpool(
                make_dataset, state, received, file_name, body.name, body.description, options
            )
        finally:
            await run_in_threadpool(incoming.discard)
    state.wake_datasets()
    return made


def name_of(url: str) -> str:
    """The last part of the address's path, whose ending helps to tell the format. Raises `InvalidInput` for no address."""
    place = checked_url(url)
    return unquote(place.path.rstrip("/").rpartition("/")[2])[:MAX_NAME_CHARS] or place.host


@contextlib.contextmanager
def _one_more(url: str) -> Iterator[None]:
    """Raises `TooMany` while enough are fetched already."""
    if len(_fetching) >= MAX_FETCHES:
        raise TooMany(f"{MAX_FETCHES} files are being fetched already.", hint="Try again when one of them has come.")
    _fetching.append(url)
    try:
        yield
    finally:
        _fetching.remove(url)
