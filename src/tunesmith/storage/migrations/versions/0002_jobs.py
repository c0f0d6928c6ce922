"""jobs."""

from typing import Any

import sqlalchemy as sa
from alembic import op

from tunesmith.storage.tables import JsonValue, UtcDateTime

revision = "0002_jobs"
down_revision = "0001_datasets"

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def column(name: str, kind: Any, null: bool = False, **more: Any) -> sa.Column:
    return sa.Column(name, kind, nullable=null, **more)


def upgrade() -> None:
    create_jobs()
    create_what_belongs_to_jobs()


def create_jobs() -> None:
    op.create_table(
        "jobs",
        column("id", BIG, primary_key=True),
        column("name", sa.String(200)),
        column("method", sa.String(50)),
        column("model", sa.String(500), True),
        column("dataset_id", BIG, True),
        column("dataset_version", sa.String(64), True),
        column("eval_dataset_id", BIG, True),
        *[column(n, JsonValue) for n in ("hyperparameters", "reasons", "request", "spec", "resources", "tags")],
        column("output_name", sa.String(120), unique=True),
        column("batch_id", sa.String(36), True),
        column("status", sa.String(20)),
        column("status_reason", sa.Text()),
        column("phase", sa.String(20), True),
        column("failure_code", sa.String(40), True),
        column("hint", sa.Text()),
        column("details", JsonValue),
        column("metrics", JsonValue),
        column("priority", sa.Integer()),
        column("position", sa.Float()),
        column("not_before", UtcDateTime, True),
        column("off_peak", sa.Boolean()),
        column("after_job_id", BIG, True),
        column("after_failure", sa.Boolean()),
        column("timeout_s", sa.Float(), True),
        column("wants_stop", sa.Boolean()),
        column("wants_pause", sa.Boolean()),
        column("checkpoint_seq", sa.Integer()),
        column("learning_rate", sa.Float(), True),
        column("learning_rate_seq", sa.Integer()),
        column("attempt", sa.Integer()),
        column("launch", JsonValue, True),
        column("server_id", sa.String(80), True),
        column("lease_until", UtcDateTime, True),
        column("restarts", sa.Integer()),
        column("out_of_memory_kills", sa.Integer()),
        column("stopping_since", UtcDateTime, True),
        column("events_offset", sa.BigInteger()),
        column("last_seq", sa.Integer()),
        column("last_checkpoint_step", sa.BigInteger()),
        column("created_at", UtcDateTime),
        column("queued_at", UtcDateTime, True),
        column("started_at", UtcDateTime, True),
        column("ended_at", UtcDateTime, True),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_jobs_dataset_id", "jobs", ["dataset_id"])
    op.create_index("ix_jobs_batch_id", "jobs", ["batch_id"])
    op.create_index("ix_jobs_queue", "jobs", ["status", "priority", "position"])


def create_what_belongs_to_jobs() -> None:
    op.create_table(
        "job_events",
        column("job_id", BIG, primary_key=True),
        column("seq", sa.Integer(), primary_key=True, autoincrement=False),
        column("type", sa.String(20)),
        column("step", sa.BigInteger(), True),
        column("body", JsonValue),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], ondelete="CASCADE"),
    )
    op.create_index("ix_job_events_type", "job_events", ["job_id", "type", "seq"])
    op.create_table(
        "job_allocations",
        column("host", sa.String(80), primary_key=True),
        column("device", sa.Integer(), primary_key=True, autoincrement=False),
        column("job_id", BIG),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], ondelete="CASCADE"),
    )
    op.create_index("ix_job_allocations_job_id", "job_allocations", ["job_id"])
    op.create_table(
        "idempotency_keys",
        column("scope", sa.String(100), primary_key=True),
        column("key", sa.String(255), primary_key=True),
        column("fingerprint", sa.String(64)),
        column("status", sa.Integer()),
        column("body", sa.Text()),
        column("created_at", UtcDateTime),
    )
    op.create_index("ix_idempotency_keys_created_at", "idempotency_keys", ["created_at"])
