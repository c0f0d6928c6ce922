"""The first page: how many, how busy, what waits and what needs attention; for a new user, three steps to a first model."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.resources import files
from typing import NamedTuple

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, HTMLResponse

from tunesmith.features.monitoring import overview, service
from tunesmith.features.monitoring.api import Monitoring
from tunesmith.http.session import DbSession, State
from tunesmith.schemas.system import ActivityDay, Attention
from tunesmith.ui.render import HEADERS, page

router = APIRouter(include_in_schema=False)

SAMPLE = "larkmoor"
"""Name of the sample dataset: questions about an observatory that does not exist, so that no model can know the answers."""
CHART_HEIGHT = 100
KINDS = ("completed", "open", "waiting", "cancelled", "failed")
KIND_WORDS = {"open": "under way"}
"""Of a day's jobs, from the bottom of its bar to the top."""
LINKS = {"job": "/jobs/{}", "dataset": "/datasets/{}", "disk": "/system?tab=storage", "memory": "/system?tab=processes"}


class Block(NamedTuple):
    """One piece of a day's bar, in units of the chart."""

    kind: str
    y: float
    height: float


class Bar(NamedTuple):
    x: float
    said: str
    blocks: list[Block]


@router.get("/")
def show(request: Request, state: State, monitor: Monitoring, session: DbSession) -> HTMLResponse:
    """All of it is from the overview."""
    use = service.resources(state.settings, monitor.sampler.last())
    seen = overview.read(state.settings, session, state.bus, use, state.why_waiting)
    return page(
        request,
        "dashboard/show.html",
        title="Dashboard",
        section="dashboard",
        seen=seen,
        bars=bars(seen.activity),
        said="; ".join(_said(day) for day in seen.activity if _total(day)) or "None so far.",
        most=max((_total(day) for day in seen.activity), default=0),
        cpu_cores=os.cpu_count() or 1,
        link=link,
        sample=SAMPLE,
        steps=[bool(seen.datasets.get("ready")), bool(seen.jobs), bool(seen.models["tuned"])],
    )


@router.get("/sample.jsonl")
def sample() -> FileResponse:
    """The sample dataset, for the button that uploads it."""
    return FileResponse(
        str(files("tunesmith") / "cli" / "demo.jsonl"), media_type="application/x-ndjson", headers=HEADERS
    )


def bars(days: Sequence[ActivityDay]) -> list[Bar]:
    """A bar for each day, its blocks from the bottom up; the highest is as high as the chart."""
    most = max((_total(day) for day in days), default=0) or 1
    made = []
    for number, day in enumerate(days):
        top, blocks = float(CHART_HEIGHT), []
        for kind in KINDS:
            height = getattr(day, kind) / most * CHART_HEIGHT
            if height:
                top -= height
                blocks.append(Block(kind, round(top, 2), round(height, 2)))
        made.append(Bar(number * 10.0, _said(day), blocks))
    return made


def link(item: Attention) -> str:
    """Where to look at it."""
    return LINKS[item.kind.partition("_")[0]].format(item.id)


def _total(day: ActivityDay) -> int:
    return sum(getattr(day, kind) for kind in KINDS)


def _said(day: ActivityDay) -> str:
    """`21 Nov: 3 jobs (2 completed, 1 failed)`."""
    total = _total(day)
    parts = [f"{getattr(day, kind)} {KIND_WORDS.get(kind, kind)}" for kind in KINDS if getattr(day, kind)]
    told = f" ({', '.join(parts)})" if parts else ""
    return f"{day.day.day} {day.day:%b}: {total or 'no'} job{'' if total == 1 else 's'}{told}"
