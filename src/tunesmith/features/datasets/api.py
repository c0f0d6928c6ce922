"""REST routes of datasets."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query, Response
from fastapi.responses import FileResponse, StreamingResponse

from tunesmith.core.acting import Scope
from tunesmith.core.errors import BadRequest, TunesmithError
from tunesmith.features.datasets import comparing, files, rows, trying
from tunesmith.features.datasets.export import export
from tunesmith.features.datasets.fetching import router as fetching
from tunesmith.features.datasets.media import HEADERS as MEDIA_HEADERS
from tunesmith.features.datasets.media import find_media
from tunesmith.features.datasets.service import Datasets
from tunesmith.features.datasets.upload_api import Service
from tunesmith.features.datasets.upload_api import router as uploads
from tunesmith.http.pagination import Cursor, Limit
from tunesmith.http.policy import declare, needs
from tunesmith.http.session import State
from tunesmith.schemas.common import Page
from tunesmith.schemas.datasets import (
    BulkAnswer,
    BulkRequest,
    BulkResult,
    DatasetPreview,
    DatasetRead,
    DatasetStatistics,
    DatasetUpdate,
    EditRequest,
    RepairPreview,
    RepairRequest,
    TagCount,
    ValidationReport,
    VersionRead,
)

router = APIRouter(prefix="/datasets", tags=["datasets"])
router.include_router(uploads)
router.include_router(fetching)

DatasetId = int
Digest = Annotated[str | None, Query(pattern=r"^[0-9a-f]{64}$", description="A version; the newest when absent.")]
DatasetKind = Literal["text", "image", "audio", "video", "tabular"]
Sort = Literal["created", "name", "rows", "size"]


@router.get("/", response_model=Page[DatasetRead])
def list_datasets(
    service: Service,
    type: DatasetKind | None = None,  # noqa: A002
    status: Literal["processing", "ready", "failed"] | None = None,
    tag: Annotated[str | None, Query(max_length=50)] = None,
    q: Annotated[str | None, Query(max_length=200, description="In name, description or file name.")] = None,
    sort: Sort = "created",
    order: Annotated[
        Literal["asc", "desc"] | None, Query(description="Names ascend and all else descends when absent.")
    ] = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[DatasetRead]:
    """Datasets, newest first unless `sort` says otherwise."""
    return service.page(kind=type, status=status, tag=tag, text=q, sort=sort, order=order, cursor=cursor, limit=limit)


@router.get("/tags", response_model=list[TagCount])
def tags(service: Service) -> list[TagCount]:
    """Tags in use, the most used first."""
    return [TagCount(tag=tag, num_datasets=count) for tag, count in service.rows.tags()]


@router.post("/bulk", response_model=BulkAnswer, responses={207: {"model": BulkAnswer}})
def bulk(body: BulkRequest, response: Response, state: State) -> BulkAnswer:
    """Delete or tag many datasets. Each has its own result; the status is 207 when some failed."""
    if body.action != "delete" and not body.tags:
        raise BadRequest("No tag is named.", hint="Put the tags to add or take away into `tags`.")
    items = []
    for dataset_id in dict.fromkeys(body.ids):
        result = BulkResult(id=dataset_id)
        try:
            with state.database.unit_of_work() as session:
                datasets = Datasets(state.settings, session, state.bus)
                if body.action == "delete":
                    datasets.delete(dataset_id, state.dataset_users)
                elif body.action == "tag":
                    datasets.retag(dataset_id, add=body.tags)
                else:
                    datasets.retag(dataset_id, remove=body.tags)
        except TunesmithError as error:
            result.error = error.body()
            response.status_code = 207
        items.append(result)
    return BulkAnswer(items=items)


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
    row: Annotated[
        list[int] | None, Query(max_length=500, description="Only the rows of these numbers, from 1; may be repeated.")
    ] = None,
    q: Annotated[str | None, Query(min_length=1, max_length=200, description="Only rows that hold this text.")] = None,
    max_chars: Annotated[int | None, Query(ge=1, le=10_000_000, description="Longer cells are cut.")] = None,
    shape: Annotated[str | None, Query(max_length=50, description="Tell the talks as if the rows were of it.")] = None,
    role: Annotated[
        list[str] | None, Query(max_length=20, description="With `shape`: `role=column`; may be repeated.")
    ] = None,
) -> DatasetPreview:
    """Rows from `offset` on, or those that are named, or those that hold a text; `next_offset` tells where to go on."""
    data, about = service.data(dataset_id, version), service.version(dataset_id, version).about
    mapping = {name: column for name, _, column in (each.partition("=") for each in role or ())}
    reading = rows.Reading(shape, mapping) if shape else rows.Reading(about["shape"], about["mapping"])
    if row is not None:
        return rows.read_numbers(data, row, max_chars, reading)
    if q is not None:
        return rows.search(data, q, offset, limit, max_chars, reading)
    return rows.read_range(data, offset, limit, max_chars, reading)


@router.get(
    "/{dataset_id}/media/{name}",
    response_class=FileResponse,
    responses={200: {"content": {"application/octet-stream": {}}}},
)
def media(dataset_id: DatasetId, name: str, service: Service) -> FileResponse:
    """An image, sound or film, by the name that a row tells in `media`; parts of it by `Range`."""
    service.rows.get(dataset_id)
    path, media_type = find_media(service.settings, dataset_id, name)
    return FileResponse(path, media_type=media_type, headers=MEDIA_HEADERS)


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


@router.post("/{dataset_id}/repair/preview", response_model=RepairPreview)
@needs(Scope.READ)
def preview_repair(dataset_id: DatasetId, body: RepairRequest, state: State, version: Digest = None) -> RepairPreview:
    """What the repairs would change, with some rows before and after. Nothing is changed."""
    return trying.try_repairs(state.settings, state.database, dataset_id, version, body)


@router.post("/{dataset_id}/edit", status_code=202, response_model=DatasetRead)
def edit(
    dataset_id: DatasetId, body: EditRequest, service: Service, state: State, version: Digest = None
) -> DatasetRead:
    """Make a new version with some cells changed and some rows gone; the old one stays."""
    row = service.edit(dataset_id, version, body)
    state.wake_datasets()
    return service.read([row])[0]


@router.post("/{dataset_id}/versions/{digest}/restore", response_model=DatasetRead)
def restore(
    dataset_id: DatasetId, digest: Annotated[str, Path(pattern=r"^[0-9a-f]{64}$")], service: Service
) -> DatasetRead:
    """Show an older version again; the others stay. This undoes a repair, an edit or a mapping."""
    return service.read([service.restore(dataset_id, digest)])[0]


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
    """The untouched original, or a version in another format. Lists and objects are values again in JSON Lines and Parquet; CSV
    for spreadsheets cannot start formulas."""
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
    json_columns = found.about.get("json_columns", [])
    if format == "parquet" and not json_columns:
        return FileResponse(path, media_type="application/octet-stream", filename=name, headers=headers)
    from urllib.parse import quote

    headers["Content-Disposition"] = f"attachment; filename*=UTF-8''{quote(name)}"
    return StreamingResponse(export(path, format, json_columns), media_type="application/octet-stream", headers=headers)


declare(router, read=Scope.READ, write=Scope.TRAIN)
