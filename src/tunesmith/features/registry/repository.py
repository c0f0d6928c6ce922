"""Every query on the registry."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Select, delete, func, select, text, update
from sqlalchemy.exc import IntegrityError

from tunesmith.core.clock import utc_now
from tunesmith.features.registry.tables import AliasRow, RegisteredRow, RegistryEventRow, UsageRow, VersionRow
from tunesmith.storage.database import EVERYONES
from tunesmith.storage.repository import Repository, contains

REGISTRY_LOCK = 7461008
"""PostgreSQL advisory lock under which versions get their numbers."""
HISTORY = 50
"""Versions that an alias remembers."""


class NameRepository(Repository[RegisteredRow]):
    row = RegisteredRow
    noun = "registered model"

    def lock(self) -> None:
        """One at a time from here to the end of the transaction (SQLite: writers are)."""
        if self.session.get_bind().dialect.name == "postgresql":
            self.session.execute(text(f"SELECT pg_advisory_xact_lock({REGISTRY_LOCK})"))

    def named(self, name: str, *, everyones: bool = False) -> RegisteredRow | None:
        query = self.query().where(RegisteredRow.name == name)
        return self.session.scalars(query, execution_options=EVERYONES if everyones else {}).one_or_none()

    def newest(self, most: int) -> list[str]:
        query = self.query().order_by(RegisteredRow.id.desc()).limit(most)
        return [row.name for row in self.session.scalars(query)]

    def filtered(self, text_like: str | None) -> Select[Any]:
        query = self.query()
        return query.where(contains(text_like, RegisteredRow.name, RegisteredRow.description)) if text_like else query

    def count(self) -> int:
        return self.session.scalar(select(func.count()).select_from(RegisteredRow)) or 0

    def remove(self, row: RegisteredRow) -> None:
        self.session.delete(row)
        self.session.flush()


class VersionRepository(Repository[VersionRow]):
    row = VersionRow
    noun = "model version"

    def of_name(self, name: str, *, everyones: bool = False) -> list[VersionRow]:
        """The highest first."""
        query = self.query().where(VersionRow.name == name).order_by(VersionRow.number.desc())
        return list(self.session.scalars(query, execution_options=EVERYONES if everyones else {}))

    def page_of(self, name: str, *, cursor: int | None, limit: int) -> tuple[list[VersionRow], int | None]:
        """The highest first, and the next page's cursor. Raises `BadRequest`."""
        return self.page(self.filtered(name=name), cursor=cursor, limit=limit, by=VersionRow.__table__.c.number)

    def of_names(self, names: Sequence[str]) -> list[VersionRow]:
        """By name, the highest first."""
        query = self.query().where(VersionRow.name.in_(names))
        return list(self.session.scalars(query.order_by(VersionRow.name, VersionRow.number.desc())))

    def numbered(self, name: str, version: str) -> VersionRow | None:
        query = self.query().where(VersionRow.name == name, VersionRow.version == version)
        return self.session.scalars(query).one_or_none()

    def latest(self, name: str, *, everyones: bool = False) -> VersionRow | None:
        query = self.query().where(VersionRow.name == name).order_by(VersionRow.number.desc()).limit(1)
        return self.session.scalars(query, execution_options=EVERYONES if everyones else {}).one_or_none()

    def before(self, row: VersionRow) -> VersionRow | None:
        """The highest version below `row`."""
        query = self.query().where(VersionRow.name == row.name, VersionRow.number < row.number)
        return self.session.scalars(query.order_by(VersionRow.number.desc()).limit(1)).one_or_none()

    def of_job(self, job_id: int) -> VersionRow | None:
        """The one that the job itself made: the first."""
        query = self.query().where(VersionRow.job_id == job_id).order_by(VersionRow.id).limit(1)
        return self.session.scalars(query).one_or_none()

    def all_of_job(self, job_id: int) -> list[VersionRow]:
        """Those that the job made: a compression makes one for each format."""
        return list(self.session.scalars(self.query().where(VersionRow.job_id == job_id).order_by(VersionRow.id)))

    def filtered(
        self,
        *,
        text_like: str | None = None,
        name: str | None = None,
        kind: str | None = None,
        stage: str | None = None,
        tag: str | None = None,
        alias: str | None = None,
        base: str | None = None,
        family: str | None = None,
    ) -> Select[Any]:
        query = self.query()
        if text_like:
            query = query.where(contains(text_like, VersionRow.name, VersionRow.notes, VersionRow.base_model))
        exact = {"name": name, "kind": kind, "stage": stage, "base_model": base}
        for column, value in exact.items():
            if value:
                query = query.where(getattr(VersionRow, column) == value)
        if tag:
            query = query.where(self.has_tag(VersionRow.tags, tag))
        if alias:
            query = query.where(VersionRow.id.in_(select(AliasRow.version_id).where(AliasRow.alias == alias)))
        if family:
            query = query.where(VersionRow.architecture["family"].as_string() == family)
        return query

    def part(self, query: Select[Any], after: int | None, limit: int) -> list[VersionRow]:
        """The next rows of a query, the newest first."""
        if after is not None:
            query = query.where(VersionRow.id < after)
        return list(self.session.scalars(query.order_by(VersionRow.id.desc()).limit(limit)))

    def all(self, *, everyones: bool = False) -> list[VersionRow]:
        query = self.query().order_by(VersionRow.id)
        return list(self.session.scalars(query, execution_options=EVERYONES if everyones else {}))

    def ids(self) -> set[int]:
        """Whoever's they are."""
        return set(self.session.scalars(select(VersionRow.id), execution_options=EVERYONES))

    def digests(self) -> set[str]:
        """Of every file of every version, whoever's it is."""
        found = self.session.scalars(select(VersionRow.files), execution_options=EVERYONES)
        return {str(about["sha256"]) for files in found for about in files.values()}

    def remove(self, row: VersionRow) -> None:
        self.session.execute(delete(UsageRow).where(UsageRow.version_id == row.id))
        self.session.delete(row)
        self.session.flush()


