"""The table of runs on the page of jobs: chosen columns, sorted and grouped by any metric or parameter."""

from __future__ import annotations

from typing import Any, Literal
from urllib.parse import urlencode

from tunesmith.features.jobs import run_table
from tunesmith.features.jobs.repository import SORTS
from tunesmith.features.jobs.run_repository import RunRepository
from tunesmith.features.jobs.run_table import NONE, title_of
from tunesmith.schemas.runs import JobColumn, natural_order
from tunesmith.storage.database import Session

PAGE = 100
GROUPS, EACH = 20, 10
"""Groups on a page, and jobs of each that are shown with it."""
USUAL = (
    "method",
    "model",
    "dataset",
    "metric.eval_loss.best",
    "metric.loss",
    "param.learning_rate",
    "metric.elapsed_s",
)
"""The columns of who has chosen none."""
KINDS = (("job", "Job"), ("metric", "Metrics"), ("parameter", "Parameters"))


Order = Literal["asc", "desc", ""]


def order_of(sort: str, order: str) -> tuple[str, bool]:
    """The value to sort by and whether the highest comes first."""
    if sort == "oldest":
        return "created", order == "desc"
    return sort, (order or natural_order(sort)) == "desc"


def known(session: Session, sort: str, order: Order, group: str) -> tuple[str, Order, str]:
    """The same, without a value that no job has, so that an address which names one still shows the page; and the order in
    time by its own name, as the form has it."""
    has = RunRepository(session).has
    if sort != "oldest" and sort not in SORTS and not has(sort):
        sort, order = "created", ""
    by, descending = order_of(sort, order)
    if by == "created":
        sort, order = "created" if descending else "oldest", ""
    return sort, order, group if group and has(group) else ""


def address(asked: dict[str, Any], path: str = "/jobs") -> str:
    """`path` with what is not empty of `asked`; the usual order is not named."""
    query = {name: value for name, value in asked.items() if value and (name, value) != ("sort", "created")}
    return f"{path}?{urlencode(query, doseq=True, safe=',')}" if query else path


def table(
    session: Session,
    asked: dict[str, Any],
    sort: str,
    descending: bool,
    cursor: int | None,
    offset: int,
    filters: dict[str, Any],
) -> dict[str, Any]:
    """What the template `jobs/runs.html` shows. Raises `BadRequest`, `InvalidInput`."""
    known = run_table.columns(session)
    names = {column.name for column in known}
    shown = run_table.columns_of(asked["columns"]) or [name for name in USUAL if name in names]
    drawn_by = (
        shown if sort in shown or sort in ("created", "name", "status", "eval_loss") else [*shown, sort]
    )  # its order can be seen
    order: dict[str, Any] = {"sort": sort, "descending": descending, "columns": drawn_by}
    drawn: dict[str, Any] = {"jobs": None, "groups": [], "next_url": ""}
    if asked["group"]:
        found = run_table.groups(session, asked["group"], offset=offset, limit=GROUPS, each=EACH, **order, **filters)
        drawn["groups"] = [
            {"value": group.value, "total": group.total, "jobs": group.jobs, "url": _only(asked, group.value)}
            for group in found.groups
        ]
        if found.next_offset is not None:
            drawn["next_url"] = address({**asked, "offset": found.next_offset})
    else:
        page = run_table.list_jobs(session, cursor=cursor, limit=PAGE, **order, **filters)
        drawn |= {"jobs": page, "next_url": address({**asked, "cursor": page.next_cursor}) if page.next_cursor else ""}
    return {
        **drawn,
        "heads": [_head(asked, name, sort, descending) for name in drawn_by],
        "name_head": _head(asked, "name", sort, descending),
        "created_head": _head(asked, "created", sort, descending),
        "choices": [(word, [one for one in known if one.kind == kind]) for kind, word in KINDS],
        "shown": shown,
        "group_title": title_of(asked["group"]) if asked["group"] else "",
        "descending": descending,
        "turned_url": address({**asked, "order": "asc" if descending else "desc"}),
        "wheres": [_where(asked, condition) for condition in asked["where"]],
        "views": run_table.views(session),
        "view_body": _view_body(asked, shown, sort, descending),
        "extra_sorts": [one for one in known if one.name != "status"] + _absent(names, sort, asked["group"]),
    }


def _absent(names: set[str], *wanted: str) -> list[JobColumn]:
    """Values of older jobs that the address names and the newest do not have."""
    absent = [name for name in dict.fromkeys(wanted) if "." in name and name not in names]
    return [JobColumn(name=name, kind="metric", title=title_of(name)) for name in absent]


def _head(asked: dict[str, Any], name: str, sort: str, descending: bool) -> dict[str, Any]:
    """A heading that sorts, and the other way round when it does already."""
    is_sorted = name == sort
    order = ("asc" if descending else "desc") if is_sorted else natural_order(name)
    return {
        "name": name, "title": "Created" if name == "created" else "Job" if name == "name" else title_of(name),
        "url": address({**asked, "sort": name, "order": order}),
        "sorted": ("descending" if descending else "ascending") if is_sorted else "",
    }  # fmt: skip


def _only(asked: dict[str, Any], value: Any) -> str:
    """The jobs of one group alone."""
    text = NONE if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    return address({**asked, "group": "", "where": [*asked["where"], f"{asked['group']}={text}"]})


def _where(asked: dict[str, Any], condition: str) -> tuple[str, str]:
    """What a condition says, and the address without it."""
    name, _, text = condition.partition("=")
    return f"{title_of(name)}: {text}", address({**asked, "where": [one for one in asked["where"] if one != condition]})


def _view_body(asked: dict[str, Any], shown: list[str], sort: str, descending: bool) -> dict[str, Any]:
    """The table as `POST /jobs/views` takes it."""
    told = {"columns": shown, "sort": sort, "order": "desc" if descending else "asc", "group": asked["group"] or None}
    told |= {"q": asked["q"], "status": asked["status"] or None, "method": asked["method"], "tag": asked["tag"]}
    return {**told, "dataset_id": asked["dataset"] or None, "where": asked["where"]}
