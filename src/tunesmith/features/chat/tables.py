"""What people think of answers."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Index, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from tunesmith.storage.tables import Base, BigId, JsonValue, Owned, UtcDateTime


class RatingRow(Owned, Base):
    """One judgement of one answer. It outlives the model: a job's number is never given twice."""

    __tablename__ = "ratings"
    noun = "rating"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    model: Mapped[str] = mapped_column(String(500))
    messages: Mapped[list[Any]] = mapped_column(JsonValue)
    """The conversation before the answer: `{role, content}` each."""
    answer: Mapped[str] = mapped_column(Text)
    verdict: Mapped[str] = mapped_column(String(4))
    """`up` or `down`."""
    note: Mapped[str] = mapped_column(Text)
    sampling: Mapped[dict[str, Any]] = mapped_column(JsonValue)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)

    __table_args__ = (Index("ix_ratings_model", "model", "verdict"),)
