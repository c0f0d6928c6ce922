"""Versions of models with their aliases, and what follows a job."""

import sqlalchemy as sa
from alembic import op

from tunesmith.storage.tables import JsonValue, UtcDateTime

revision = "0008_registry"
down_revision = "0007_accounts"

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    _versions()
    _aliases()
    _use()


def _versions() -> None:
    """Registered models and their versions."""
    op.create_table(
        "registered_models",
        sa.Column("id", BIG, primary_key=True, nullable=False),
        sa.Column("name", sa.String(120), nullable=False, unique=True),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        *_owned(),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "model_versions",
        sa.Column("id", BIG, primary_key=True, nullable=False),
        sa.Column("name", sa.String(120), nullable=False),
        sa.Column("version", sa.String(40), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.String(10), nullable=False),
        sa.Column("framework", sa.String(60), nullable=False),
        sa.Column("job_id", BIG),
        sa.Column("base_model", sa.String(500)),
        sa.Column("lineage", JsonValue, nullable=False),
        sa.Column("architecture", JsonValue, nullable=False),
        sa.Column("hyperparameters", JsonValue, nullable=False),
        sa.Column("num_parameters", sa.BigInteger()),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("files", JsonValue, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("metrics", JsonValue, nullable=False),
        sa.Column("scores", JsonValue, nullable=False),
        sa.Column("stage", sa.String(12), nullable=False),
        sa.Column("tags", JsonValue, nullable=False),
        sa.Column("notes", sa.Text(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        *_owned(),
        sa.UniqueConstraint("name", "version", name="uq_model_versions_name_version"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_model_versions_order", "model_versions", ["name", "number", "id"])
    op.create_index("ix_model_versions_job_id", "model_versions", ["job_id"])


def _aliases() -> None:
    """What stands for a version, and what happened."""
    op.create_table(
        "model_aliases",
        sa.Column("name", sa.String(120), primary_key=True),
        sa.Column("alias", sa.String(60), primary_key=True),
        sa.Column("version_id", BIG, sa.ForeignKey("model_versions.id"), nullable=False),
        sa.Column("before", JsonValue, nullable=False),
        sa.Column("moved_at", UtcDateTime(), nullable=False),
    )
    op.create_index("ix_model_aliases_version_id", "model_aliases", ["version_id"])
    op.create_table(
        "registry_events",
        sa.Column("id", BIG, primary_key=True, nullable=False),
        sa.Column("name", sa.String(120), nullable=False),
        sa.Column("version", sa.String(40)),
        sa.Column("event", sa.String(20), nullable=False),
        sa.Column("details", JsonValue, nullable=False),
        sa.Column("by", sa.String(64), nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_registry_events_name", "registry_events", ["name", "id"])


def _use() -> None:
    """How much each is used; whose they are; which jobs have been dealt with."""
    op.create_table(
        "model_usage",
        sa.Column(
            "version_id", BIG, sa.ForeignKey("model_versions.id", ondelete="CASCADE"), primary_key=True, nullable=False
        ),
        sa.Column("hour", UtcDateTime(), primary_key=True, nullable=False),
        sa.Column("requests", sa.BigInteger(), nullable=False),
        sa.Column("errors", sa.BigInteger(), nullable=False),
        sa.Column("tokens", sa.BigInteger(), nullable=False),
        sa.Column("latency_sum_s", sa.Float(), nullable=False),
    )
    for table in ("registered_models", "model_versions"):
        op.create_index(f"ix_{table}_owner_id", table, ["owner_id"])
    op.add_column("jobs", sa.Column("registered_at", UtcDateTime()))
    op.create_index("ix_jobs_registered", "jobs", ["status", "registered_at"])


def _owned() -> list[sa.Column]:
    return [
        sa.Column("owner_id", BIG),
        sa.Column("owner", sa.String(64)),
        sa.Column("visibility", sa.String(10), nullable=False, server_default="private"),
    ]
