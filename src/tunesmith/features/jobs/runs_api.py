"""REST routes of tables of jobs: the values there are, groups, and saved views."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query

from tunesmith.core.acting import Scope
from tunesmith.core.job_status import JobStatus
from tunesmith.features.jobs import run_table
from tunesmith.http.policy import needs
from tunesmith.http.session import DbSession
from tunesmith.schemas.runs import COLUMNS, SORT, VALUE, JobColumn, JobGroups, JobViewCreate, JobViewRead

router = APIRouter(prefix="/jobs", tags=["jobs"])

Sort = Annotated[
    str,
    Query(
        pattern=SORT,
        description="`created`, `name`, `eval_loss` (the best; jobs without one stand as highest), or any value that jobs have, "
        "such as `metric.eval_loss.best` or `param.learning_rate`; jobs without it come last. See `GET /jobs/columns`.",
    ),
]
Order = Annotated[Literal["asc", "desc"], Query()]
Columns = Annotated[
    str,
    Query(pattern=COLUMNS, description="Values to add to each job as `values`, with commas between their names."),
]
Where = Annotated[
    list[Annotated[str, Query(max_length=400)]] | None,
    Query(max_length=8, description="`name=value`: only jobs with that value; `(none)` for those without."),
]


@router.get("/columns", summary="Values by which jobs can be sorted, grouped and shown")
@needs(Scope.READ)
def list_columns(session: DbSession) -> list[JobColumn]:
    """Of the newest thousand jobs."""
    return run_table.columns(session)


@router.get("/groups", summary="Jobs by one value")
@needs(Scope.READ)
def group_jobs(
    session: DbSession,
    group: Annotated[str, Query(pattern=VALUE, description="Any value that jobs have.", examples=["param.lora_r"])],
    sort: Sort = "created",
    order: Order = "desc",
    columns: Columns = "",
    status: Annotated[list[JobStatus] | None, Query(description="One or more.")] = None,
    method: Annotated[str | None, Query(max_length=50)] = None,
    tag: Annotated[str | None, Query(max_length=100)] = None,
    q: Annotated[str | None, Query(max_length=200, description="Part of the name or of the model's.")] = None,
    dataset_id: Annotated[int | None, Query(ge=1, lt=2**63)] = None,
    where: Where = None,
    each: Annotated[int, Query(ge=1, le=100, description="Most jobs of one group.")] = 10,
    limit: Annotated[int, Query(ge=1, le=100, description="Most groups.")] = 20,
    offset: Annotated[int, Query(ge=0, lt=2**31, description="`next_offset` of the answer before.")] = 0,
) -> JobGroups:
    """In the order of the value; of each group how many jobs there are, and the first of them as sorted."""
    return run_table.groups(
        session, group, sort=sort, descending=order == "desc", columns=run_table.columns_of(columns), offset=offset,
        limit=limit, each=each, where=run_table.where_of(where or ()), status=status or (), method=method, tag=tag, text_like=q,
        dataset_id=dataset_id,
    )  # fmt: skip


@router.get("/views", summary="Your saved tables of jobs")
@needs(Scope.READ)
def list_views(session: DbSession) -> list[JobViewRead]:
    return run_table.views(session)


@router.post("/views", summary="Save a table of jobs")
@needs(Scope.READ, changes=True)
def save_view(body: JobViewCreate, session: DbSession) -> JobViewRead:
    """Under a name; one of that name is replaced."""
    return run_table.save_view(session, body)


@router.delete("/views/{view_id}", status_code=204, summary="Delete a saved table of jobs")
@needs(Scope.READ, changes=True)
def delete_view(view_id: Annotated[int, Path(ge=1, lt=2**63)], session: DbSession) -> None:
    run_table.delete_view(session, view_id)
