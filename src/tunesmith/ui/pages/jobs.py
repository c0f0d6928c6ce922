"""The pages of jobs: the list with the queue, one job, and several side by side."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import HTMLResponse

from tunesmith.core.job_status import JobStatus
from tunesmith.features.jobs import before_after, comparing, files, metrics, service
from tunesmith.features.jobs.tables import JobRow
from tunesmith.http.pagination import Cursor
from tunesmith.http.session import AppState, DbSession, State
from tunesmith.recipes.catalog import RECIPES, get_recipe
from tunesmith.recipes.describing import GROUPS, describe
from tunesmith.storage.database import Session
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
    dataset: Annotated[int | None, Query(ge=1, lt=2**63)] = None,
    sort: Annotated[Literal["created", "oldest", "name", "eval_loss"], Query()] = "created",
    cursor: Cursor = None,
) -> HTMLResponse:
    """Jobs, newest first, with search, filters and sorting; the queue above them."""
    jobs = service.list_jobs(
        session,
        status=[JobStatus(status)] if status else (),
        method=method or None,
        tag=tag or None,
        text=q or None,
        dataset_id=dataset,
        sort="created" if sort == "oldest" else sort,
        descending=sort == "created",
        cursor=cursor,
        limit=PAGE,
    )
    asked = {"status": status, "method": method, "tag": tag, "q": q, "dataset": dataset or "", "sort": sort}
    counts = service.counts(session)
    return page(
        request,
        "jobs/list.html",
        title=TITLE,
        section="jobs",
        jobs=jobs,
        asked=asked,
        is_filtered=any(value for name, value in asked.items() if name != "sort"),
        num_jobs=sum(counts.values()),
        chips=[
            (value, word, sum(counts.get(one, 0) for one in shown), address({**asked, "status": value}))
            for value, word, shown in GROUPS_OF_STATUS
        ],
        methods=[(recipe.name, recipe.title) for recipe in RECIPES],
        sorts=SORTS,
        next_url=address({**asked, "cursor": jobs.next_cursor}) if jobs.next_cursor else "",
        first_url=address(asked) if cursor else "",
        waiting=service.queue(session, state.why_waiting(session)) if counts.get(JobStatus.QUEUED) else [],
        queue_shown=QUEUE_SHOWN,
    )


def address(asked: dict[str, Any], path: str = "/jobs") -> str:
    """`path` with what is not empty of `asked`; the usual order is not named."""
    query = {name: value for name, value in asked.items() if value and (name, value) != ("sort", "created")}
    return f"{path}?{urlencode(query)}" if query else path


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
        has_report=(folder.artifacts / "report" / "report.html").is_file(),
        **about(state, session, row, tab, artifacts, checksums),
    )


def about(
    state: AppState, session: Session, row: JobRow, tab: Tab, artifacts: list[Any], checksums: bool
) -> dict[str, Any]:
    """What one tab shows beyond what all of them know."""
    if tab == "overview":
        job = service.read(row)
        is_asked = get_recipe(row.method).kind == "training" and row.method != "custom"
        compared = before_after.read(files.job_dir(state.settings, row.id), job) if is_asked else None
        return {"timeline": metrics.timeline(session, row.id), "compared": compared}
    if tab == "parameters":
        return {"groups": settings_of(row), "yaml": service.config(row)}
    if tab == "artifacts":
        folder = files.job_dir(state.settings, row.id)
        shown = files.with_checksums(state.settings, folder, artifacts) if checksums else artifacts
        return {"folders": by_folder(shown), "checksums": checksums, "total_bytes": sum(a.size_bytes for a in shown)}
    return {}


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
