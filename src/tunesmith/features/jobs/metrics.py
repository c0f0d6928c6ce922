"""How a job went, in numbers over steps and over time, and what it was busy with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from tunesmith.core.clock import utc_now
from tunesmith.core.job_status import JobStatus
from tunesmith.core.metrics import values_of
from tunesmith.features.jobs.curves import RATES, STEP_CURVES, Points, of_prints, of_scores, of_steps, per_second, thin
from tunesmith.features.jobs.repository import JobRepository
from tunesmith.features.jobs.tables import JobRow
from tunesmith.recipes.catalog import metrics_of
from tunesmith.schemas.jobs import Curve, JobMetrics, JobResources, JobTimeline, TimeCurve, TimelineSpan
from tunesmith.schemas.methods import MethodMetric
from tunesmith.storage.database import Session

Path = tuple[str | int, ...]

MACHINE: dict[str, Path] = {
    "cpu_percent": ("cpu_percent",),
    "memory_bytes": ("memory_bytes",),
    "machine_memory_percent": ("machine_memory_percent",),
    **{shown: (name,) for name, shown in RATES.items()},
}
GPU = ("utilization_percent", "memory_used_bytes", "temperature_c", "power_w")
MAX_SPANS = 2000
"""Stretches of a timeline; of longer ones the newest."""


def metrics(
    session: Session,
    job_id: int,
    *,
    points: int,
    after: int = 0,
    only: Sequence[str] = (),
    steps: tuple[int | None, int | None] = (None, None),
) -> JobMetrics:
    """Every curve, or those of `only`, thinned to `points`: of events after a sequence number and between two steps.
    Raises `NotFound`."""
    jobs = JobRepository(session)
    row = jobs.get(job_id)
    last_seq = row.last_seq
    paths = {name: path for name, path in _step_paths(jobs, row).items() if not only or name in only}
    window = {"after": after, "until": last_seq, "steps": steps}
    rows = jobs.numbers(job_id, "step", list(paths.values()), **window)  # type: ignore[arg-type]
    found = of_steps([(step, *values) for step, _, *values in rows], list(paths), points)
    found |= of_scores(_between(jobs.bodies(job_id, "evaluation", after=after), steps), points)
    prints = [body for body in jobs.bodies(job_id, "metrics", after=after) if body["step"] is not None]
    found |= {name: curve for name, curve in of_prints(_between(prints, steps), points).items() if name not in found}
    wanted = {name: curve for name, curve in found.items() if not only or name in only}
    told = [MethodMetric.model_validate(asdict(metric)) for metric in metrics_of(row.method)]
    return JobMetrics(curves=wanted, metrics=told, num_steps=len({row[0] for row in rows}), last_seq=last_seq)


def _step_paths(jobs: JobRepository, row: JobRow) -> dict[str, Path]:
    """Where each number of a step stands in its event. The loss stands in one place in events of all times."""
    last = jobs.last_event(row.id, "step")
    names = ["loss", *(metric.name for metric in metrics_of(row.method)), *(values_of(last.body) if last else ())]
    found: dict[str, Path] = {name: (name,) if name == "loss" else ("values", name) for name in names}
    return found | {name: (name,) for name in STEP_CURVES}


def curves_of(session: Session, job_id: int, points: int) -> dict[str, Curve]:
    return metrics(session, job_id, points=points).curves


def _between(bodies: Sequence[dict[str, Any]], steps: tuple[int | None, int | None]) -> list[dict[str, Any]]:
    low, high = (steps[0] if steps[0] is not None else -math.inf, steps[1] if steps[1] is not None else math.inf)
    return [body for body in bodies if low <= body["step"] <= high]


# -- the machine --------------------------------------------------------------------------------------------------------


def resources(session: Session, job_id: int, *, points: int, after: int = 0) -> JobResources:
    """What the job used of the machine, over time. Raises `NotFound`."""
    jobs = JobRepository(session)
    last_seq = jobs.get(job_id).last_seq
    paths = MACHINE | _gpu_paths(jobs, job_id)
    rows = jobs.numbers(job_id, "resources", list(paths.values()), after=after, until=last_seq)
    times = [datetime.fromisoformat(row[1]).timestamp() for row in rows]
    found = {}
    for place, name in enumerate(paths, start=2):
        values = [(at, float(row[place])) for at, row in zip(times, rows, strict=True) if row[place] is not None]
        series = per_second(values) if name in RATES.values() else values
        if series:
            found[name] = _over_time(thin(series, points))
    return JobResources(curves=found, last_seq=last_seq)


def _gpu_paths(jobs: JobRepository, job_id: int) -> dict[str, Path]:
    """Where the numbers of each GPU stand in an event."""
    last = jobs.last_event(job_id, "resources")
    gpus = last.body.get("gpus", []) if last else []
    return {f"gpu{gpu['index']}_{name}": ("gpus", place, name) for place, gpu in enumerate(gpus) for name in GPU}


def _over_time(points: Points[float]) -> TimeCurve:
    values = [value if math.isfinite(value) else None for _, value in points]
    return TimeCurve(times=[round(at, 3) for at, _ in points], values=values)


# -- the timeline -------------------------------------------------------------------------------------------------------


def timeline(session: Session, job_id: int) -> JobTimeline:
    """What the job was busy with, and for how long. Raises `NotFound`."""
    jobs = JobRepository(session)
    row = jobs.get(job_id)
    events = jobs.events(job_id, types=("status", "phase"), limit=MAX_SPANS, newest=True)
    spans = _spans(row, [event.body for event in events], utc_now())
    totals: dict[str, float] = {}
    for span in spans:
        totals[span.name] = totals.get(span.name, 0.0) + span.duration_s
    return JobTimeline(spans=spans, totals_s=totals)


def _spans(row: JobRow, bodies: Sequence[dict[str, Any]], now: datetime) -> list[TimelineSpan]:
    """From each event to the next. A worker's phases take the place of `running`; nothing is told of the time after the end."""
    marks = [(datetime.fromisoformat(body["at"]), body) for body in bodies]
    ends = [*[at for at, _ in marks[1:]], row.ended_at][: len(marks)]
    found: list[TimelineSpan] = []
    for (at, body), end in zip(marks, ends, strict=True):
        name = "starting" if body.get("new") == JobStatus.RUNNING else str(body.get("new") or body.get("phase"))
        if name in (JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED):
            continue
        if found and found[-1].name == name and found[-1].attempt == body["attempt"]:
            at = found.pop().started_at
        seconds = max(0.0, ((end or now) - at).total_seconds())
        span = TimelineSpan(name=name, attempt=body["attempt"], started_at=at, ended_at=end, duration_s=seconds)
        found.append(span)
    return found
