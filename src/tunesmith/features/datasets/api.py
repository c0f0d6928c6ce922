"""REST routes of datasets."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import FileResponse, StreamingResponse
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from tunesmith.core.errors import BadRequest, Conflict, TunesmithError
from tunesmith.features.datasets import comparing, files
from tunesmith.features.datasets.export import export
from tunesmith.features.datasets.multipart import Sink, receive
from tunesmith.features.datasets.service import Datasets, upload_path, upload_size, whole_upload
from tunesmith.features.datasets.tables import UploadRow
from tunesmith.http.pagination import Cursor, Limit
from tunesmith.http.session import AppState, DbSession, State
from tunesmith.schemas.common import Page, Wire
from tunesmith.schemas.datasets import (
    DatasetPreview,
    DatasetRead,
    DatasetStatistics,
    DatasetUpdate,
    RepairRequest,
    ValidationReport,
    VersionRead,
)

router = APIRouter(prefix="/datasets", tags=["datasets"])

DatasetId = int
Digest = Annotated[str | None, Query(pattern=r"^[0-9a-f]{64}$", description="A version; the newest when absent.")]


def get_datasets(state: State, session: DbSession) -> Datasets:
    return Datasets(state.settings, session, state.bus)


Service = Annotated[Datasets, Depends(get_datasets)]


class UploadResult(BaseModel):
    """What became of one file of a bulk upload."""

    file_name: str
    dataset: DatasetRead | None = None
    error: dict[str, Any] | None = None


class UploadAnswer(BaseModel):
    """`items` has one entry for each file of the request."""

    items: list[UploadResult]


class UploadBegin(Wire):
    name: str = Field(min_length=1, max_length=255, examples=["support.jsonl"])
    """File name; its ending helps to tell the format."""
    size_bytes: int = Field(ge=1, lt=2**62)


class UploadState(BaseModel):
    id: str
    name: str
    size_bytes: int
    offset: int
    """Bytes that have come."""


class UploadCommit(Wire):
    sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$")
    """Of the whole file; checked when given."""


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
                                         "name": {"type": "string"}, "description": {"type": "string"}}}}}},
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
        items = await run_in_threadpool(_make_all, state, sink.results, fields)
    except ClientDisconnect:
        raise BadRequest("The upload was cut off.") from None
    finally:
        await run_in_threadpool(sink.discard)
    if any(item.error for item in items):
        response.status_code = 207
    state.wake_datasets()
    return UploadAnswer(items=items)


def _make_all(
    state: AppState, results: list[tuple[str, files.Received | TunesmithError]], fields: dict[str, str]
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
        made = make_dataset(state, result, file_name, name, fields.get("description", ""))
        items.append(UploadResult(file_name=made.file_name, dataset=made))
    return items


def make_dataset(
    state: AppState, received: files.Received, file_name: str, name: str | None, description: str
) -> DatasetRead:
    with state.database.unit_of_work() as session:
        datasets = Datasets(state.settings, session, state.bus)
        row = datasets.create(received, file_name, name, description)
        return datasets.read([row])[0]


@router.put("/upload", status_code=201, response_model=DatasetRead, openapi_extra={
    "requestBody": {"required": True, "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}},
})  # fmt: skip
async def upload_raw(
    request: Request,
    state: State,
    file_name: Annotated[str, Query(min_length=1, max_length=255, examples=["support.jsonl"])],
    name: Annotated[str | None, Query(max_length=200)] = None,
) -> DatasetRead:
    """Upload one file as the body of the request: `curl --upload-file data.csv '…/datasets/upload?file_name=data.csv'`."""
    incoming = await run_in_threadpool(files.Incoming, state.settings)
    try:
        async for chunk in request.stream():
            if chunk:
                await run_in_threadpool(incoming.write, chunk)
        received = await run_in_threadpool(incoming.finish)
        made = await run_in_threadpool(make_dataset, state, received, file_name, name, "")
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
    have = upload_size(service.settings, upload_id)
    row = service.rows.upload(upload_id)
    return UploadState(id=row.id, name=row.name, size_bytes=row.size_bytes, offset=have)


@router.patch("/uploads/{upload_id}", response_model=UploadState, openapi_extra={
    "requestBody": {"required": True, "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}},
})  # fmt: skip
async def upload_part(
    upload_id: str, request: Request, state: State, offset: Annotated[int, Query(ge=0, lt=2**62)]
) -> UploadState:
    """Send the bytes from `offset` on. What has come is kept even when the connection breaks."""
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


@router.post("/uploads/{upload_id}/commit", status_code=201, response_model=DatasetRead)
def commit_upload(upload_id: str, body: UploadCommit, state: State) -> DatasetRead:
    """The upload is whole: make it a dataset."""
    received = whole_upload(state.settings, _upload(state, upload_id), body.sha256)
    with state.database.unit_of_work() as session:
        service = Datasets(state.settings, session, state.bus)
        made = service.read([service.take_upload(upload_id, received)])[0]
    state.wake_datasets()
    return made


@router.get("/", response_model=Page[DatasetRead])
def list_datasets(
    service: Service,
    type: Literal["text", "image", "audio", "video", "tabular"] | None = None,  # noqa: A002
    status: Literal["processing", "ready", "failed"] | None = None,
    tag: Annotated[str | None, Query(max_length=50)] = None,
    q: Annotated[str | None, Query(max_length=200, description="In name, description or file name.")] = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[DatasetRead]:
    """Datasets, newest first."""
    query = service.rows.filtered(kind=type, status=status, tag=tag, text=q)
    rows, next_cursor = service.rows.page(query, cursor=cursor, limit=limit)
    return Page(items=service.read(rows), next_cursor=next_cursor, total=service.rows.count(query))


@router.get("/{dataset_id}", response_model=DatasetRead)
def get_dataset(dataset_id: DatasetId, service: Service) -> DatasetRead:
    return service.read([service.rows.get(dataset_id)])[0]


@router.patch("/{dataset_id}", response_model=DatasetRead)
def update_dataset(dataset_id: DatasetId, body: DatasetUpdate, service: Service, state: State) -> DatasetRead:
    """Edit name, description and tags; a new shape or mapping makes a new version."""
    row = service.update(dataset_id, body)
    state.wake_datasets()
    return service.read([row])[0]


@router.delete("/{dataset_id}", status_code=204)
def delete_dataset(dataset_id: DatasetId, service: Service, state: State) -> None:
    """Refused while a job that is not over uses it."""
    service.delete(dataset_id, state.dataset_users)


@router.get("/{dataset_id}/validation", response_model=ValidationReport)
def validation(dataset_id: DatasetId, service: Service, version: Digest = None) -> ValidationReport:
    """What is right and wrong with it, with row numbers."""
    return service.validation(dataset_id, version)


@router.get("/{dataset_id}/statistics", response_model=DatasetStatistics)
def statistics(dataset_id: DatasetId, service: Service, version: Digest = None) -> DatasetStatistics:
    return service.statistics(dataset_id, version)


@router.get("/{dataset_id}/preview", response_model=DatasetPreview)
def preview(
    dataset_id: DatasetId,
    service: Service,
    version: Digest = None,
    offset: Annotated[int, Query(ge=0, lt=2**62)] = 0,
    limit: Annotated[int, Query(ge=1, le=500)] = 20,
) -> DatasetPreview:
    """Rows from `offset` on."""
    return service.preview(dataset_id, version, offset, limit)


@router.get("/{dataset_id}/versions", response_model=list[VersionRead])
def versions(dataset_id: DatasetId, service: Service) -> list[VersionRead]:
    """Newest first, each with what it changed."""
    return service.version_reads(dataset_id)


@router.get("/{dataset_id}/overlap", response_model=ValidationReport)
def overlap(
    dataset_id: DatasetId, state: State, held_out: Annotated[int, Query(ge=1, lt=2**63)], version: Digest = None
) -> ValidationReport:
    """Rows of the dataset `held_out` that this one has too, exactly or nearly."""
    return comparing.overlap(state.settings, state.database, dataset_id, version, held_out)


@router.post("/{dataset_id}/repair", status_code=202, response_model=DatasetRead)
def repair(
    dataset_id: DatasetId, body: RepairRequest, service: Service, state: State, version: Digest = None
) -> DatasetRead:
    """Make a new version with the chosen repairs; `GET …/versions` says what each changed once the status is ready."""
    row = service.repair(dataset_id, version, body)
    state.wake_datasets()
    return service.read([row])[0]


@router.get(
    "/{dataset_id}/download",
    response_class=StreamingResponse,
    responses={200: {"content": {"application/octet-stream": {}}}},
)
def download(
    dataset_id: DatasetId,
    service: Service,
    version: Digest = None,
    format: Literal["original", "parquet", "jsonl", "csv"] = "original",  # noqa: A002
) -> Response:
    """The untouched original, or a version in another format. CSV for spreadsheets cannot start formulas."""
    row = service.rows.get(dataset_id)
    headers = {"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "sandbox"}
    if format == "original":
        path = files.original_path(service.settings, dataset_id)
        return FileResponse(
            path, media_type="application/octet-stream", filename=row.file_name or "data", headers=headers
        )
    found = service.version(dataset_id, version)
    path = files.version_dir(service.settings, dataset_id, found.digest) / "data.parquet"
    name = f"{row.name}.{format}"
    if format == "parquet":
        return FileResponse(path, media_type="application/octet-stream", filename=name, headers=headers)
    from urllib.parse import quote

    headers["Content-Disposition"] = f"attachment; filename*=UTF-8''{quote(name)}"
    return StreamingResponse(export(path, format), media_type="application/octet-stream", headers=headers)
