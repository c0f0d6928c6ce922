"""Deployments, the models that they have served, what happened to them, and their requests."""

import sqlalchemy as sa
from alembic import op

from tunesmith.storage.tables import JsonValue, UtcDateTime

revision = "0010_deployments"
down_revision = "0009_evaluations"

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _of_deployment() -> sa.Column[int]:
    return sa.Column("deployment_id", BIG, sa.ForeignKey("deployments.id", ondelete="CASCADE"), nullable=False)


def upgrade() -> None:
    _deployments()
    _revisions()
    _requests()


def _deployments() -> None:
    """A name under which a model is in use."""
    op.create_table(
        "deployments",
        sa.Column("id", BIG, primary_key=True, nullable=False),
        sa.Column("name", sa.String(80), nullable=False),
        sa.Column("target", sa.String(20), nullable=False),
        sa.Column("wanted", sa.String(10), nullable=False),
        sa.Column("status", sa.String(12), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("settings", JsonValue, nullable=False),
        sa.Column("sampling", JsonValue, nullable=False),
        sa.Column("system_prompt", sa.Text(), nullable=False),
        sa.Column("auto_rollback", sa.Boolean(), nullable=False),
        sa.Column("timeout_s", sa.Float(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("updated_at", UtcDateTime(), nullable=False),
        sa.Column("owner_id", BIG),
        sa.Column("owner", sa.String(64)),
        sa.Column("visibility", sa.String(10), nullable=False, server_default="private"),
        sa.UniqueConstraint("name", name="uq_deployments_name"),
        sqlite_autoincrement=True,
    )
    for column in ("target", "wanted", "owner_id"):
        op.create_index(f"ix_deployments_{column}", "deployments", [column])


def _revisions() -> None:
    """The models that it had, and what happened to it."""
    op.create_table(
        "deployment_revisions",
        sa.Column("id", BIG, primary_key=True, nullable=False),
        _of_deployment(),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("model", sa.String(500), nullable=False),
        sa.Column("version_id", BIG),
        sa.Column("model_ref", JsonValue, nullable=False),
        sa.Column("role", sa.String(10), nullable=False),
        sa.Column("percent", sa.Float(), nullable=False),
        sa.Column("plan", JsonValue, nullable=False),
        sa.Column("status", sa.String(10), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("result", JsonValue, nullable=False),
        sa.Column("baseline", JsonValue),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("began_at", UtcDateTime()),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("ready_at", UtcDateTime()),
        sa.Column("ended_at", UtcDateTime()),
        sa.UniqueConstraint("deployment_id", "number", name="uq_deployment_revisions_deployment_id_number"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_deployment_revisions_version_id", "deployment_revisions", ["version_id"])
    op.create_index("ix_deployment_revisions_role", "deployment_revisions", ["deployment_id", "role"])
    op.create_table(
        "deployment_history",
        sa.Column("id", BIG, primary_key=True, nullable=False),
        _of_deployment(),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("by", sa.String(64)),
        sa.Column("revision", sa.Integer()),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_deployment_history_deployment_id", "deployment_history", ["deployment_id"])


def _requests() -> None:
    """What it was asked."""
    op.create_table(
        "deployment_requests",
        sa.Column("id", BIG, primary_key=True, nullable=False),
        sa.Column("uid", sa.String(40), nullable=False),
        _of_deployment(),
        sa.Column("revision_id", BIG, nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.Column("path", sa.String(40), nullable=False),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("latency_s", sa.Float(), nullable=False),
        sa.Column("first_token_s", sa.Float()),
        sa.Column("prompt_tokens", sa.Integer()),
        sa.Column("completion_tokens", sa.Integer()),
        sa.Column("input_chars", sa.Integer(), nullable=False),
        sa.Column("unknown_words", sa.Float()),
        sa.Column("cached", sa.Boolean(), nullable=False),
        sa.Column("shadow", sa.Boolean(), nullable=False),
        sa.Column("caller", sa.String(64), nullable=False),
        sa.Column("rating", sa.String(4)),
        sa.Column("messages", JsonValue),
        sa.Column("answer", sa.Text()),
        sa.UniqueConstraint("uid", name="uq_deployment_requests_uid"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_deployment_requests_when", "deployment_requests", ["deployment_id", "at"])
    op.create_index("ix_deployment_requests_revision", "deployment_requests", ["revision_id", "at"])
