"""Deployments, the models that they have served, what happened to them, and every request they answered."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Boolean, Float, ForeignKey, Index, Integer, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from tunesmith.storage.tables import Base, BigId, JsonValue, Owned, UtcDateTime


class DeploymentRow(Owned, Base):
    """A name under which a model is in use. What it should be stands in `wanted`, what it is in `status`."""

    __tablename__ = "deployments"
    noun = "deployment"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    name: Mapped[str] = mapped_column(String(80), unique=True)
    target: Mapped[str] = mapped_column(String(20), index=True)
    wanted: Mapped[str] = mapped_column(String(10), index=True)
    """`running` or `stopped`."""
    status: Mapped[str] = mapped_column(String(12))
    """See `deciding.DeploymentStatus`."""
    reason: Mapped[str] = mapped_column(Text, default="")
    settings: Mapped[dict[str, Any]] = mapped_column(JsonValue)
    """Checked: see `schemas.deployments.LocalSettings`, or the target's own."""
    sampling: Mapped[dict[str, Any]] = mapped_column(JsonValue)
    system_prompt: Mapped[str] = mapped_column(Text, default="")
    auto_rollback: Mapped[bool] = mapped_column(Boolean)
    timeout_s: Mapped[float] = mapped_column(Float)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime)


class RevisionRow(Base):
    """One model of one deployment, and the part of the traffic that it gets."""

    __tablename__ = "deployment_revisions"
    noun = "revision"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    deployment_id: Mapped[int] = mapped_column(ForeignKey("deployments.id", ondelete="CASCADE"))
    number: Mapped[int] = mapped_column(Integer)
    """Counts from 1 within the deployment."""
    model: Mapped[str] = mapped_column(String(500))
    """As it was named."""
    version_id: Mapped[int | None] = mapped_column(BigId, index=True)
    """The registry's version, where it is one."""
    model_ref: Mapped[dict[str, Any]] = mapped_column(JsonValue)
    role: Mapped[str] = mapped_column(String(10))
    """`live`, `candidate`, `shadow` or `retired`."""
    percent: Mapped[float] = mapped_column(Float)
    """Share of the traffic that a candidate gets, or of which a shadow gets copies."""
    plan: Mapped[dict[str, Any]] = mapped_column(JsonValue)
    """How a candidate becomes live: see `schemas.deployments.Rollout`."""
    status: Mapped[str] = mapped_column(String(10))
    """`pending`, `starting`, `ready`, `failed` or `retired`."""
    reason: Mapped[str] = mapped_column(Text, default="")
    result: Mapped[dict[str, Any]] = mapped_column(JsonValue)
    """What a foreign target said of it."""
    baseline: Mapped[dict[str, Any] | None] = mapped_column(JsonValue)
    """Of the training data, to tell drift: see `drift.Baseline`."""
    step: Mapped[int] = mapped_column(Integer, default=0)
    """How many steps of its plan it has taken."""
    began_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    """When it began to get its present share."""
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    ready_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    ended_at: Mapped[datetime | None] = mapped_column(UtcDateTime)

    __table_args__ = (
        UniqueConstraint("deployment_id", "number"),
        Index("ix_deployment_revisions_role", "deployment_id", "role"),
    )


class HistoryRow(Base):
    """Something that happened to a deployment."""

    __tablename__ = "deployment_history"
    noun = "entry"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    deployment_id: Mapped[int] = mapped_column(ForeignKey("deployments.id", ondelete="CASCADE"), index=True)
    at: Mapped[datetime] = mapped_column(UtcDateTime)
    kind: Mapped[str] = mapped_column(String(20))
    message: Mapped[str] = mapped_column(Text)
    by: Mapped[str | None] = mapped_column(String(64))
    """Whose doing it was; None for the supervision."""
    revision: Mapped[int | None] = mapped_column(Integer)


class RequestRow(Base):
    """One request that came through the gateway. Texts are kept only where the deployment says so."""

    __tablename__ = "deployment_requests"
    noun = "request"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    uid: Mapped[str] = mapped_column(String(40), unique=True)
    """The id that the answer carried in `X-Request-Id`."""
    deployment_id: Mapped[int] = mapped_column(ForeignKey("deployments.id", ondelete="CASCADE"))
    revision_id: Mapped[int] = mapped_column(BigId)
    at: Mapped[datetime] = mapped_column(UtcDateTime)
    path: Mapped[str] = mapped_column(String(40))
    status: Mapped[int] = mapped_column(Integer)
    """As HTTP: 200, 499 when the client left, 5xx when the model failed."""
    latency_s: Mapped[float] = mapped_column(Float)
    first_token_s: Mapped[float | None] = mapped_column(Float)
    prompt_tokens: Mapped[int | None] = mapped_column(Integer)
    completion_tokens: Mapped[int | None] = mapped_column(Integer)
    input_chars: Mapped[int] = mapped_column(Integer)
    unknown_words: Mapped[float | None] = mapped_column(Float)
    """Share of the input's words that the training data has not, 0 to 1."""
    cached: Mapped[bool] = mapped_column(Boolean)
    shadow: Mapped[bool] = mapped_column(Boolean)
    caller: Mapped[str] = mapped_column(String(64))
    """Account or key, never its secret."""
    rating: Mapped[str | None] = mapped_column(String(4))
    """`up` or `down`."""
    messages: Mapped[list[Any] | None] = mapped_column(JsonValue)
    answer: Mapped[str | None] = mapped_column(Text)

    __table_args__ = (
        Index("ix_deployment_requests_when", "deployment_id", "at"),
        Index("ix_deployment_requests_revision", "revision_id", "at"),
    )
