"""What every table is made of."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, DateTime, Dialect, Integer, MetaData, String, TypeDecorator
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from tunesmith.core import acting

BigId = BigInteger().with_variant(Integer(), "sqlite")
"""An id; SQLite counts up by itself only in a column that is called INTEGER."""


class Base(DeclarativeBase):
    """All rows. Constraint names are fixed, so that migrations can name them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


class UtcDateTime(TypeDecorator[datetime]):
    """A timezone-aware instant, always UTC; refuses naive ones."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("naive datetime; use tunesmith.core.clock.utc_now()")
        return value.astimezone(UTC)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


JsonValue = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
"""A JSON column: text on SQLite, jsonb on PostgreSQL. None is the database's NULL, so that `is_not(None)` means what it says."""


class Owned:
    """A row that is somebody's. Who may see it is decided in `storage/database.py`, who may change it in `Repository.get`."""

    owner_id: Mapped[int | None] = mapped_column(BigId, default=acting.owner_id, index=True)
    """None for what was made where there are no accounts: administrators see it."""
    owner: Mapped[str | None] = mapped_column(String(64), default=acting.owner_name)
    """The account's name, which never changes."""
    visibility: Mapped[str] = mapped_column(String(10), default=acting.new_visibility, server_default="private")
    """`acting.Visibility`."""
