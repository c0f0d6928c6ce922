"""Tables of jobs with chosen columns, sorted and grouped by any metric or parameter, and saved views of them."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal
from urllib.parse import urlencode

from sqlalchemy import Select

from tunesmith.core.clock import utc_now
from tunesmith.core.errors import InvalidInput
from tunesmith.features.jobs import service
from tunesmith.features.jobs.repository import SORTS
from tunesmith.features.jobs.run_repository import RunRepository, ViewRepository
from tunesmith.features.jobs.tables import JobRow, JobViewRow
from tunesmith.features.jobs.values import Key, key_of, value_of
from tunesmith.schemas.common import Page
from tunesmith.schemas.jobs import JobRead
from tunesmith.schemas.runs import JobColumn, JobGroup, JobGroups, JobViewCreate, JobViewRead, RunTable
from tunesmith.storage.database import Session

KINDS: dict[str, Literal["metric", "parameter"]] = {"metric": "metric", "param": "parameter"}
WORDS = {
    "metric.loss": "Training loss, last", "metric.loss.best": "Training loss, best", "metric.eval_loss": "Held-out loss, last",
    "metric.eval_loss.best": "Held-out loss, best", "metric.eval_perplexity": "Held-out perplexity, last",
    "metric.eval_perplexity.best": "Held-out perplexity, best", "metric.step": "Steps", "metric.elapsed_s": "Training time",
    "param.lora_r": "LoRA rank (r)", "param.max_length": "Maximum sequence length",
}  # fmt: skip
NONE = "(none)"
"""As the value in `name=value`: jobs without a value of that name."""


def title_of(name: str) -> str:
    """What people call a value: `Learning rate` of `param.learning_rate`, `Eval f1, best` of `metric.eval_f1.best`."""
    if name in WORDS:
        return WORDS[name]
    kind, dot, plain = name.partition(".")
    plain = plain if dot else kind
    is_best = kind == "metric" and plain.endswith(".best")
    plain = plain.removesuffix(".best") if is_best else plain
    plain = plain.replace("_", " ").replace(".", ": ")
    return plain[:1].upper() + plain[1:] + (", best" if is_best else "")


def where_of(conditions: Sequence[str]) -> dict[str, list[Key]]:
    """`param.lora_r=8` → what `JobRepository.filtered` takes. Raises `InvalidInput`."""
    found: dict[str, list[Key]] = {}
    for condition in conditions:
        name, equals, text = condition.partition("=")
        if not equals or not name:
            raise InvalidInput(
                f"{condition[:100]!r} is not name=value.",
                hint="For example: param.lora_r=8",
                details=[{"loc": "where", "message": "must be name=value"}],
            )
        found[name] = [] if text == NONE else _read(text)
    return found


def _read(text: str) -> list[Key]:
    """As text and, where it reads like one, as a number: `2024` may be either."""
    values: list[Any] = [text]
    with contextlib.suppress(ValueError):
        values.append(float(text))
    return [key for value in values if (key := key_of(value))]


def columns_of(text: str) -> list[str]:
    """Names with commas between them, each once."""
    return list(dict.fromkeys(name for name in text.split(",") if name))


def columns(session: Session) -> list[JobColumn]:
    """Every value of the newest jobs."""
    return [
        JobColumn(name=name, kind=KINDS.get(name.partition(".")[0], "job"), title=title_of(name))
        for name in RunRepository(session).value_names()
    ]


def list_jobs(
    session: Session,
    *,
    sort: str = "created",
    descending: bool = True,
    columns: Sequence[str] = (),
    cursor: int | None = None,
    limit: int = 50,
    **filters: Any,
) -> Page[JobRead]:
    """Jobs in the order of any value, with the chosen `columns` in `values`. Raises `BadRequest`, and `InvalidInput` for a
    value that no job has."""
    jobs = RunRepository(session)
    query = jobs.filtered(**filters)
    rows, after = _sorted(jobs, query, sort, descending, cursor, limit)
    return Page(items=_read_all(jobs, rows, columns), next_cursor=after, total=jobs.count(query))


def _sorted(
    jobs: RunRepository, query: Select[Any], sort: str, descending: bool, cursor: int | None, limit: int
) -> tuple[list[JobRow], int | None]:
    if sort in SORTS:
        return jobs.page(query, cursor=cursor, limit=limit, by=SORTS[sort], descending=descending)
    _check(jobs, "sort", sort)
    return jobs.page_by(query, sort, descending=descending, cursor=cursor, limit=limit)


def groups(
    session: Session,
    by: str,
    *,
    sort: str = "created",
    descending: bool = True,
    columns: Sequence[str] = (),
    offset: int = 0,
    limit: int = 20,
    each: int = 10,
    where: Mapping[str, Sequence[Key]] | None = None,
    **filters: Any,
) -> JobGroups:
    """Jobs by one value: of each group how many there are and the first `each`. Raises `InvalidInput` for a value that no job
    has."""
    jobs = RunRepository(session)
    _check(jobs, "group", by)
    found = jobs.groups(jobs.filtered(where=where, **filters), by, offset=offset, limit=limit + 1)
    made = []
    for key, total in found[:limit]:
        query = jobs.filtered(where={**(where or {}), by: [key] if key else []}, **filters)
        rows, _ = _sorted(jobs, query, sort, descending, None, each)
        shown = _read_all(jobs, rows, columns)
        made.append(JobGroup(value=value_of(key) if key else None, total=total, jobs=shown))
    return JobGroups(groups=made, next_offset=offset + limit if len(found) > limit else None)


def _check(jobs: RunRepository, loc: str, name: str) -> None:
    if not jobs.has(name) and jobs.count(jobs.filtered()):
        raise InvalidInput(
            f"No job has the value {name}.",
            hint="See which there are with: tunesmith jobs columns",
            details=[{"loc": loc, "message": f"no job has {name}"}],
        )


def _read_all(jobs: RunRepository, rows: Sequence[JobRow], columns: Sequence[str]) -> list[JobRead]:
    found = jobs.chosen([row.id for row in rows], columns)
    read = [service.read(row) for row in rows]
    if columns:
        for job in read:
            job.values = {name: value_of(key) if (key := found[job.id].get(name)) else None for name in columns}
    return read


# -- saved views ----------------------------------------------------------------------------------------------------------


def views(session: Session) -> list[JobViewRead]:
    """Those of who asks, by name."""
    return [_view(row) for row in ViewRepository(session).own()]


def save_view(session: Session, body: JobViewCreate) -> JobViewRead:
    """Save a table under a name; one of that name is replaced."""
    kept = ViewRepository(session)
    view = body.view.model_dump(mode="json", exclude_defaults=True)
    if row := kept.named(body.name):
        row.view = view
        session.flush()
    else:
        row = kept.add(JobViewRow(name=body.name, view=view, created_at=utc_now()))
    return _view(row)


def delete_view(session: Session, view_id: int) -> None:
    """Raises `NotFound`."""
    ViewRepository(session).remove(view_id)


def _view(row: JobViewRow) -> JobViewRead:
    view = RunTable.model_validate(row.view)
    return JobViewRead(id=row.id, name=row.name, view=view, path=address(view))


def address(view: RunTable) -> str:
    """The page that shows a table."""
    told = view.model_dump(mode="json", exclude_defaults=True) | {"order": view.order}
    query: list[tuple[str, Any]] = [("view", "table")]
    if view.columns:
        query.append(("columns", ",".join(view.columns)))
    names = {"dataset_id": "dataset"}
    query += [(names.get(name, name), told[name]) for name in told if name not in ("columns", "where")]
    return f"/jobs?{urlencode(query + [('where', condition) for condition in view.where], safe=',')}"
