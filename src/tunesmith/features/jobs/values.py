"""The values of a job that tables of jobs show, sort by and group by: one row each in `job_values`, written with the job.

Names are `status`, `method`, `model`, `dataset`, `owner`; `metric.<name>` (the last value), `metric.<name>.best` (where high or
low is better) and `param.<name>`, with dots for parameters within parameters.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

from sqlalchemy import Connection, delete, event, insert, inspect
from sqlalchemy.orm import Mapper

from tunesmith.features.jobs.tables import JobRow, JobValueRow

TEXT = 1e300
"""The number of a value that is text: it stands after all numbers."""
MAX_CHARS = 200
MAX_VALUES = 500
"""Of one job; a custom script may report thousands."""
PLAIN = ("status", "method", "model", "owner")
SOURCES = (
    *PLAIN,
    "spec",
    "hyperparameters",
    "metrics",
    "scores",
    "loss",
    "eval_loss",
    "best_eval_loss",
    "step",
    "elapsed_s",
)
"""The columns of a job that values are made of."""
Key = tuple[float, str]
"""The number and the text of a value, as they are compared."""


def key_of(value: Any) -> Key | None:
    """How a value is kept; None for what is absent."""
    if value is None:
        return None
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and abs(value) < TEXT:
        return float(value), ""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)
    return TEXT, text.replace("\0", "\N{REPLACEMENT CHARACTER}")[:MAX_CHARS]


def value_of(key: Key) -> Any:
    """What `key_of` kept: whole numbers as such, text, true and false."""
    number, text = key
    if number != TEXT:
        return int(number) if number.is_integer() and abs(number) < 2**53 else number
    return {"true": True, "false": False}.get(text, text)


def values_of(job: dict[str, Any]) -> dict[str, Key]:
    """Every value of a job, whose columns `SOURCES` are given, by name."""
    found: dict[str, Any] = {name: job[name] for name in PLAIN}
    found["dataset"] = ((job["spec"] or {}).get("dataset") or {}).get("name")
    found |= {f"param.{name}": value for name, value in _flat(job["hyperparameters"] or {})}
    found |= {f"metric.{name}": job[name] for name in ("loss", "eval_loss")}
    found |= {f"metric.{name}": job[name] or None for name in ("step", "elapsed_s")}
    scores = job["scores"] or {}
    found |= {f"metric.{name}.best": best for name, (_, best) in scores.items()}
    if job["best_eval_loss"] is not None:
        found["metric.eval_loss.best"] = job["best_eval_loss"]
    last = {**(job["metrics"] or {}), **{name: value for name, (value, _) in scores.items()}}
    found |= {f"metric.{name}": value for name, value in last.items() if found.get(f"metric.{name}") is None}
    kept = ((_name(name), key_of(value)) for name, value in found.items())
    return dict([(name, key) for name, key in kept if key is not None][:MAX_VALUES])


def _flat(values: dict[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{before}{name}.")
        else:
            yield before + name, value


def _name(name: str) -> str:
    """Names stand in addresses, with commas between them."""
    return name.replace(",", "_").replace("\0", "_")[:MAX_CHARS]


def _write(connection: Connection, job_id: int, old: dict[str, Key], new: dict[str, Key]) -> None:
    changed = [name for name in old | new if old.get(name) != new.get(name)]
    if changed and old:
        connection.execute(delete(JobValueRow).where(JobValueRow.job_id == job_id, JobValueRow.name.in_(changed)))
    rows = [
        {"job_id": job_id, "name": name, "number": key[0], "text": key[1]}
        for name, key in new.items()
        if old.get(name) != key
    ]
    if rows:
        connection.execute(insert(JobValueRow), rows)


@event.listens_for(JobRow, "after_insert")
def _made(_mapper: Mapper[JobRow], connection: Connection, row: JobRow) -> None:
    _write(connection, row.id, {}, values_of({name: getattr(row, name) for name in SOURCES}))


@event.listens_for(JobRow, "after_update")
def _changed(_mapper: Mapper[JobRow], connection: Connection, row: JobRow) -> None:
    state = inspect(row)
    now = {name: getattr(row, name) for name in SOURCES}
    changed = {name: state.attrs[name].history for name in SOURCES if state.attrs[name].history.has_changes()}
    if not changed:
        return
    if all(history.deleted for history in changed.values()):
        old = values_of(now | {name: next(iter(history.deleted)) for name, history in changed.items()})
    else:  # the value before was never read
        connection.execute(delete(JobValueRow).where(JobValueRow.job_id == row.id))
        old = {}
    _write(connection, row.id, old, values_of(now))
