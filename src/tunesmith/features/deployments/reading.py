"""Deployments as people see them: with their models, their numbers and their drift."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from tunesmith.core.clock import utc_now
from tunesmith.core.job_spec import ModelRef
from tunesmith.features.deployments import drift, service, targets
from tunesmith.features.deployments.deciding import Sample, compare, stats_of
from tunesmith.features.deployments.repository import (
    DeploymentRepository,
    HistoryRepository,
    RequestRepository,
    RevisionRepository,
)
from tunesmith.features.deployments.tables import DeploymentRow, RevisionRow
from tunesmith.recipes.model_about import ModelAbout, about
from tunesmith.schemas.common import Page
from tunesmith.schemas.deployments import (
    Comparison,
    DeploymentMetrics,
    DeploymentRead,
    HistoryRead,
    LocalSettings,
    Minute,
    RequestRead,
    RevisionRead,
    Rollout,
    TargetRead,
    VariantStats,
)
from tunesmith.storage.database import Session

NUM_PIECES = 60
"""Pieces of time in a chart."""


def list_targets() -> list[TargetRead]:
    """Where models can be deployed to, and why not, where this machine cannot."""
    local = TargetRead(
        name=service.LOCAL, title="This machine", why_not="", settings=LocalSettings.model_json_schema(),
        sentence="An OpenAI-compatible server, with canaries, A/B tests, limits and monitoring.",
    )  # fmt: skip
    others = [
        TargetRead(
            name=target.name, title=target.title, sentence=target.sentence, why_not=target.why_not() or "",
            settings=target.Settings.model_json_schema(),
        )
        for target in targets.TARGETS
    ]  # fmt: skip
    return [local, *others]


def list_deployments(
    session: Session, base_url: str, *, target: str | None, text: str | None, cursor: int | None, limit: int
) -> Page[DeploymentRead]:
    """Newest first."""
    rows = DeploymentRepository(session)
    found, after = rows.page(rows.filtered(target=target, text=text), cursor=cursor, limit=limit)
    revisions: dict[int, list[RevisionRow]] = {}
    for revision in RevisionRepository(session).of_all([row.id for row in found]):
        revisions.setdefault(revision.deployment_id, []).append(revision)
    items = [_read(row, revisions.get(row.id, []), base_url) for row in found]
    return Page(items=items, next_cursor=after)


def read(session: Session, row: DeploymentRow, base_url: str, *, all_revisions: bool = False) -> DeploymentRead:
    """One, with the models in use, or with all that it ever had."""
    revisions = RevisionRepository(session)
    return _read(row, revisions.of(row.id, () if all_revisions else service.IN_USE), base_url)


def _read(row: DeploymentRow, revisions: Sequence[RevisionRow], base_url: str) -> DeploymentRead:
    live = next((revision for revision in revisions if revision.role == "live"), None)
    address = (
        f"{base_url.rstrip('/')}/v1"
        if row.target == service.LOCAL
        else (live.result or {}).get("address", "")
        if live
        else ""
    )
    about = about_revisions(revisions)
    if about is not None and row.target == service.LOCAL:
        address = f"{base_url.rstrip('/')}/models/{row.name}"
    told = DeploymentRead.model_validate(row)
    return told.model_copy(
        update={
            "task": about.task if about else None,
            "model": live.model if live else None,
            "address": address,
            "revisions": [RevisionRead.model_validate(revision) for revision in revisions],
        }
    )


def about_revisions(revisions: Sequence[RevisionRow]) -> ModelAbout | None:
    """Of the model in use, where it does not chat: the live one, else what is on its way."""
    ordered = sorted(revisions, key=lambda revision: (revision.role != "live", -revision.number))
    return about(ModelRef.model_validate(ordered[0].model_ref)) if ordered else None


def about_of(session: Session, row: DeploymentRow) -> ModelAbout | None:
    """The same of a deployment."""
    return about_revisions(RevisionRepository(session).of(row.id, service.IN_USE))


def history(session: Session, deployment_id: int, *, cursor: int | None, limit: int) -> Page[HistoryRead]:
    """Newest first."""
    DeploymentRepository(session).get(deployment_id)
    rows = HistoryRepository(session)
    found, after = rows.page(rows.of(deployment_id), cursor=cursor, limit=limit)
    return Page(items=[HistoryRead.model_validate(row) for row in found], next_cursor=after)


def requests(
    session: Session, deployment_id: int, *, failed: bool | None, rating: str | None, cursor: int | None, limit: int
) -> Page[RequestRead]:
    """Newest first."""
    DeploymentRepository(session).get(deployment_id)
    rows = RequestRepository(session)
    found, after = rows.page(rows.filtered(deployment_id, failed=failed, rating=rating), cursor=cursor, limit=limit)
    return Page(items=[RequestRead.model_validate(row) for row in found], next_cursor=after)


def metrics(session: Session, deployment_id: int, window_s: float) -> DeploymentMetrics:
    """The last `window_s` seconds: in all, by model, each candidate against the live one, drift, and over time."""
    row = DeploymentRepository(session).get(deployment_id)
    revisions = RevisionRepository(session).of(deployment_id, service.IN_USE)
    since = utc_now() - timedelta(seconds=window_s)
    rows = RequestRepository(session)
    samples = rows.samples([revision.id for revision in revisions], since)
    live = next((revision for revision in revisions if revision.role == "live"), None)
    timed = rows.timed(deployment_id, since)
    return DeploymentMetrics(
        window_s=window_s,
        total=stats_of([sample for _, sample in timed]),
        variants={revision.number: stats_of(samples[revision.id]) for revision in revisions},
        comparisons={
            revision.number: _compared(revision, samples[live.id], samples[revision.id])
            for revision in revisions
            if live and revision.id != live.id
        },
        drift=_drift(session, row, live),
        series=_pieces(timed, since, window_s),
    )


def recent(session: Session, deployment_id: int, window_s: float) -> tuple[VariantStats, list[Minute]]:
    """The last `window_s` seconds in all and over time, without what models are compared by: for lists."""
    since = utc_now() - timedelta(seconds=window_s)
    timed = RequestRepository(session).timed(deployment_id, since)
    return stats_of([sample for _, sample in timed]), _pieces(timed, since, window_s)


def _compared(revision: RevisionRow, live: list[Sample], candidate: list[Sample]) -> list[Comparison]:
    plan = Rollout.model_validate(revision.plan)
    return [compare(metric, live, candidate, plan.significance) for metric in ("error_rate", "latency", "rating")]


def _drift(session: Session, row: DeploymentRow, live: RevisionRow | None) -> Any:
    if live is None or not live.baseline:
        return None
    inputs = RequestRepository(session).inputs(live.id, drift.LATEST_INPUTS)
    return drift.drift_of(live.baseline, inputs, LocalSettings.model_validate(row.settings).watch.max_drift)


def _pieces(timed: list[tuple[datetime, Sample]], since: datetime, window_s: float) -> list[Minute]:
    """`window_s` in pieces of the same length, the oldest first."""
    length_s = window_s / NUM_PIECES
    parts: list[list[Sample]] = [[] for _ in range(NUM_PIECES)]
    for at, sample in timed:
        number = int((at - since).total_seconds() / length_s)
        parts[min(NUM_PIECES - 1, max(0, number))].append(sample)
    found = []
    for number, part in enumerate(parts):
        told = stats_of(part)
        found.append(
            Minute(
                at=(since + timedelta(seconds=number * length_s)).astimezone(UTC),
                requests=told.requests,
                errors=told.errors,
                p50_latency_s=told.p50_latency_s,
                p95_latency_s=told.p95_latency_s,
                tokens=sum(sample.tokens for sample in part),
            )
        )
    return found
