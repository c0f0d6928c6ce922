"""Accounts, their logins, their keys, and links that work once."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, ForeignKey, Index, String, text
from sqlalchemy.orm import Mapped, mapped_column

from tunesmith.storage.tables import Base, BigId, JsonValue, UtcDateTime


class UserRow(Base):
    """An account. Its name never changes and is never given to another: logs and things made carry it."""

    __tablename__ = "users"
    noun = "user"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    username: Mapped[str] = mapped_column(String(64))
    email: Mapped[str | None] = mapped_column(String(254))
    full_name: Mapped[str] = mapped_column(String(200), default="")
    role: Mapped[str] = mapped_column(String(10))
    password_hash: Mapped[str | None] = mapped_column(String(255))
    """Argon2id; null for those who log in elsewhere."""
    oidc_subject: Mapped[str | None] = mapped_column(String(600), unique=True)
    """`<issuer> <subject>`."""
    disabled: Mapped[bool] = mapped_column(default=False)
    quota_storage_bytes: Mapped[int | None] = mapped_column(BigInteger)
    quota_jobs: Mapped[int | None]
    quota_gpu_hours: Mapped[float | None]
    """Null: what the settings say."""
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    last_login_at: Mapped[datetime | None] = mapped_column(UtcDateTime)

    __table_args__ = (
        Index("uq_users_name", text("lower(username)"), unique=True),
        Index("uq_users_email", text("lower(email)"), unique=True),
        {"sqlite_autoincrement": True},
    )


class LoginRow(Base):
    """One login: a browser's cookie, or an access token with the token that renews it."""

    __tablename__ = "logins"

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    kind: Mapped[str] = mapped_column(String(10))
    """`session` or `token`."""
    generation: Mapped[int] = mapped_column(default=0)
    """How often it was renewed: a token of an earlier generation that comes again has been stolen."""
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    last_used_at: Mapped[datetime] = mapped_column(UtcDateTime)
    expires_at: Mapped[datetime] = mapped_column(UtcDateTime, index=True)
    address: Mapped[str] = mapped_column(String(64))
    agent: Mapped[str] = mapped_column(String(200))
    """What the browser or program calls itself."""


class KeyRow(Base):
    """An API key. What is kept is its SHA-256: it has 256 random bits, so that nobody can guess it from that."""

    __tablename__ = "api_keys"
    noun = "api key"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    name: Mapped[str] = mapped_column(String(100))
    prefix: Mapped[str] = mapped_column(String(16), unique=True)
    """Its beginning, by which it is found and recognised."""
    sha256: Mapped[str] = mapped_column(String(64))
    scopes: Mapped[list[str]] = mapped_column(JsonValue)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    expires_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    last_used_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    last_used_from: Mapped[str | None] = mapped_column(String(64))

    __table_args__ = ({"sqlite_autoincrement": True},)


class LinkRow(Base):
    """A link that works once: an invitation, or a new password. What is kept is its SHA-256."""

    __tablename__ = "account_links"
    noun = "invitation"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    kind: Mapped[str] = mapped_column(String(10))
    """`invitation` or `password`."""
    sha256: Mapped[str] = mapped_column(String(64), unique=True)
    user_id: Mapped[int | None] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    """Whose password."""
    role: Mapped[str | None] = mapped_column(String(10))
    """What who is invited will be."""
    email: Mapped[str | None] = mapped_column(String(254))
    created_by: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    expires_at: Mapped[datetime] = mapped_column(UtcDateTime)

    __table_args__ = ({"sqlite_autoincrement": True},)


class PastUseRow(Base):
    """GPU time of an account's jobs that have been deleted since."""

    __tablename__ = "past_gpu_use"

    user_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), primary_key=True)
    month: Mapped[str] = mapped_column(String(7), primary_key=True)
    """`2026-11`"""
    gpu_seconds: Mapped[float]
