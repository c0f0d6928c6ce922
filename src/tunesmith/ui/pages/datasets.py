"""The pages of datasets: the list, the upload, and one dataset with its tabs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse

from tunesmith.dataprep.shapes import SHAPES
from tunesmith.features.catalog import service as catalog
from tunesmith.features.datasets.service import Datasets
from tunesmith.http.session import DbSession, State
from tunesmith.schemas.datasets import DatasetRead, RepairRequest, ValidationReport, VersionRead
from tunesmith.ui.render import page

router = APIRouter(include_in_schema=False)
SMALL_BYTES = 1_000_000
"""A dataset below is deleted without typing its name: its file is sent again in a second."""

TYPES = ("text", "image", "audio", "video", "tabular")
STATUSES = ("ready", "processing", "failed")
SORTS = ("created", "name", "rows", "size")
PAGE_ROWS = 30
TABS = ("rows", "tokens", "statistics", "validation", "columns", "versions")
SHAPE_WORDS = {
    "messages": "Chat: a list of messages with role and content",
    "conversations": "Chat: ShareGPT conversations",
    "preference": "Preference: a prompt with a better and a worse answer",
    "kto": "Rated answers: a prompt, an answer, and whether it is good",
    "alpaca": "Instruction with optional input, and output",
    "prompt_completion": "Prompt and completion",
    "question_answer": "Question and answer",
    "input_output": "Input and output",
    "tokens_tags": "Tokens with a tag each",
    "text_label": "Text with a label",
    "text": "Plain text",
    "image": "Images",
    "audio": "Sounds",
    "video": "Films",
    "tabular": "A table of something else",
}
"""What each row shape is, for a person."""
REPAIR_WORDS = {
    "drop_empty": "Drop these rows",
    "drop_bad_rows": "Drop these rows",
    "drop_duplicates": "Drop the repeats",
    "fix_encoding": "Restore the characters",
}
"""Repair → its button beside a finding."""
CHANGE_WORDS = {
    "fix_encoding": "Mended wrongly decoded text",
    "answer_lists": "One answer instead of a list of them",
    "strip": "Cut blanks from the ends",
    "drop_empty": "Dropped empty rows",
    "drop_bad_rows": "Dropped rows that cannot be used for training",
    "drop_duplicates": "Dropped duplicates",
    "length_bounds": "Dropped rows outside the length bounds",
    "edit_cells": "Edited cells",
    "delete_rows": "Deleted rows",
}
ORIGIN_WORDS = {
    "upload": "Uploaded",
    "repair": "Repaired",
    "reading": "Read again",
    "mapping": "Columns mapped",
    "edit": "Edited by hand",
}

Text = Annotated[str, Query(max_length=200)]


def shapes_told() -> list[tuple[str, dict[str, Any]]]:
    """For scripts: what each shape is called and which roles it has. A list of pairs, because their order counts."""
    return [
        (name, {"words": SHAPE_WORDS[name], "roles": shape.roles, "required": shape.required})
        for name, shape in SHAPES.items()
    ]


def _addresses(path: str, **given: str) -> Callable[..., str]:
    """Makes addresses of `path` with what is `given`, some of it changed; what is empty is left out."""

    def address(**changes: str | int | None) -> str:
        query = {key: value for key, value in {**given, **changes}.items() if value}
        return path + (f"?{urlencode(query)}" if query else "")

    return address


@router.get("/datasets")
def index(
    request: Request,
    state: State,
    session: DbSession,
    q: Text = "",
    type: Text = "",  # noqa: A002
    status: Text = "",
    tag: Text = "",
    sort: Text = "",
    order: Text = "",
    cursor: Annotated[int | None, Query(ge=1, lt=2**63)] = None,
) -> HTMLResponse:
    """The list. A filter or an order that does not exist is passed over."""
    kind, status = (type if type in TYPES else ""), (status if status in STATUSES else "")
    sort, order = (sort if sort in SORTS else ""), (order if order in ("asc", "desc") else "")
    datasets = Datasets(state.settings, session, state.bus)
    found = datasets.page(
        kind=kind or None,
        status=status or None,
        tag=tag or None,
        text=q or None,
        sort=sort or "created",
        order=order or None,
        cursor=cursor,
        limit=PAGE_ROWS,
    )
    address = _addresses("/datasets", q=q, type=kind, status=status, tag=tag, sort=sort, order=order)
    chosen = {"q": q, "type": kind, "status": status, "tag": tag, "sort": sort or "created", "order": order}
    return page(
        request,
        "datasets/list.html",
        title="Datasets",
        section="datasets",
        found=found,
        small_bytes=SMALL_BYTES,
        chosen=chosen,
        filtered=bool(q or kind or status or tag),
        descending=(order or ("asc" if sort == "name" else "desc")) == "desc",
        address=address,
        cursor=cursor,
        tags=[name for name, _ in datasets.rows.tags()],
        types=TYPES,
        statuses=STATUSES,
        shapes=shapes_told(),
        max_upload_bytes=state.settings.max_upload_bytes,
    )


@router.get("/datasets/new")
def new(request: Request, state: State) -> HTMLResponse:
    """Files dropped or chosen, looked at, and saved."""
    return page(
        request,
        "datasets/new.html",
        title="Upload",
        section="datasets",
        breadcrumb=[("Datasets", "/datasets")],
        shapes=shapes_told(),
        max_upload_bytes=state.settings.max_upload_bytes,
    )


@router.get("/datasets/{dataset_id}")
def show(
    request: Request,
    dataset_id: int,
    state: State,
    session: DbSession,
    tab: Text = "rows",
    version: Annotated[str | None, Query(pattern=r"^[0-9a-f]{64}$")] = None,
    finding: Annotated[str, Query(max_length=50)] = "",
) -> HTMLResponse:
    """One dataset: of the version that is asked for, or of the one that it shows."""
    datasets = Datasets(state.settings, session, state.bus)
    dataset = datasets.read([datasets.rows.get(dataset_id)])[0]
    tab = tab if tab in TABS else "rows"
    versions = datasets.version_reads(dataset_id)
    seen = datasets.version(dataset_id, version).digest if version or dataset.version else None
    shown = next((one for one in versions if one.digest == seen), None)
    report = datasets.validation(dataset_id, seen) if shown else None
    return page(
        request,
        "datasets/show.html",
        title=dataset.name,
        section="datasets",
        breadcrumb=[("Datasets", "/datasets")],
        dataset=dataset,
        small_bytes=SMALL_BYTES,
        tab=tab,
        tabs=_tabs(dataset, report, versions),
        versions=versions,
        shown=shown,
        is_newest=shown is not None and shown.digest == dataset.version,
        report=report,
        statistics=datasets.statistics(dataset_id, seen) if shown and tab == "statistics" else None,
        finding=_finding(report, finding),
        rows_of=_rows_of(dataset, shown) if shown else None,
        read_as=_read_as(dataset) if shown and shown.digest == dataset.version else None,
        address=_addresses(f"/datasets/{dataset_id}", tab=tab, version=version or ""),
        shapes=shapes_told(),
        repair_words=REPAIR_WORDS,
        change_words=CHANGE_WORDS,
        origin_words=ORIGIN_WORDS,
        repairs=RepairRequest(),
        model_names=[model.name for model in catalog.list_models(state.settings)] if tab == "tokens" else [],
        charts=_charts(report) if report and tab == "statistics" else [],
    )


def _tabs(
    dataset: DatasetRead, report: ValidationReport | None, versions: list[VersionRead]
) -> list[tuple[str, str, int | None]]:
    problems = sum(finding.level != "info" for finding in report.findings) if report else 0
    return [
        ("rows", "Rows", None),
        ("tokens", "What the model sees", None),
        ("statistics", "Statistics", None),
        ("validation", "Validation", problems or None),
        ("columns", "Columns", dataset.num_columns),
        ("versions", "Versions", len(versions)),
    ]


def _finding(report: ValidationReport | None, code: str) -> dict[str, Any] | None:
    """What the rows are cut down to: the finding of that code, when it names rows."""
    for found in report.findings if report and code else ():
        if found.code == code and found.rows:
            return {"code": code, "message": found.message, "rows": found.rows, "count": found.count}
    return None


def _rows_of(dataset: DatasetRead, shown: VersionRead) -> dict[str, Any]:
    """For the script that shows rows."""
    return {
        "id": dataset.id,
        "version": shown.digest,
        "newest": shown.digest == dataset.version and dataset.status == "ready",
        "type": dataset.type,
        "shape": shown.shape,
        "mapping": shown.mapping,
        "total": shown.num_rows,
    }


def _read_as(dataset: DatasetRead) -> dict[str, Any]:
    """For the script that reads the file in another way."""
    options = dataset.reading.of_file()
    return {
        "id": dataset.id,
        "newest": dataset.status == "ready",
        "format": dataset.format,
        "encoding": dataset.encoding,
        "layout": dataset.layout.model_dump(),
        "options": options,
    }


def _charts(report: ValidationReport) -> list[dict[str, Any]]:
    """Of each role how long its texts are: bars with their range in characters, and the percentiles."""
    made = []
    for role, told in report.lengths.items():
        counts = told.get("histogram", {}).get("counts", [])
        step, last = told.get("histogram", {}).get("step", 1), len(counts) - 1
        bars = [
            (f"more than {n * step - 1:,}" if n == last else f"{n * step:,} to {(n + 1) * step - 1:,}", count)
            for n, count in enumerate(counts)
        ]
        while bars and bars[-1][1] == 0:
            bars.pop()
        made.append({"role": role, "bars": bars, **told})
    return made
