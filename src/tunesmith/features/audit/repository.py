"""Every query on the audit log."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from sqlalchemy import Select, cast, func, select, text
from sqlalchemy import Text as SqlText

from tunesmith.features.audit.tables import AuditRow
from tunesmith.storage.database import Session
from tunesmith.storage.repository import like_text
from tunesmith.storage.tables import Base

AUDIT_LOCK = 7461004
"""PostgreSQL advisory lock under which lines are added: each needs the one before."""
PART = 1000
"""Lines read at once."""


class AuditRepository:
    """Lines are added, read and never changed."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def lock(self) -> None:
        """One at a time from here to the end of the transaction (SQLite: writers are)."""
        if self.session.get_bind().dialect.name == "postgresql":
            self.session.execute(text(f"SELECT pg_advisory_xact_lock({AUDIT_LOCK})"))

    def last(self) -> AuditRow | None:
        return self.session.scalars(select(AuditRow).order_by(AuditRow.seq.desc()).limit(1)).one_or_none()

    def get(self, seq: int) -> AuditRow | None:
        return self.session.get(AuditRow, seq)

    def add(self, row: AuditRow) -> None:
        self.session.add(row)
        self.session.flush()

    def count(self) -> int:
        return self.session.scalar(select(func.count()).select_from(AuditRow)) or 0

    def filtered(
        self,
        *,
        username: str | None = None,
        action: str | None = None,
        about: str | None = None,
        result: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> Select[Any]:
        query = select(AuditRow)
        if username:
            query = query.where(AuditRow.username == username)
        if action:
            query = query.where(AuditRow.action == action)
        if about:
            query = query.where(cast(AuditRow.objects, SqlText).ilike(f"%{like_text(about)}%", escape="\\"))
        if result:
            query = query.where(AuditRow.result == result)
        if since:
            query = query.where(AuditRow.at >= since)
        if until:
            query = query.where(AuditRow.at < until)
        return query

    def page(self, query: Select[Any], cursor: int | None, limit: int) -> tuple[list[AuditRow], int | None]:
        """Newest first; the second value is the cursor of the next page."""
        if cursor is not None:
            query = query.where(AuditRow.seq < cursor)
        rows = list(self.session.scalars(query.order_by(AuditRow.seq.desc()).limit(limit + 1)))
        return rows[:limit], rows[limit - 1].seq if len(rows) > limit else None

    def part(self, query: Select[Any], after: int) -> list[AuditRow]:
        """The next lines, oldest first."""
        return list(self.session.scalars(query.where(AuditRow.seq > after).order_by(AuditRow.seq).limit(PART)))

    def actions(self) -> list[str]:
        return list(self.session.scalars(select(AuditRow.action).distinct().order_by(AuditRow.action)))


def made_now(session: Session) -> Iterator[str]:
    """What this transaction has made that has a name for people: `job 7`."""
    for row in session.info.get("made", ()):
        yield f"{type(row).noun} {row.id}"


def watch_what_is_made(session: Session) -> None:
    """Before each flush: remember new rows, whose numbers are known once it is done."""
    new = [row for row in session.new if isinstance(row, Base) and hasattr(type(row), "noun")]
    session.info.setdefault("made", []).extend(new)
