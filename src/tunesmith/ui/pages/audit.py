"""The page of the audit log, for administrators: who did what, with filters, as a file, and whether it is whole."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta, tzinfo
from typing import Annotated, Any
from urllib.parse import urlencode
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse

from tunesmith.core.acting import Scope
from tunesmith.features.audit.repository import AuditRepository
from tunesmith.features.audit.service import read_page
from tunesmith.http.pagination import Cursor
from tunesmith.http.policy import needs
from tunesmith.http.session import DbSession
from tunesmith.ui.render import page

router = APIRouter(include_in_schema=False)

PAGE_ROWS = 50
RESULTS = (("done", "Done"), ("refused", "Refused"), ("failed", "Failed"))
TONES = {"done": "good", "refused": "warn", "failed": "bad"}
Text = Annotated[str, Query(max_length=100)]


@router.get("/audit")
@needs(Scope.ADMIN)
def show(
    request: Request,
    session: DbSession,
    username: Text = "",
    action: Text = "",
    about: Text = "",
    result: Text = "",
    since: Text = "",
    until: Text = "",
    zone: Text = "",
    cursor: Cursor = None,
) -> HTMLResponse:
    """Newest first. What is no result and no day is passed over; days are those of `zone`, else of UTC, and `until` is
    among them."""
    asked = {
        "username": username,
        "action": action,
        "about": about,
        "result": result if result in dict(RESULTS) else "",
        "since": since if day(since) else "",
        "until": until if day(until) else "",
        "zone": zone if zone_of(zone) != UTC else "",
    }
    wanted = filters(asked)
    found = read_page(session, cursor, PAGE_ROWS, **wanted)
    return page(
        request,
        "audit/show.html",
        title="Audit log",
        section="audit",
        found=found,
        asked=asked,
        is_filtered=any(value for name, value in asked.items() if name != "zone"),
        actions=AuditRepository(session).actions(),
        results=RESULTS,
        tones=TONES,
        next_url=address("/audit", {**asked, "cursor": found.next_cursor}) if found.next_cursor else "",
        first_url=address("/audit", asked) if cursor else "",
        export={form: address("/api/v1/audit/export", {**wanted, "format": form}) for form in ("csv", "jsonl")},
    )


def day(text: str) -> date | None:
    """Of `2026-01-31`; None for anything else."""
    try:
        found = date.fromisoformat(text)
    except ValueError:
        return None
    return found if 1900 <= found.year < 9999 else None  # others have no instant in every zone


def zone_of(name: str) -> tzinfo:
    """Of `Europe/Vienna`; UTC for anything else."""
    try:
        return ZoneInfo(name) if name else UTC
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return UTC


def filters(asked: dict[str, str]) -> dict[str, Any]:
    """As the log itself is asked: instants in place of days."""
    first, last, zone = day(asked["since"]), day(asked["until"]), zone_of(asked["zone"])
    return {
        **{name: asked[name] or None for name in ("username", "action", "about", "result")},
        "since": first and datetime.combine(first, time(), zone),
        "until": (last and last < date.max and datetime.combine(last + timedelta(days=1), time(), zone)) or None,
    }


def address(path: str, asked: dict[str, Any]) -> str:
    """`path` with what is not empty of `asked`."""
    told = {name: value.isoformat() if isinstance(value, datetime) else value for name, value in asked.items() if value}
    return f"{path}?{urlencode(told)}" if told else path
