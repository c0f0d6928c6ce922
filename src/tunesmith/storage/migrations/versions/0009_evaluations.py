"""Battles of the arena."""

import sqlalchemy as sa
from alembic import op

from tunesmith.storage.tables import JsonValue, UtcDateTime

revision = "0009_evaluations"
down_revision = "0008_registry"

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "battles",
        sa.Column("id", BIG, primary_key=True, nullable=False),
        sa.Column("model_a", sa.String(500), nullable=False),
        sa.Column("model_b", sa.String(500), nullable=False),
        sa.Column("prompt", sa.Text(), nullable=False),
        sa.Column("messages", JsonValue, nullable=False),
        sa.Column("dataset_id", BIG),
        sa.Column("row_number", sa.BigInteger()),
        sa.Column("sampling", JsonValue, nullable=False),
        sa.Column("answer_a", sa.Text()),
        sa.Column("answer_b", sa.Text()),
        sa.Column("vote", sa.String(10)),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("voted_at", UtcDateTime()),
        sa.Column("owner_id", BIG),
        sa.Column("owner", sa.String(64)),
        sa.Column("visibility", sa.String(10), nullable=False, server_default="private"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_battles_owner_id", "battles", ["owner_id"])
    op.create_index("ix_battles_vote", "battles", ["vote", "id"])
