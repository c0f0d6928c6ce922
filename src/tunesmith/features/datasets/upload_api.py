"""REST routes of uploads: in one request, or in parts that may be broken off, continued and looked at before they are kept."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from tunesmith.core.acting import Scope
from tunesmith.core.errors import BadRequest, Conflict, TunesmithError
from tunesmith.features.datasets import files, trying
from tunesmith.features.datasets.chosen_shape import check_reading
from tunesmith.features.datasets.multipart import Sink, receive
from tunesmith.features.datasets.service import Datasets, upload_path, upload_size, whole_upload
from tunesmith.features.datasets.tables import UploadRow
from tunesmith.http.errors import invalid_input
from tunesmith.http.policy import declare, needs
from tunesmith.http.session import AppState, DbSession, State
from tunesmith.schemas.datasets import (
    DatasetRead,
    UploadBegin,
    UploadCommit,
    UploadPreview,
    UploadState,
)
from tunesmith.schemas.read_options import ReadOptions, options_among

router = APIRouter()
AS_TEXT = {
    "columns": " Names set apart by commas.",
    "mapping": " As role=column, set apart by commas, or as a JSON object.",
}
OPTION_FIELDS = {
    name: {"type": "string", "description": f"{field.description}{AS_TEXT.get(name, '')}"}
    for name, field in ReadOptions.model_fields.items()
}
"""The reading options as fields of a form or of a query, where all is text."""


def options_from(given: Iterable[tuple[str, str]]) -> ReadOptions:
    """The reading options of a form or a query. Raises `InvalidInput` naming every bad one."""
    try:
        options = ReadOptions.model_validate(options_among(given))
    except ValidationError as error:
        raise invalid_input(error) from None
    check_reading(options)
    return options


def get_datasets(state: State, session: DbSession) -> Datasets:
    return Datasets(state.settings, session, state.bus)


Service = Annotated[Datasets, Depends(get_datasets)]

_receiving: set[str] = set()
"""Uploads of which a request sends a part at this moment."""


class UploadResult(BaseModel):
    """What became of one file of a bulk upload."""

    file_name: str
    dataset: DatasetRead | None = None
    error: dict[str, Any] | None = None


class UploadAnswer(BaseModel):
    """`items` has one entry for each file of the request."""

    items: list[UploadResult]


class _Files(Sink):
    """Takes the files of one request; a bad one does not spoil the others."""

    def __init__(self, state: AppState) -> None:
        self.state = state
        self.incoming: files.Incoming | None = None
        self.name = ""
        self.problem: TunesmithError | None = None
        self.results: list[tuple[str, files.Received | TunesmithError]] = []

    def begin(self, file_name: str) -> None:
        self.name, self.problem, self.incoming = file_name, None, None
        try:
            self.incoming = files.Incoming(self.state.settings)
        except TunesmithError as error:
            self.problem = error

    def write(self, data: bytes) -> None:
        if self.problem is None and self.incoming is not None:
            try:
                self.incoming.write(data)
            except TunesmithError as error:
                self.problem = error
                self.incoming.discard()

    def end(self) -> None:
        result: files.Received | TunesmithError | None = self.problem
        if result is None and self.incoming is not None:
            try:
                result = self.incoming.finish()
            except TunesmithError as error:
                self.incoming.discard()
                result = error
        self.incoming = None
        if result is not None:
            self.results.append((self.name, result))

    def discard(self) -> None:
        """Remove what no dataset has taken."""
        if self.incoming:
            self.incoming.discard()
        for _, result in self.results:
            if isinstance(result, files.Received):
                result.path.unlink(missing_ok=True)


@router.post("/", status_code=201, response_model=UploadAnswer, responses={207: {"model": UploadAnswer}}, openapi_extra={
    "requestBody": {"required": True, "content": {"multipart/form-data": {"schema": {
        "type": "object", "properties": {"file": {"type": "array", "items": {"type": "string", "format": "binary"}},
                                         "name": {"type": "string"}, "description": {"type": "string"}, **OPTION_FIELDS}}}}},
})  # fmt: skip
async def upload(request: Request, response: Response, state: State) -> UploadAnswer:
    """Upload one file or many. Each becomes a dataset that is `processing` until it is read.

    With a single bad file the answer is its error; with several files each has its own result and the status is 207 when
    some failed.
    """
    sink = _Files(state)
    try:
        fields = await receive(request.headers.get("content-type", ""), request.stream(), sink, run_in_threadpool)
        if not sink.results:
            raise BadRequest("The request has no file.", hint='Send it as a part named "file".')
        options = options_from(fields.items())
        items = await run_in_threadpool(_make_all, state, sink.results, fields, options)
    except ClientDisconnect:
        raise BadRequest("The upload was cut off.") from None
    finally:
        await run_in_threadpool(sink.discard)
    if any(item.error for item in items):
        response.status_code = 207
    state.wake_datasets()
    return UploadAnswer(items=items)


def _make_all(
    state: AppState,
    results: list[tuple[str, files.Received | TunesmithError]],
    fields: dict[str, str],
    options: ReadOptions,
) -> list[UploadResult]:
    """One unit of work a file, so that one bad file leaves the others."""
    single = len(results) == 1
    items = []
    for file_name, result in results:
        if isinstance(result, TunesmithError):
            if single:
                raise result
            items.append(UploadResult(file_name=file_name[:255], error=result.body()))
            continue
        name = fields.get("name") if single else None
        made = make_dataset(state, result, file_name, name, fields.get("description", ""), options)
        items.append(UploadResult(file_name=made.file_name, dataset=made))
    return items


def make_dataset(
    state: AppState,
    received: files.Received,
    file_name: str,
    name: str | None,
    description: str,
    options: ReadOptions,
) -> DatasetRead:
    """The dataset that a received file becomes. Raises as `Datasets.create`."""
    with state.database.unit_of_work() as session:
        datasets = Datasets(state.settings, session, state.bus)
        row = datasets.create(received, file_name, name, description, options=options)
        return datasets.read([row])[0]


@router.put("/upload", status_code=201, response_model=DatasetRead, openapi_extra={
    "parameters": [{"name": name, "in": "query", "required": False, "description": field["description"], "schema": field}
                   for name, field in OPTION_FIELDS.items()],
    "requestBody": {"required": True, "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}},
})  # fmt: skip
async def upload_raw(
    request: Request,
    state: State,
    file_name: Annotated[str, Query(min_length=1, max_length=255, examples=["support.jsonl"])],
    name: Annotated[str | None, Query(max_length=200)] = None,
) -> DatasetRead:
    """Upload one file as the body of the request: `curl --upload-file data.csv '…/datasets/upload?file_name=data.csv'`."""
    options = options_from(request.query_params.multi_items())
    incoming = await run_in_threadpool(files.Incoming, state.settings)
    try:
        async for chunk in request.stream():
            if chunk:
                await run_in_threadpool(incoming.write, chunk)
        received = await run_in_threadpool(incoming.finish)
        made = await run_in_threadpool(make_dataset, state, received, file_name, name, "", options)
    except ClientDisconnect:
        raise BadRequest("The upload was cut off.") from None
    finally:
        await run_in_threadpool(incoming.discard)
    state.wake_datasets()
    return made


@router.post("/uploads", status_code=201, response_model=UploadState)
def begin_upload(body: UploadBegin, service: Service) -> UploadState:
    """Begin an upload that may be broken off and continued."""
    row = service.begin_upload(body.name, body.size_bytes)
    return UploadState(id=row.id, name=row.name, size_bytes=row.size_bytes, offset=0)


@router.get("/uploads/{upload_id}", response_model=UploadState)
def upload_state(upload_id: str, service: Service) -> UploadState:
    """How much has come: go on from `offset`."""
    row = service.rows.upload(upload_id)
    have = upload_size(service.settings, upload_id)
    return UploadState(id=row.id, name=row.name, size_bytes=row.size_bytes, offset=have)


@router.patch("/uploads/{upload_id}", response_model=UploadState, openapi_extra={
    "requestBody": {"required": True, "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}},
})  # fmt: skip
@needs(Scope.TRAIN, changes=False)
async def upload_part(
    upload_id: str, request: Request, state: State, offset: Annotated[int, Query(ge=0, lt=2**62)]
) -> UploadState:
    """Send the bytes from `offset` on. What has come is kept even when the connection breaks."""
    with _alone(upload_id):
        return await _append(upload_id, request, state, offset)


async def _append(upload_id: str, request: Request, state: AppState, offset: int) -> UploadState:
    upload = await run_in_threadpool(_open_upload, state, upload_id, offset)
    try:
        async for chunk in request.stream():
            if chunk:
                await run_in_threadpool(upload.append, chunk)
    except ClientDisconnect:
        raise BadRequest("The upload was cut off.", hint="Ask for the offset and go on from there.") from None
    finally:
        await run_in_threadpool(upload.close)
    return UploadState(id=upload_id, name=upload.name, size_bytes=upload.size_bytes, offset=upload.offset)


@contextlib.contextmanager
def _alone(upload_id: str) -> Iterator[None]:
    """Raises `Conflict` while another request still sends parts of this upload."""
    if upload_id in _receiving:
        raise Conflict(
            "The part before is still being received.", hint="Wait a moment, ask for the offset, and go on from there."
        )
    _receiving.add(upload_id)
    try:
        yield
    finally:
        _receiving.discard(upload_id)


def _open_upload(state: AppState, upload_id: str, offset: int) -> files.Resumed:
    row = _upload(state, upload_id)
    have = upload_size(state.settings, upload_id)
    if offset != have:
        raise Conflict(
            f"{have} bytes have come, so the next part begins there, not at {offset}.", hint="Ask for the offset."
        )
    return files.Resumed(upload_path(state.settings, upload_id), row.name, row.size_bytes)


def _upload(state: AppState, upload_id: str) -> UploadRow:
    upload_path(state.settings, upload_id)
    with state.database.unit_of_work(readonly=True) as session:
        return Datasets(state.settings, session, state.bus).rows.upload(upload_id)


@router.delete("/uploads/{upload_id}", status_code=204)
def cancel_upload(upload_id: str, service: Service) -> None:
    """Forget an upload and what has come of it."""
    service.drop_upload(upload_id)


@router.post("/uploads/{upload_id}/preview", response_model=UploadPreview)
@needs(Scope.TRAIN, changes=False)
def preview_upload(upload_id: str, body: ReadOptions, state: State) -> UploadPreview:
    """What a whole upload would become: its first rows, columns, shape, and what validation finds. Nothing is saved."""
    return trying.look(state.settings, state.database, upload_id, body)


@router.post("/uploads/{upload_id}/commit", status_code=201, response_model=DatasetRead)
def commit_upload(upload_id: str, body: UploadCommit, state: State) -> DatasetRead:
    """The upload is whole: make it a dataset."""
    received = whole_upload(state.settings, _upload(state, upload_id), body.sha256)
    with state.database.unit_of_work() as session:
        service = Datasets(state.settings, session, state.bus)
        made = service.read([service.take_upload(upload_id, received, body)])[0]
    state.wake_datasets()
    return made


declare(router, read=Scope.TRAIN, write=Scope.TRAIN)
