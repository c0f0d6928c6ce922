"""Battles of the arena."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Index, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from tunesmith.storage.tables import Base, BigId, JsonValue, Owned, UtcDateTime


class BattleRow(Owned, Base):
    """One question to two models. It outlives both: a job's number is never given twice."""

    __tablename__ = "battles"
    noun = "battle"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    model_a: Mapped[str] = mapped_column(String(500))
    """Whose answer is shown as A: drawn by lot, and told only after the vote."""
    model_b: Mapped[str] = mapped_column(String(500))
    prompt: Mapped[str] = mapped_column(Text)
    messages: Mapped[list[Any]] = mapped_column(JsonValue)
    """What both are asked: `{role, content}` each."""
    dataset_id: Mapped[int | None] = mapped_column(BigId)
    row_number: Mapped[int | None] = mapped_column(BigInteger)
    """Of the dataset, from 1."""
    sampling: Mapped[dict[str, Any]] = mapped_column(JsonValue)
    answer_a: Mapped[str | None] = mapped_column(Text)
    answer_b: Mapped[str | None] = mapped_column(Text)
    vote: Mapped[str | None] = mapped_column(String(10))
    """`a`, `b`, `tie` or `both_bad`."""
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    voted_at: Mapped[datetime | None] = mapped_column(UtcDateTime)

    __table_args__ = (Index("ix_battles_vote", "vote", "id"), {"sqlite_autoincrement": True})
