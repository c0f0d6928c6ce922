"""Deployments, their variants, history and use."""

revision = "0010_deployments"
down_revision = "0009_evaluations"


def upgrade() -> None:
    pass
