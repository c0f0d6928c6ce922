"""What the dashboard counts: jobs by day, and those that ended lately. What was a JSON null becomes NULL, as queries expect."""

from alembic import op

revision = "0006_activity"
down_revision = "0005_job_lists"


def upgrade() -> None:
    op.create_index("ix_jobs_made", "jobs", ["created_at", "status"])
    op.create_index("ix_jobs_ended", "jobs", ["status", "ended_at"])
    for table, column in (("jobs", "launch"), ("datasets", "task"), ("datasets", "error")):
        op.execute(f"UPDATE {table} SET {column} = NULL WHERE CAST({column} AS TEXT) = 'null'")
