"""Remembered answers to requests that name an `Idempotency-Key`."""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta

from sqlalchemy import String, Text, delete, select, text
from sqlalchemy.orm import Mapped, Session, mapped_column

from tunesmith.core.clock import utc_now
from tunesmith.storage.tables import Base, UtcDateTime

KEPT_FOR = timedelta(hours=24)


class IdempotencyRow(Base):
    """The answer to one request."""

    __tablename__ = "idempotency_keys"

    scope: Mapped[str] = mapped_column(String(100), primary_key=True)
    """Which operation; two operations may use the same key."""
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    fingerprint: Mapped[str] = mapped_column(String(64))
    """SHA-256 of the request's body, hex."""
    status: Mapped[int]
    body: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, index=True)


class IdempotencyRepository:
    """Queries on remembered answers."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def claim(self, scope: str, key: str) -> bool:
        """False when another server is at work on the same key now (PostgreSQL; SQLite has one server)."""
        if self.session.get_bind().dialect.name != "postgresql":
            return True
        number = int.from_bytes(hashlib.sha256(f"{scope}\n{key}".encode()).digest()[:8], "big", signed=True)
        return bool(self.session.scalar(text("SELECT pg_try_advisory_xact_lock(:number)"), {"number": number}))

    def find(self, scope: str, key: str) -> IdempotencyRow | None:
        """The answer, unless it is older than a day."""
        row = IdempotencyRow
        query = select(row).where(row.scope == scope, row.key == key, row.created_at > utc_now() - KEPT_FOR)
        return self.session.scalar(query)

    def remember(self, scope: str, key: str, fingerprint: str, status: int, body: str) -> None:
        """Keep the answer, and forget those of the day before."""
        now = utc_now()
        self.session.execute(delete(IdempotencyRow).where(IdempotencyRow.created_at <= now - KEPT_FOR))
        row = IdempotencyRow(scope=scope, key=key, fingerprint=fingerprint, status=status, body=body, created_at=now)
        self.session.add(row)
        self.session.flush()
