"""The page of the machine: resources over time, processes, the disk by kind with clean-ups, and health with remedies."""

from __future__ import annotations

import os
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse

from tunesmith.core.acting import Scope, current
from tunesmith.core.errors import PermissionDenied
from tunesmith.features.monitoring import service
from tunesmith.features.monitoring.api import Monitoring
from tunesmith.features.monitoring.monitor import Monitor
from tunesmith.http.session import AppState, DbSession, State
from tunesmith.schemas.system import DoctorCheck, ProcessKind, StorageUse
from tunesmith.storage.database import Session
from tunesmith.ui.render import page

router = APIRouter(include_in_schema=False)

TABS = (("resources", "Resources"), ("processes", "Processes"), ("storage", "Storage"), ("health", "Health"))
FOR_ADMINS = ("processes", "storage")
Tab = Literal["resources", "processes", "storage", "health"]
RANGES = {"15m": (900, "15 min"), "1h": (3600, "1 h"), "6h": (6 * 3600, "6 h"), "24h": (24 * 3600, "24 h")}
"""How much of the past the charts show: seconds, and how that is called."""
Range = Literal["15m", "1h", "6h", "24h"]
CHECKS = {"gpu": "GPU", "qlora": "4-bit training", "models": "Base models", "home is private": "Home folder is private"}
"""What checks are called, where their own name would not do."""
KINDS = {
    ProcessKind.SERVER: ("server", "server"),
    ProcessKind.WORKER: ("training", "activity"),
    ProcessKind.SERVING: ("chat", "message-square"),
    ProcessKind.DATASET: ("dataset", "database"),
    ProcessKind.SHIM: ("watcher", "eye"),
    ProcessKind.WARM: ("warm", "flame"),
}
"""What each kind of process is called, and its icon."""


@router.get("/system")
def show(
    request: Request,
    state: State,
    monitor: Monitoring,
    session: DbSession,
    tab: Annotated[Tab, Query()] = "resources",
    range_: Annotated[Range, Query(alias="range")] = "1h",
) -> HTMLResponse:
    """`tab` is a part of the page, `range` how much of the past its charts show. Raises `PermissionDenied`."""
    is_admin = current().may(Scope.ADMIN)
    if tab in FOR_ADMINS and not is_admin:
        raise PermissionDenied(f"The {tab} of this server are for administrators.", hint="Ask one of them.")
    make = {"resources": resources, "processes": processes, "storage": storage, "health": health}[tab]
    return page(
        request,
        "system/show.html",
        title="System",
        section="system",
        tabs=[told for told in TABS if is_admin or told[0] not in FOR_ADMINS],
        tab=tab,
        range=range_,
        ranges=RANGES,
        **make(state, monitor, session),
    )


def resources(state: AppState, monitor: Monitor, _session: Session) -> dict[str, Any]:
    return {"use": service.resources(state.settings, monitor.sampler.last()), "cpu_cores": os.cpu_count() or 1}


def processes(_state: AppState, monitor: Monitor, session: Session) -> dict[str, Any]:
    return {"processes": monitor.processes.list(session), "kinds": KINDS}


def storage(_state: AppState, monitor: Monitor, _session: Session) -> dict[str, Any]:
    use = monitor.storage.read()
    return {"use": use, "pieces": pieces(use), "total_bytes": sum(kind.size_bytes for kind in use.kinds)}


def pieces(use: StorageUse) -> list[tuple[int, float, float, str]]:
    """`(colour, start, width, title)` of each kind in a bar of width 1000, the largest kind first."""
    total = sum(kind.size_bytes for kind in use.kinds) or 1
    made, start = [], 0.0
    for number, kind in enumerate(use.kinds):
        width = kind.size_bytes / total * 1000
        made.append((number + 1, round(start, 2), round(width, 2), kind.title))
        start += width
    return made


def health(state: AppState, _monitor: Monitor, _session: Session) -> dict[str, Any]:
    # As at the API: what the checks say of folders and keys is for administrators.
    checks = service.doctor(state.settings, state.database) if current().may(Scope.ADMIN) else []
    info = service.info(state.settings)
    return {
        "checks": sorted(checks, key=_urgency),
        "info": info,
        "names": CHECKS,
        "health": service.health(state.database),
    }


def _urgency(check: DoctorCheck) -> int:
    return ("error", "warning", "info", "ok").index(check.status)
