"""Lists of datasets by name, rows and size."""

import json

import sqlalchemy as sa
from alembic import op

revision = "0003_dataset_lists"
down_revision = "0002_jobs"


def upgrade() -> None:
    op.add_column("datasets", sa.Column("num_rows", sa.BigInteger(), nullable=False, server_default="0"))
    connection = op.get_bind()
    newest = sa.text(
        "SELECT d.id, v.about FROM datasets d JOIN dataset_versions v ON v.dataset_id = d.id AND v.digest = d.version"
    )
    for dataset_id, about in connection.execute(newest).all():
        told = json.loads(about) if isinstance(about, str) else about
        change = sa.text("UPDATE datasets SET num_rows = :num_rows WHERE id = :id")
        connection.execute(change, {"num_rows": told["num_rows"], "id": dataset_id})
    op.create_index("ix_datasets_by_name", "datasets", [sa.text("lower(name)"), "id"])
    op.create_index("ix_datasets_by_rows", "datasets", ["num_rows", "id"])
    op.create_index("ix_datasets_by_size", "datasets", ["size_bytes", "id"])
    op.create_index("ix_datasets_type", "datasets", ["type"])
