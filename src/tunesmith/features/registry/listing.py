"""The registry as it is read: names, versions, search, history and use."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from tunesmith.core.clock import utc_now
from tunesmith.core.errors import NotFound
from tunesmith.features.registry.numbers import Condition, best_known, numbers
from tunesmith.features.registry.repository import (
    AliasRepository,
    HistoryRepository,
    NameRepository,
    UsageRepository,
    VersionRepository,
)
from tunesmith.features.registry.signing import SIGNATURES
from tunesmith.features.registry.store import Store
from tunesmith.features.registry.tables import RegisteredRow, UsageRow, VersionRow
from tunesmith.schemas.common import Page
from tunesmith.schemas.registry import (
    RegisteredRead,
    RegistryEvent,
    UsagePoint,
    VersionDetail,
    VersionFile,
    VersionRead,
    VersionUsage,
)
from tunesmith.settings import Settings
from tunesmith.storage.database import Session

AT_ONCE = 200
"""Rows that a search looks at in one query."""
TREND = 30
"""Most versions in a sparkline."""


def read(row: VersionRow, aliases: Sequence[str] = ()) -> VersionRead:
    """A version for the wire."""
    made = {
        "ref": f"{row.name}@{row.version}",
        "num_files": len(row.files),
        "numbers": numbers(row),
        "aliases": list(aliases),
        "left_out": list(row.lineage.get("left_out") or ()),
    }
    return VersionRead(**{name: getattr(row, name) for name in VersionRead.model_fields if name not in made}, **made)


def read_all(session: Session, rows: Sequence[VersionRow]) -> list[VersionRead]:
    """The same for many, with their aliases."""
    aliases = AliasRepository(session).of_names({row.name for row in rows})
    return [read(row, aliases.get(row.id, ())) for row in rows]


def detail(settings: Settings, session: Session, row: VersionRow, used_by: Sequence[str]) -> VersionDetail:
    """A version with its files, and what uses it."""
    files = [VersionFile(path=name, **about) for name, about in sorted(row.files.items())]
    signed = (Store(settings).root / SIGNATURES / f"{row.id}.json").is_file()
    aliases = AliasRepository(session).of_names([row.name]).get(row.id, [])
    return VersionDetail(**read(row, aliases).model_dump(), files=files, used_by=list(used_by), signed=signed)


# -- names ------------------------------------------------------------------------------------------------------------


def list_names(session: Session, *, text: str | None, cursor: int | None, limit: int) -> Page[RegisteredRead]:
    """Newest first, each with its versions in short."""
    names = NameRepository(session)
    query = names.filtered(text)
    rows, after = names.page(query, cursor=cursor, limit=limit)
    return Page(items=_read_names(session, rows), next_cursor=after)


def get_name(session: Session, name: str) -> RegisteredRead:
    """Raises `NotFound`."""
    return _read_names(session, [named(session, name)])[0]


def named(session: Session, name: str) -> RegisteredRow:
    """Raises `NotFound`."""
    row = NameRepository(session).named(name)
    if row is None:
        raise NotFound(f"There is no registered model {name[:120]!r}.", hint="See the list of registered models.")
    return row


def _read_names(session: Session, rows: Sequence[RegisteredRow]) -> list[RegisteredRead]:
    names = [row.name for row in rows]
    versions: dict[str, list[VersionRow]] = {name: [] for name in names}
    for version in VersionRepository(session).of_names(names):
        versions[version.name].append(version)
    aliases = AliasRepository(session).of_names(names)
    return [_read_name(row, versions[row.name], aliases) for row in rows]


def _read_name(row: RegisteredRow, versions: list[VersionRow], aliases: dict[int, list[str]]) -> RegisteredRead:
    """`versions` from the highest to the lowest."""
    metric = best_known(versions)
    latest = versions[0] if versions else None
    return RegisteredRead(
        id=row.id,
        name=row.name,
        description=row.description,
        owner=row.owner,
        visibility=row.visibility,
        created_at=row.created_at,
        num_versions=len(versions),
        latest=read(latest, aliases.get(latest.id, ())) if latest else None,
        aliases={alias: version.version for version in versions for alias in aliases.get(version.id, ())},
        trend_metric=metric,
        trend=[numbers(version).get(metric) for version in versions[:TREND][::-1]] if metric else [],
        size_bytes=sum(version.size_bytes for version in versions),
    )


# -- versions ---------------------------------------------------------------------------------------------------------


def list_versions(session: Session, name: str, *, cursor: int | None, limit: int) -> Page[VersionRead]:
    """The highest first. Raises `NotFound` for a name that is not there."""
    named(session, name)
    versions = VersionRepository(session)
    rows, after = versions.page_of(name, cursor=cursor, limit=limit)
    return Page(items=read_all(session, rows), next_cursor=after)


def search(
    session: Session, conditions: Sequence[Condition], *, cursor: int | None, limit: int, **filters: Any
) -> Page[VersionRead]:
    """Versions of all names, the newest first, that fit every filter and fulfil every condition."""
    versions = VersionRepository(session)
    query = versions.filtered(**filters)
    found: list[VersionRow] = []
    after = cursor
    while len(found) <= limit and (rows := versions.part(query, after, AT_ONCE)):
        found += [row for row in rows if all(condition.holds(row) for condition in conditions)]
        after = rows[-1].id
    shown = found[:limit]
    return Page(items=read_all(session, shown), next_cursor=shown[-1].id if len(found) > limit else None)


# -- history and use --------------------------------------------------------------------------------------------------


def events(session: Session, name: str, *, cursor: int | None, limit: int) -> Page[RegistryEvent]:
    """Newest first. Raises `NotFound`."""
    named(session, name)
    history = HistoryRepository(session)
    rows, after = history.page(history.of_name(name), cursor=cursor, limit=limit)
    fields = RegistryEvent.model_fields
    return Page(items=[RegistryEvent(**{f: getattr(row, f) for f in fields}) for row in rows], next_cursor=after)


def usage(session: Session, name: str, days: float) -> list[VersionUsage]:
    """Of each version, the highest first, hour by hour over the last `days`. Raises `NotFound`."""
    named(session, name)
    versions = VersionRepository(session).of_name(name)
    uses = UsageRepository(session)
    ids = [row.id for row in versions]
    last = uses.last_used(ids)
    points: dict[int, list[UsageRow]] = {row_id: [] for row_id in ids}
    for point in uses.since(ids, utc_now() - timedelta(days=days)):
        points[point.version_id].append(point)
    return [
        VersionUsage(
            version=row.version,
            last_used_at=last.get(row.id),
            hours=[UsagePoint(hour=point.hour, **_counted([point])) for point in points[row.id]],
            **_counted(points[row.id]),
        )
        for row in versions
    ]


def _counted(points: Sequence[UsageRow]) -> dict[str, Any]:
    requests = sum(point.requests for point in points)
    return {
        "requests": requests,
        "errors": sum(point.errors for point in points),
        "tokens": sum(point.tokens for point in points),
        "mean_latency_s": sum(point.latency_sum_s for point in points) / requests if requests else None,
    }
