"""Versions of models with their aliases, and what follows a job."""

revision = "0008_registry"
down_revision = "0007_accounts"


def upgrade() -> None:
    pass
