"""datasets."""

revision = "0001_datasets"
down_revision = None


def upgrade() -> None:
    pass
