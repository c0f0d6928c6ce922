"""REST routes of the audit log."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal, cast

from fastapi import APIRouter, Depends, Query
from fastapi.responses import StreamingResponse
from starlette.requests import HTTPConnection

from tunesmith.core.acting import Scope
from tunesmith.features.audit.service import AuditLog, read_page
from tunesmith.http.pagination import Cursor, Limit
from tunesmith.http.policy import declare
from tunesmith.http.session import DbSession
from tunesmith.schemas.accounts import AuditCheck, AuditEntry
from tunesmith.schemas.common import Page

router = APIRouter(prefix="/audit", tags=["audit"])


def get_log(connection: HTTPConnection) -> AuditLog:
    return cast(AuditLog, connection.app.state.audit)


Log = Annotated[AuditLog, Depends(get_log)]


def get_filters(
    username: Annotated[str | None, Query(max_length=64)] = None,
    action: Annotated[str | None, Query(max_length=80, examples=["delete_job"])] = None,
    about: Annotated[str | None, Query(max_length=100, description="Part of what it was done to: `job 7`.")] = None,
    result: Annotated[Literal["done", "refused", "failed"] | None, Query()] = None,
    since: Annotated[datetime | None, Query()] = None,
    until: Annotated[datetime | None, Query()] = None,
) -> dict[str, Any]:
    """Instants without a zone are in UTC."""
    from tunesmith.core.clock import as_utc

    return {
        "username": username, "action": action, "about": about, "result": result,
        "since": since and as_utc(since), "until": until and as_utc(until),
    }  # fmt: skip


Filters = Annotated[dict[str, Any], Depends(get_filters)]


@router.get("/", summary="Who did what")
def list_entries(session: DbSession, filters: Filters, cursor: Cursor = None, limit: Limit = 50) -> Page[AuditEntry]:
    """Newest first."""
    return read_page(session, cursor, limit, **filters)


@router.get("/verify", summary="Whether the log is as it was written")
def verify_log(log: Log) -> AuditCheck:
    """Goes through all of it."""
    return log.verify()


EXPORT: dict[int | str, dict[str, Any]] = {200: {"content": {"application/x-ndjson": {}, "text/csv": {}}}}


@router.get("/export", response_class=StreamingResponse, responses=EXPORT, summary="The log as a file")
def export_log(log: Log, filters: Filters, format: Literal["jsonl", "csv"] = "jsonl") -> StreamingResponse:  # noqa: A002
    """Oldest first."""
    headers = {"Content-Disposition": f'attachment; filename="audit.{format}"', "X-Content-Type-Options": "nosniff"}
    media_type = "text/csv" if format == "csv" else "application/x-ndjson"
    return StreamingResponse(log.export(format, **filters), media_type=media_type, headers=headers)


declare(router, read=Scope.ADMIN, write=Scope.ADMIN)
