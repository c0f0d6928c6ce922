"""One line for each change, each chained to the one before."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from tunesmith.storage.tables import Base, JsonValue, UtcDateTime


class AuditRow(Base):
    """Who did what, on what, from where, when, with which result. It names things and outlives them; it holds none of them."""

    __tablename__ = "audit_log"

    seq: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    """From 1, without gaps."""
    at: Mapped[datetime] = mapped_column(UtcDateTime)
    user_id: Mapped[int | None] = mapped_column(BigInteger)
    username: Mapped[str] = mapped_column(String(64))
    via: Mapped[str] = mapped_column(String(10))
    """`acting.Via`."""
    credential: Mapped[str] = mapped_column(String(80))
    action: Mapped[str] = mapped_column(String(80))
    objects: Mapped[list[str]] = mapped_column(JsonValue)
    """`job 7`"""
    address: Mapped[str] = mapped_column(String(64))
    result: Mapped[str] = mapped_column(String(10))
    """`done`, `refused` or `failed`."""
    status: Mapped[int]
    """Of the answer, as HTTP has it."""
    hash: Mapped[str] = mapped_column(String(64))
    """HMAC-SHA-256 of this line and of the hash before, hex."""

    __table_args__ = (
        Index("ix_audit_log_username", "username", "seq"),
        Index("ix_audit_log_action", "action", "seq"),
        Index("ix_audit_log_at", "at"),
    )
