"""Tables of runs: the values of jobs that they are sorted and grouped by, and saved views."""

import json
import math
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from alembic import op

from tunesmith.storage.tables import JsonValue, UtcDateTime

revision = "0011_run_tables"
down_revision = "0010_deployments"

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
TEXT = 1e300
PART = 200


def upgrade() -> None:
    op.add_column("jobs", sa.Column("scores", JsonValue, nullable=False, server_default="{}"))
    op.create_table(
        "job_values",
        sa.Column("job_id", BIG, sa.ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True, nullable=False),
        sa.Column("name", sa.String(200), primary_key=True, nullable=False),
        sa.Column("number", sa.Float(), nullable=False),
        sa.Column("text", sa.String(200), nullable=False),
    )
    op.create_index("ix_job_values_order", "job_values", ["name", "number", "text", "job_id"])
    op.create_table(
        "job_views",
        sa.Column("id", BIG, primary_key=True, nullable=False),
        sa.Column("name", sa.String(100), nullable=False),
        sa.Column("view", JsonValue, nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("owner_id", BIG),
        sa.Column("owner", sa.String(64)),
        sa.Column("visibility", sa.String(10), nullable=False, server_default="private"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_job_views_owner_id", "job_views", ["owner_id"])
    op.create_index("uq_job_views_name", "job_views", [sa.text("coalesce(owner_id, 0)"), "name"], unique=True)
    fill()


def fill() -> None:
    """From the jobs that are there: their settings, final numbers and held-out losses."""
    columns = ("id", "status", "method", "model", "owner", "loss", "eval_loss", "best_eval_loss", "step", "elapsed_s")
    told = ("hyperparameters", "metrics", "spec")
    jobs = sa.table("jobs", *[sa.column(name) for name in columns], *[sa.column(name, JsonValue) for name in told])
    values = sa.table("job_values", *[sa.column(name) for name in ("job_id", "name", "number", "text")])
    connection, last = op.get_bind(), 0
    while True:
        query = sa.select(jobs).where(jobs.c.id > last).order_by(jobs.c.id).limit(PART)
        found = connection.execute(query).mappings().all()
        if not found:
            return
        rows = [
            {"job_id": job["id"], "name": name[:200], "number": key[0], "text": key[1]}
            for job in found
            for name, key in values_of(dict(job)).items()
        ]
        if rows:
            connection.execute(sa.insert(values), rows)
        last = found[-1]["id"]


def values_of(job: dict[str, Any]) -> dict[str, tuple[float, str]]:
    """As `features/jobs/values.py` made them when this was written."""
    found: dict[str, Any] = {name: job[name] for name in ("status", "method", "model", "owner")}
    found["dataset"] = ((job["spec"] or {}).get("dataset") or {}).get("name")
    found |= {f"metric.{name}": value for name, value in (job["metrics"] or {}).items()}
    found["metric.eval_loss.best"] = job["best_eval_loss"]
    found |= {f"metric.{name}": job[name] for name in ("loss", "eval_loss") if job[name] is not None}
    found |= {f"metric.{name}": job[name] for name in ("step", "elapsed_s") if job[name]}
    found |= {f"param.{name}": value for name, value in flat(job["hyperparameters"] or {})}
    kept = {name.replace(",", "_")[:200]: key_of(value) for name, value in found.items()}
    return dict([(name, key) for name, key in kept.items() if key is not None][:500])


def flat(values: dict[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from flat(value, f"{before}{name}.")
        else:
            yield before + name, value


def key_of(value: Any) -> tuple[float, str] | None:
    if value is None:
        return None
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and abs(value) < TEXT:
        return float(value), ""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)
    return TEXT, text[:200]
