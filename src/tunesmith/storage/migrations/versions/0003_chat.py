"""chat."""

revision = "0003_chat"
down_revision = "0002_jobs"


def upgrade() -> None:
    pass