class AliasRepository:
    """Where each alias stands."""

    def __init__(self, session: Any) -> None:
        self.session = session

    def find(self, name: str, alias: str) -> AliasRow | None:
        found: AliasRow | None = self.session.get(AliasRow, (name, alias))
        return found

    def of_names(self, names: Iterable[str]) -> dict[int, list[str]]:
        """Version → its aliases."""
        query = select(AliasRow).where(AliasRow.name.in_(list(names))).order_by(AliasRow.alias)
        found: dict[int, list[str]] = {}
        for row in self.session.scalars(query):
            found.setdefault(row.version_id, []).append(row.alias)
        return found

    def all(self, name: str | None = None) -> list[AliasRow]:
        query = select(AliasRow).order_by(AliasRow.name, AliasRow.alias)
        return list(self.session.scalars(query.where(AliasRow.name == name) if name else query))

    def move(self, name: str, alias: str, version_id: int, *, back: bool = False) -> int | None:
        """Let it stand for another version; the one that it stood for until now, None when it is new. `back` does not
        remember that one."""
        row = self.find(name, alias)
        if row is None:
            self.session.add(AliasRow(name=name, alias=alias, version_id=version_id, before=[], moved_at=utc_now()))
            self.session.flush()
            return None
        was = row.version_id
        row.before = row.before if back else [*row.before, was][-HISTORY:]
        row.version_id, row.moved_at = version_id, utc_now()
        self.session.flush()
        return was

    def remove(self, row: AliasRow) -> None:
        self.session.delete(row)
        self.session.flush()


class HistoryRepository(Repository[RegistryEventRow]):
    row = RegistryEventRow
    noun = "event"

    def of_name(self, name: str) -> Select[Any]:
        return self.query().where(RegistryEventRow.name == name)


class UsageRepository:
    """Requests by version and hour."""

    def __init__(self, session: Any) -> None:
        self.session = session

    def add(self, version_id: int, hour: datetime, counts: dict[str, Any]) -> None:
        """Add to the hour's counts, whoever else does."""
        if self._raise(version_id, hour, counts):
            return
        try:
            with self.session.begin_nested():
                self.session.add(UsageRow(version_id=version_id, hour=hour, **counts))
                self.session.flush()
        except IntegrityError:  # another server was first
            self._raise(version_id, hour, counts)

    def _raise(self, version_id: int, hour: datetime, counts: dict[str, Any]) -> bool:
        change = update(UsageRow).where(UsageRow.version_id == version_id, UsageRow.hour == hour)
        values = {name: getattr(UsageRow, name) + count for name, count in counts.items()}
        result = self.session.execute(change.values(**values).execution_options(synchronize_session=False))
        return bool(result.rowcount)

    def since(self, version_ids: Sequence[int], start: datetime) -> list[UsageRow]:
        """Oldest first."""
        query = select(UsageRow).where(UsageRow.version_id.in_(version_ids), UsageRow.hour >= start)
        return list(self.session.scalars(query.order_by(UsageRow.hour)))

    def last_used(self, version_ids: Sequence[int]) -> dict[int, datetime]:
        query = select(UsageRow.version_id, func.max(UsageRow.hour)).where(UsageRow.version_id.in_(version_ids))
        return {version_id: hour for version_id, hour in self.session.execute(query.group_by(UsageRow.version_id))}
