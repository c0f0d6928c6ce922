"""Kinds of models have names of any length up to 40 characters: those of recipes that other packages bring too."""

import sqlalchemy as sa
from alembic import op

revision = "0012_kind_names"
down_revision = "0011_run_tables"


def upgrade() -> None:
    if op.get_bind().dialect.name != "sqlite":  # which looks at no length
        op.alter_column("model_versions", "kind", type_=sa.String(40), existing_nullable=False)
