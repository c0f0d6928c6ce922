"""jobs."""

revision = "0002_jobs"
down_revision = "0001_datasets"


def upgrade() -> None:
    pass
