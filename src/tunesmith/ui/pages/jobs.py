"""The pages of jobs: the list with the queue, one job, and several side by side."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import HTMLResponse

from tunesmith.core.errors import FailureCode, TunesmithError
from tunesmith.core.job_status import JobStatus
from tunesmith.features.catalog import service as catalog
from tunesmith.features.jobs import before_after, comparing, compression, files, metrics, run_table, service
from tunesmith.features.jobs.tables import JobRow
from tunesmith.http.pagination import Cursor
from tunesmith.http.session import AppState, DbSession, State
from tunesmith.recipes.catalog import RECIPES, get_recipe
from tunesmith.recipes.describing import GROUPS, describe
from tunesmith.recipes.model_about import ModelAbout
from tunesmith.recipes.model_about import about as model_about
from tunesmith.recipes.row_check import SKIP_REMEDY
from tunesmith.schemas.runs import MAX_COLUMNS, SORT, VALUE
from tunesmith.storage.database import Session
from tunesmith.ui.pages import runs
from tunesmith.ui.pages.prediction import predict_columns
from tunesmith.ui.pages.runs import address
from tunesmith.ui.render import page

router = APIRouter(include_in_schema=False)

JobId = Annotated[int, Path(ge=1, lt=2**63)]
PAGE = 50
QUEUE_SHOWN = 20
TITLE = "Training jobs"
SORTS = (("created", "Newest first"), ("oldest", "Oldest first"), ("name", "Name"), ("eval_loss", "Best held-out loss"))
GROUPS_OF_STATUS = (
    ("", "All", tuple(JobStatus)),
    ("running", "Running", (JobStatus.RUNNING,)),
    ("queued", "Waiting", (JobStatus.QUEUED,)),
    ("paused", "Paused", (JobStatus.PAUSED,)),
    ("completed", "Completed", (JobStatus.COMPLETED,)),
    ("failed", "Failed", (JobStatus.FAILED,)),
    ("cancelled", "Cancelled", (JobStatus.CANCELLED,)),
    ("created", "Not started", (JobStatus.CREATED,)),
)
"""Value in the address, word on the page, what it shows."""
Tab = Literal["overview", "logs", "checkpoints", "parameters", "artifacts"]


@router.get("/jobs")
def show_list(
    request: Request,
    state: State,
    session: DbSession,
    status: Annotated[JobStatus | Literal[""], Query()] = "",
    method: Annotated[str, Query(max_length=50)] = "",
    tag: Annotated[str, Query(max_length=100)] = "",
    q: Annotated[str, Query(max_length=200)] = "",
    dataset: Annotated[int | Literal[""], Query(ge=1, lt=2**63)] = "",
    sort: Annotated[str, Query(pattern=SORT.replace("(created", "(created|oldest"))] = "created",
    order: Annotated[runs.Order, Query()] = "",
    view: Annotated[Literal["", "table"], Query()] = "",
    columns: Annotated[list[str] | None, Query(max_length=MAX_COLUMNS)] = None,
    group: Annotated[str, Query(pattern=f"{VALUE}|^$")] = "",
    where: Annotated[list[str] | None, Query(max_length=8)] = None,
    cursor: Cursor = None,
    offset: Annotated[int, Query(ge=0, lt=2**31)] = 0,
) -> HTMLResponse:
    """Jobs, newest first, with search, filters and sorting, as a list or as a table of runs; the queue above them."""
    sort, order, group = runs.known(session, sort, order, group)
    asked = {
        "view": view, "status": status, "method": method, "tag": tag, "q": q, "dataset": dataset, "sort": sort, "order": order,
        "columns": ",".join(columns or []), "group": group if view else "", "where": where or [],
    }  # fmt: skip
    filters = {
        "method": method or None, "tag": tag or None, "text_like": q or None, "dataset_id": dataset or None,
        "where": run_table.where_of(where or ()),
    }  # fmt: skip
    shown: dict[str, Any] = {"status": [JobStatus(status)] if status else (), **filters}
    by, descending = runs.order_of(sort, order)
    if view:
        drawn = runs.table(session, asked, by, descending, cursor, offset, shown)
    else:
        page_of = run_table.list_jobs(session, sort=by, descending=descending, cursor=cursor, limit=PAGE, **shown)
        drawn = {
            "jobs": page_of,
            "next_url": address({**asked, "cursor": page_of.next_cursor}) if page_of.next_cursor else "",
        }
    counts = service.counts(session, **filters)
    return page(
        request,
        "jobs/list.html",
        title=TITLE,
        section="jobs",
        asked=asked,
        is_filtered=any(asked[name] for name in ("status", "method", "tag", "q", "dataset", "where")),
        num_jobs=sum(service.counts(session).values()),
        chips=[
            (value, word, sum(counts.get(one, 0) for one in shown), address({**asked, "status": value}))
            for value, word, shown in GROUPS_OF_STATUS
        ],
        methods=[(recipe.name, recipe.title) for recipe in RECIPES],
        sorts=SORTS,
        list_url=address({**asked, "view": "", "columns": "", "group": "", "where": []}),
        table_url=address({**asked, "view": "table"}),
        clear_url=address({name: asked[name] for name in ("view", "columns", "group", "sort", "order")}),
        first_url=address(asked) if cursor or offset else "",
        waiting=service.queue(session, state.why_waiting(session)) if counts.get(JobStatus.QUEUED) and not view else [],
        queue_shown=QUEUE_SHOWN,
        **drawn,
    )


@router.get("/jobs/compare")
def show_comparison(
    request: Request,
    state: State,
    session: DbSession,
    ids: Annotated[str, Query(pattern=r"^([0-9]{1,18}(,[0-9]{1,18})*)?$")] = "",
) -> HTMLResponse:
    """Up to eight jobs side by side; without jobs, how to choose them. Raises `NotFound`, `InvalidInput`."""
    wanted = [int(part) for part in ids.split(",") if part]
    found = comparing.compare(state.settings, session, wanted, points=0) if wanted else None
    return page(
        request,
        "jobs/compare.html",
        title="Compare",
        section="jobs",
        breadcrumb=[(TITLE, "/jobs")],
        found=found,
        ids=wanted,
        most=comparing.MAX_JOBS,
    )


@router.get("/jobs/{job_id}")
def show_job(
    request: Request,
    state: State,
    session: DbSession,
    job_id: JobId,
    tab: Annotated[Tab, Query()] = "overview",
    checksums: Annotated[bool, Query()] = False,
) -> HTMLResponse:
    """One job. Raises `NotFound`."""
    row = service.get(session, job_id)
    job = service.read(row)
    folder = files.job_dir(state.settings, job_id)
    artifacts = files.artifacts(folder)
    checkpoints = service.read_checkpoints(session, folder, job_id)
    return page(
        request,
        f"jobs/{tab}.html",
        title=job.name,
        section="jobs",
        breadcrumb=[(TITLE, "/jobs")],
        job=job,
        now=service.progress(session, job_id, state.why_waiting),
        spec=row.spec,
        recipe=get_recipe(row.method),
        tab=tab,
        tabs=[
            ("overview", "Overview"),
            ("logs", "Logs"),
            ("checkpoints", "Checkpoints", len(checkpoints)),
            ("parameters", "Parameters"),
            ("artifacts", "Artifacts", len(artifacts)),
        ],
        checkpoints=checkpoints,
        bad_rows=bad_rows_of(row),
        skip_remedy=SKIP_REMEDY,
        predicts=_predictor(state, row),
        predict_columns=predict_columns,
        has_report=(folder.artifacts / "report" / "report.html").is_file(),
        **about(state, session, row, tab, artifacts, checksums),
    )


def bad_rows_of(row: JobRow) -> dict[str, Any] | None:
    """The rows on which the job failed, with their dataset; None for any other end."""
    rows = [detail["row"] for detail in row.details if "row" in detail and "version" in detail]
    if row.failure_code != FailureCode.BAD_DATA or not rows:
        return None
    version = row.details[0]["version"]
    is_held_out = row.eval_dataset_id is not None and version != row.dataset_version
    return {"rows": rows, "version": version, "dataset_id": row.eval_dataset_id if is_held_out else row.dataset_id}


def about(
    state: AppState, session: Session, row: JobRow, tab: Tab, artifacts: list[Any], checksums: bool
) -> dict[str, Any]:
    """What one tab shows beyond what all of them know."""
    if tab == "overview":
        job, kind = service.read(row), get_recipe(row.method).kind
        is_asked = kind == "training" and row.method != "custom"
        return {
            "timeline": metrics.timeline(session, row.id), "skipped": service.rows_skipped(session, row.id),
            "compressed": compression.results(state.settings, session, row) if kind == "compression" else None,
            "compared": before_after.read(files.job_dir(state.settings, row.id), job) if is_asked else None,
        }  # fmt: skip
    if tab == "parameters":
        return {"groups": settings_of(row), "yaml": service.config(row)}
    if tab == "artifacts":
        folder = files.job_dir(state.settings, row.id)
        shown = files.with_checksums(state.settings, folder, artifacts) if checksums else artifacts
        return {"folders": by_folder(shown), "checksums": checksums, "total_bytes": sum(a.size_bytes for a in shown)}
    return {}


def _predictor(state: AppState, row: JobRow) -> ModelAbout | None:
    """What the job's model is asked, where it is there and does not chat."""
    if row.status != JobStatus.COMPLETED:
        return None
    try:
        return model_about(catalog.resolve_model(state.settings, None, f"job:{row.id}"))
    except TunesmithError:
        return None


def settings_of(row: JobRow) -> list[tuple[str, list[dict[str, Any]]]]:
    """Each parameter with its value, where that came from and why, in groups."""
    given = row.request.get("hyperparameters", {})
    groups: dict[str, list[dict[str, Any]]] = {}
    for setting in describe(get_recipe(row.method).params):
        value: Any = row.hyperparameters
        asked: Any = given
        for part in setting.name.split("."):
            value = value.get(part) if isinstance(value, dict) else None
            asked = asked.get(part) if isinstance(asked, dict) else None
        reason = row.reasons.get(setting.name, "")
        source = "you" if asked is not None else "auto" if reason else "default"
        item = {"setting": setting, "value": value, "source": source, "reason": reason}
        groups.setdefault(GROUPS.get(setting.group, "Further"), []).append(item)
    return list(groups.items())


def by_folder(artifacts: list[Any]) -> list[tuple[str, list[Any]]]:
    """Files by the folder they lie in."""
    found: dict[str, list[Any]] = {}
    for item in artifacts:
        found.setdefault(item.path.rpartition("/")[0] or ".", []).append(item)
    return list(found.items())
