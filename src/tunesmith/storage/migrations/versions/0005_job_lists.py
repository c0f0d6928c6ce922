"""Lists of jobs: how far each is, its loss in few points, and what they are sorted by."""

import json
import math
from typing import Any

import sqlalchemy as sa
from alembic import op

from tunesmith.storage.tables import JsonValue

revision = "0005_job_lists"
down_revision = "0004_models"

POINTS = 32
EVENTS = sa.text(
    "SELECT type, step, body FROM job_events WHERE job_id = :id AND type IN ('step', 'evaluation') ORDER BY seq"
)


def upgrade() -> None:
    for name in ("step", "total_steps"):
        op.add_column("jobs", sa.Column(name, sa.BigInteger(), nullable=False, server_default="0"))
    op.add_column("jobs", sa.Column("elapsed_s", sa.Float(), nullable=False, server_default="0"))
    for name in ("loss", "eval_loss", "best_eval_loss", "remaining_s"):
        op.add_column("jobs", sa.Column(name, sa.Float(), nullable=True))
    op.add_column("jobs", sa.Column("sparkline", JsonValue, nullable=False, server_default="{}"))
    fill()
    op.create_index("ix_jobs_by_name", "jobs", [sa.text("lower(name)"), "id"])
    op.create_index("ix_jobs_by_eval_loss", "jobs", [sa.text("coalesce(best_eval_loss, 1e300)"), "id"])
    op.create_index("ix_jobs_method", "jobs", ["method"])


def fill() -> None:
    """From the events that are there."""
    jobs = sa.table("jobs", sa.column("id"), *[sa.column(n) for n in COLUMNS], sa.column("sparkline", JsonValue))
    connection = op.get_bind()
    for job_id in connection.execute(sa.select(jobs.c.id)).scalars().all():
        found = [(kind, step, read(body)) for kind, step, body in connection.execute(EVENTS, {"id": job_id})]
        if values := summary(found):
            connection.execute(jobs.update().where(jobs.c.id == job_id).values(**values))


COLUMNS = ("step", "total_steps", "elapsed_s", "loss", "eval_loss", "best_eval_loss", "remaining_s")


def summary(events: list[tuple[str, int, dict[str, Any]]]) -> dict[str, Any]:
    steps = [(step, body) for kind, step, body in events if kind == "step"]
    scores = [loss for kind, _, body in events if kind == "evaluation" and (loss := number(body, "loss")) is not None]
    values: dict[str, Any] = {"eval_loss": scores[-1], "best_eval_loss": min(scores)} if scores else {}
    if steps:
        step, last = steps[-1]
        values |= {"step": step, "total_steps": last.get("total_steps") or 0, "loss": number(last, "loss")}
        values |= {"elapsed_s": number(last, "elapsed_s") or 0.0, "remaining_s": number(last, "remaining_s")}
        points = [(at, loss) for at, body in steps if (loss := number(body, "loss")) is not None]
        every = max(1, math.ceil(len(points) / POINTS))
        values["sparkline"] = {"every": every, "seen": len(points), "points": points[::every]}
    return values


def number(body: dict[str, Any], name: str) -> float | None:
    """A finite number, or None."""
    value = body.get(name)
    return float(value) if value is not None and math.isfinite(float(value)) else None


def read(body: Any) -> dict[str, Any]:
    """A JSON column as the driver gives it."""
    return dict(json.loads(body) if isinstance(body, str) else body)
