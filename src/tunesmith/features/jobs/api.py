"""REST routes of jobs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query
from fastapi.responses import FileResponse, PlainTextResponse, Response, StreamingResponse

from tunesmith.core.acting import Scope
from tunesmith.core.job_status import JobStatus
from tunesmith.core.log_lines import LogFilter
from tunesmith.features.jobs import (
    before_after,
    comparing,
    files,
    inspection,
    logs,
    metrics,
    planning,
    reporting,
    run_table,
    service,
    submission,
)
from tunesmith.features.jobs.lifecycle import Lifecycle
from tunesmith.features.jobs.runs_api import Columns, Sort, Where
from tunesmith.features.jobs.tables import JobRow
from tunesmith.features.jobs.writing_out import DEFAULT_URL, write_out
from tunesmith.http.idempotency import IdempotencyKey, once
from tunesmith.http.pagination import Cursor, Limit
from tunesmith.http.policy import declare, needs
from tunesmith.http.sending import OpenFile
from tunesmith.http.session import DbSession, State
from tunesmith.schemas.before_after import BeforeAfter
from tunesmith.schemas.common import ErrorBody, Page
from tunesmith.schemas.jobs import (
    ArtifactRead,
    CheckpointRead,
    JobBatchCreate,
    JobBatchRead,
    JobClone,
    JobComparison,
    JobCreate,
    JobEvent,
    JobMetrics,
    JobPlan,
    JobProgress,
    JobRead,
    JobResources,
    JobTexts,
    JobTimeline,
    JobUpdate,
    LearningRateChange,
    LogChunk,
    LogSearch,
    QueueItem,
    QueueMove,
)
from tunesmith.schemas.methods import MethodRead
from tunesmith.storage.database import Session, after_commit

router = APIRouter(prefix="/jobs", tags=["jobs"])

JobId = Annotated[int, Path(ge=1, lt=2**63, description="The job's number.", examples=[1])]
EventType = Literal[
    "phase", "progress", "step", "evaluation", "checkpoint", "notice", "resources", "artifact", "metrics", "status"
]
CONFLICT: dict[int | str, dict[str, Any]] = {409: {"model": ErrorBody, "description": "Not in the state it is in."}}
REFUSED: dict[int | str, dict[str, Any]] = {403: {"model": ErrorBody, "description": "Not allowed."}, **CONFLICT}
REPORT_HEADERS = {
    "Content-Security-Policy": "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:",
    "X-Content-Type-Options": "nosniff",
}


@router.post("/", status_code=201, response_model=JobRead, responses=REFUSED, summary="Make a job")
def create_job(body: JobCreate, state: State, key: IdempotencyKey = None) -> Response:
    """Checks everything, fills in what is left out, and queues it. With an `Idempotency-Key`, once at most."""
    inspection.look(state.settings, state.database, body)

    def work(session: Session) -> JobRead:
        row = submission.create(state.settings, session, state.bus, body)
        after_commit(session, state.wake_scheduler)
        return service.read(row)

    return once(state, "POST /jobs/", key, body, work)


@router.get("/", summary="List jobs")
def list_jobs(
    session: DbSession,
    status: Annotated[list[JobStatus] | None, Query(description="One or more.")] = None,
    method: Annotated[str | None, Query(max_length=50)] = None,
    tag: Annotated[str | None, Query(max_length=100)] = None,
    q: Annotated[str | None, Query(max_length=200, description="Part of the name or of the model's.")] = None,
    dataset_id: Annotated[int | None, Query(ge=1, lt=2**63)] = None,
    batch_id: Annotated[str | None, Query(max_length=36, description="Jobs submitted together.")] = None,
    sort: Sort = "created",
    order: Annotated[Literal["asc", "desc"], Query()] = "desc",
    columns: Columns = "",
    where: Where = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[JobRead]:
    """Newest first, unless sorted otherwise."""
    return run_table.list_jobs(
        session, status=status or (), method=method, tag=tag, text_like=q, dataset_id=dataset_id, batch_id=batch_id,
        where=run_table.where_of(where or ()), columns=run_table.columns_of(columns), sort=sort, descending=order == "desc",
        cursor=cursor, limit=limit,
    )  # fmt: skip


@router.post("/batch", status_code=201, response_model=JobBatchRead, responses=REFUSED, summary="Make many jobs")
def create_batch(body: JobBatchCreate, state: State, key: IdempotencyKey = None) -> Response:
    """All of them or none; they wait in the order given."""
    for job in body.jobs:
        inspection.look(state.settings, state.database, job)

    def work(session: Session) -> JobBatchRead:
        batch_id, rows = submission.create_batch(state.settings, session, state.bus, body.jobs)
        after_commit(session, state.wake_scheduler)
        return JobBatchRead(batch_id=batch_id, jobs=[service.read(row) for row in rows])

    return once(state, "POST /jobs/batch", key, body, work)


@router.post("/plan", responses=REFUSED, summary="What a job would be")
@needs(Scope.READ)
def plan_job(body: JobCreate, state: State) -> JobPlan:
    """Checks a request as creating does and saves nothing: complete hyperparameters, reasons, time, memory and disk."""
    inspection.look(state.settings, state.database, body)
    with state.database.unit_of_work(readonly=True) as session:
        return planning.plan(state.settings, session, body)


@router.post("/write-out", summary="A job as YAML, cURL, Python and command line")
@needs(Scope.READ)
def write_out_job(
    body: JobCreate,
    url: Annotated[
        str, Query(max_length=500, pattern=r"^https?://[^\s/]+$", description="The server's address, as you reach it.")
    ] = DEFAULT_URL,
) -> JobTexts:
    """Four texts that each make the same job. Nothing is checked against models and data: `POST /jobs/plan` does that."""
    return write_out(body, url)


@router.get("/methods", summary="Ways to train")
def list_methods(state: State) -> list[MethodRead]:
    """Each with its settings, their meaning, and why it cannot run here where it cannot."""
    return service.methods(state.settings)


@router.get("/queue", summary="Jobs that wait")
def read_queue(state: State, session: DbSession) -> list[QueueItem]:
    """In the order in which they start, with why each waits."""
    return service.queue(session, state.why_waiting(session))


@router.get("/compare", summary="Up to eight jobs side by side")
def compare_jobs(
    state: State,
    session: DbSession,
    ids: Annotated[
        str, Query(pattern=r"^[0-9]{1,18}(,[0-9]{1,18}){0,7}$", description="Their numbers.", examples=["1,2"])
    ],
    points: Annotated[int, Query(ge=4, le=5000, description="Most points of one curve.")] = 500,
) -> JobComparison:
    """Settings that differ, scores with the best marked, curves, and what each model answered when it was checked."""
    return comparing.compare(state.settings, session, [int(part) for part in ids.split(",")], points)


@router.get("/{job_id}", summary="One job")
def get_job(job_id: JobId, session: DbSession) -> JobRead:
    return service.read(service.get(session, job_id))


@router.patch("/{job_id}", responses=CONFLICT, summary="Change name, tags, priority or time")
def update_job(job_id: JobId, body: JobUpdate, state: State, session: DbSession) -> JobRead:
    row = service.update(session, job_id, body)
    after_commit(session, state.wake_scheduler)
    return service.read(row)


@router.delete("/{job_id}", status_code=204, responses=CONFLICT, summary="Delete a job and its files")
def delete_job(job_id: JobId, state: State, session: DbSession) -> None:
    """Possible when it has ended or never began."""
    service.delete(state.settings, session, job_id)


# -- changes of state ---------------------------------------------------------------------------------------------------


def _change(state: State, session: Session, job_id: int, do: Callable[[Lifecycle, JobRow], None]) -> JobRead:
    life, row = service.life_of(session, state.bus, job_id)
    do(life, row)
    session.flush()
    after_commit(session, state.wake_scheduler)
    return service.read(row)


@router.post("/{job_id}/start", responses=CONFLICT, summary="Queue a job that was only saved")
def start_job(job_id: JobId, state: State, session: DbSession) -> JobRead:
    service.check_may_start(state.settings, service.get(session, job_id), session)
    return _change(state, session, job_id, Lifecycle.start)


@router.post("/{job_id}/stop", responses=CONFLICT, summary="Cancel a job")
def stop_job(job_id: JobId, state: State, session: DbSession) -> JobRead:
    """Checkpoints stay, so that it can be resumed."""
    return _change(state, session, job_id, Lifecycle.stop)


@router.post("/{job_id}/pause", responses=CONFLICT, summary="Write a checkpoint and give the machine back")
def pause_job(job_id: JobId, state: State, session: DbSession) -> JobRead:
    return _change(state, session, job_id, Lifecycle.pause)


@router.post("/{job_id}/resume", responses=CONFLICT, summary="Go on from the last checkpoint")
def resume_job(job_id: JobId, state: State, session: DbSession) -> JobRead:
    """After a pause, a failure or a stop."""
    service.check_data_is_there(service.get(session, job_id))
    service.check_may_start(state.settings, service.get(session, job_id), session)
    return _change(state, session, job_id, Lifecycle.resume)


@router.post("/{job_id}/checkpoint", responses=CONFLICT, summary="Write a checkpoint now")
def checkpoint_job(job_id: JobId, state: State, session: DbSession) -> JobRead:
    return _change(state, session, job_id, Lifecycle.checkpoint_now)


@router.post("/{job_id}/learning-rate", responses=CONFLICT, summary="Change the learning rate of a running job")
def change_learning_rate(job_id: JobId, body: LearningRateChange, state: State, session: DbSession) -> JobRead:
    return _change(state, session, job_id, lambda life, row: life.set_learning_rate(row, body.learning_rate))


@router.post("/{job_id}/move", responses=CONFLICT, summary="Move a waiting job in the queue")
def move_job(job_id: JobId, body: QueueMove, state: State, session: DbSession) -> list[QueueItem]:
    """The queue as it is then."""
    service.move(session, job_id, body)
    after_commit(session, state.wake_scheduler)
    return service.queue(session, state.why_waiting(session))


@router.post("/{job_id}/clone", status_code=201, response_model=JobRead, responses=REFUSED, summary="Copy with changes")
def clone_job(job_id: JobId, body: JobClone, state: State, key: IdempotencyKey = None) -> Response:
    """A new job from the same request, with some fields changed."""
    with state.database.unit_of_work(readonly=True) as session:
        wanted = submission.cloned(service.get(session, job_id), body)
    inspection.look(state.settings, state.database, wanted)

    def work(session: Session) -> JobRead:
        request = submission.cloned(service.get(session, job_id), body)
        row = submission.create(state.settings, session, state.bus, request)
        after_commit(session, state.wake_scheduler)
        return service.read(row)

    return once(state, f"POST /jobs/{job_id}/clone", key, body, work)


# -- how it goes --------------------------------------------------------------------------------------------------------


@router.get("/{job_id}/status", summary="Where a job is, at a glance")
def job_status(job_id: JobId, state: State, session: DbSession) -> JobProgress:
    return service.progress(session, job_id, state.why_waiting)


@router.get("/{job_id}/events", summary="What has happened")
def job_events(
    job_id: JobId,
    session: DbSession,
    after: Annotated[int, Query(ge=0, lt=2**31, description="Sequence number of the last event you have.")] = 0,
    types: Annotated[list[EventType] | None, Query(description="Only these.")] = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 1000,
) -> list[JobEvent]:
    """In order. The same, live: `/live` (WebSocket) and `/stream` (server-sent events)."""
    return service.read_events(session, job_id, after=after, types=types or (), limit=limit)


@router.get("/{job_id}/metrics", summary="Curves")
def job_metrics(
    job_id: JobId,
    session: DbSession,
    points: Annotated[int, Query(ge=4, le=100_000, description="Most points of one curve.")] = 500,
    after: Annotated[
        int, Query(ge=0, lt=2**31, description="`last_seq` of the answer before: only what came since.")
    ] = 0,
    only: Annotated[list[str] | None, Query(description="Only these curves.", max_length=50)] = None,
    from_step: Annotated[int | None, Query(ge=0, lt=2**63)] = None,
    to_step: Annotated[int | None, Query(ge=0, lt=2**63)] = None,
) -> JobMetrics:
    """Thinned for drawing; the lowest and highest values of every stretch are kept. A part between two steps has all its
    detail with as few points."""
    return metrics.metrics(session, job_id, points=points, after=after, only=only or (), steps=(from_step, to_step))


@router.get("/{job_id}/resources", summary="What a job used of the machine, over time")
def job_resources(
    job_id: JobId,
    session: DbSession,
    points: Annotated[int, Query(ge=4, le=20_000, description="Most points of one curve.")] = 500,
    after: Annotated[
        int, Query(ge=0, lt=2**31, description="`last_seq` of the answer before: only what came since.")
    ] = 0,
) -> JobResources:
    """Processor, memory, disk, network and GPUs, sampled every few seconds."""
    return metrics.resources(session, job_id, points=points, after=after)


@router.get("/{job_id}/timeline", summary="What a job was busy with, and for how long")
def job_timeline(job_id: JobId, session: DbSession) -> JobTimeline:
    return metrics.timeline(session, job_id)


LevelFilter = Annotated[
    LogFilter | None,
    Query(description="Only lines of at least this level; `output` for only what the process printed. All without it."),
]


@router.get("/{job_id}/before-after", summary="Held-out questions, answered by the base and by the tuned model")
def job_before_after(job_id: JobId, state: State, session: DbSession) -> BeforeAfter:
    """With the expected answer and the scores of both. `reason` says why there is nothing, or less than usual."""
    row = service.get(session, job_id)
    return before_after.read(files.job_dir(state.settings, job_id), service.read(row))


@router.get("/{job_id}/logs", summary="The log of a job")
def job_logs(
    job_id: JobId,
    state: State,
    session: DbSession,
    offset: Annotated[int, Query(ge=0, lt=2**62, description="Bytes; `next_offset` of the chunk before.")] = 0,
    before: Annotated[
        int | None, Query(ge=0, lt=2**62, description="Bytes; instead of `offset`: what ends here, in whole lines.")
    ] = None,
    limit: Annotated[int, Query(ge=16, le=1_048_576, description="Most bytes.")] = 65_536,
    whole_lines: Annotated[bool, Query(description="End with a line, except at the end of the log.")] = False,
    level: LevelFilter = None,
) -> LogChunk:
    """A line for each logged step, evaluation, checkpoint and notice, with time (UTC) and level, and what the process printed.

    Forwards from `offset`, or backwards from `before`; a `before` beyond the end gives the end. With `level`, each call looks
    through a part of the log: the text may be empty while there is more to read.
    """
    service.get(session, job_id)
    log = files.job_dir(state.settings, job_id).log
    if before is not None:
        return logs.read_before(log, before, limit, level)
    return logs.read_log(log, offset, limit, whole_lines=whole_lines, level=level)


@router.get("/{job_id}/logs/search", summary="Lines of the log that hold a text")
def search_log(
    job_id: JobId,
    state: State,
    session: DbSession,
    q: Annotated[str, Query(min_length=1, max_length=200, description="Letters of ASCII match in either case.")],
    offset: Annotated[int, Query(ge=0, lt=2**62, description="Bytes; where to begin.")] = 0,
    limit: Annotated[int, Query(ge=1, le=1000, description="Most lines.")] = 100,
    level: LevelFilter = None,
) -> LogSearch:
    """Looks through 16 MiB at a time; `next_offset` is where to look further."""
    service.get(session, job_id)
    return logs.search(files.job_dir(state.settings, job_id).log, q, offset, limit, level)


TEXT: dict[int | str, dict[str, Any]] = {200: {"content": {"text/plain": {}}, "description": "The log."}}


@router.get("/{job_id}/logs/download", response_class=Response, responses=TEXT, summary="The whole log as a file")
def download_log(job_id: JobId, state: State, session: DbSession) -> Response:
    row = service.get(session, job_id)
    log = files.job_dir(state.settings, job_id).log
    if not log.is_file():
        return PlainTextResponse("")
    return FileResponse(log, media_type="text/plain; charset=utf-8", filename=f"{row.output_name}.log")


@router.get("/{job_id}/checkpoints", summary="Checkpoints")
def job_checkpoints(job_id: JobId, state: State, session: DbSession) -> list[CheckpointRead]:
    """Complete ones, newest first."""
    service.get(session, job_id)
    return service.read_checkpoints(session, files.job_dir(state.settings, job_id), job_id)


# -- what it leaves -----------------------------------------------------------------------------------------------------

BINARY: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/octet-stream": {}}, "description": "The file."}
}
ARCHIVE: dict[int | str, dict[str, Any]] = {200: {"content": {"application/gzip": {}}, "description": "The archive."}}
PAGE: dict[int | str, dict[str, Any]] = {200: {"content": {"text/html": {}}, "description": "The page."}}
YAML: dict[int | str, dict[str, Any]] = {200: {"content": {"application/yaml": {}}, "description": "The file."}}


@router.get("/{job_id}/artifacts", summary="Files that a job left")
def job_artifacts(
    job_id: JobId,
    state: State,
    checksums: Annotated[bool, Query(description="With SHA-256; the first time that reads every file.")] = False,
) -> list[ArtifactRead]:
    with state.database.unit_of_work(readonly=True) as session:
        service.get(session, job_id)
    folder = files.job_dir(state.settings, job_id)
    listed = files.artifacts(folder)
    return files.with_checksums(state.settings, folder, listed) if checksums else listed


@router.get("/{job_id}/artifacts/{path:path}", response_class=Response, responses=BINARY, summary="One such file")
def download_artifact(job_id: JobId, path: str, state: State, session: DbSession) -> Response:
    """As an attachment, never shown inside this site."""
    service.get(session, job_id)
    found = files.artifact(files.job_dir(state.settings, job_id), path)
    return OpenFile(found, path.rpartition("/")[2])


@router.get("/{job_id}/report", response_class=Response, responses=PAGE, summary="The report as a page")
def job_report(job_id: JobId, state: State, session: DbSession) -> Response:
    """Curves, scores, evaluations since, and settings in one page that needs nothing else; runs no script."""
    service.get(session, job_id)
    page = reporting.page(state.settings, session, job_id)
    return Response(page, media_type="text/html; charset=utf-8", headers=REPORT_HEADERS)


@router.get("/{job_id}/config", response_class=Response, responses=YAML, summary="The job as YAML")
def job_config(job_id: JobId, session: DbSession) -> Response:
    """`tunesmith train --config` reads it."""
    row = service.get(session, job_id)
    headers = {"Content-Disposition": f'attachment; filename="{row.output_name}.yaml"'}
    return Response(service.config(row), media_type="application/yaml", headers=headers)


@router.get(
    "/{job_id}/download",
    response_class=Response,
    responses={**ARCHIVE, **CONFLICT},
    summary="The model with all that is needed to use it",
)
def download_job(job_id: JobId, state: State, session: DbSession) -> Response:
    """A `.tar.gz`: model, card, report, `Modelfile` for Ollama, instructions for LM Studio, checksums."""
    row = service.get(session, job_id)
    headers = {"Content-Disposition": f'attachment; filename="{row.output_name}.tar.gz"'}
    return StreamingResponse(
        service.package(state.settings, session, row), media_type="application/gzip", headers=headers
    )


declare(router, read=Scope.READ, write=Scope.TRAIN)
