"""Battles of the arena."""

revision = "0009_evaluations"
down_revision = "0008_registry"


def upgrade() -> None:
    pass
