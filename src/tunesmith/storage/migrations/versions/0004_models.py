"""models: the collection, and what people think of answers."""

import sqlalchemy as sa
from alembic import op

from tunesmith.storage.tables import JsonValue, UtcDateTime

revision = "0004_models"
down_revision = "0003_dataset_lists"

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "collected_models",
        sa.Column("id", BIG, primary_key=True, nullable=False),
        sa.Column("name", sa.String(500), nullable=False, unique=True),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
    )
    op.create_table(
        "ratings",
        sa.Column("id", BIG, primary_key=True, nullable=False),
        sa.Column("model", sa.String(500), nullable=False),
        sa.Column("messages", JsonValue, nullable=False),
        sa.Column("answer", sa.Text(), nullable=False),
        sa.Column("verdict", sa.String(4), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("sampling", JsonValue, nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
    )
    op.create_index("ix_ratings_model", "ratings", ["model", "verdict"])
