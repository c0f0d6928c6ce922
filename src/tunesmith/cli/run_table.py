"""`tunesmith jobs list`: jobs as a table, with chosen columns, sorted and grouped by any metric or parameter."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

from tunesmith.cli.output import Output, say, show, table
from tunesmith.core.errors import NotFound
from tunesmith.schemas.jobs import JobRead
from tunesmith.schemas.runs import natural_order
from tunesmith.sdk.client import Client

EACH = 10
"""Jobs of a group that are shown."""
MOST_EACH = 100
"""Most that the server gives of a group."""


def show_jobs(client: Client, view: str | None, given: dict[str, Any], limit: int | None) -> None:
    """Jobs as asked; what is `given` wins over the saved view. Raises `NotFound` for a view that is not there."""
    asked = {**(_view(client, view) if view else {}), **given}
    if "sort" in given:
        asked["order"] = given.get("order") or natural_order(given["sort"])
    columns = [name for name in (asked.get("columns") or "").split(",") if name]
    if "group" in asked:
        _show_groups(client, asked, columns, min(limit or EACH, MOST_EACH))
        return
    found = [job.info for job in islice(client.jobs.list(**asked), limit)]
    if not found and not Output.as_json:
        make = "No jobs yet. Make one with: tunesmith jobs create --model NAME --dataset ID"
        say("No such jobs." if asked else make)
        return
    show(found, _table(found, columns))


def _view(client: Client, name: str) -> dict[str, Any]:
    views = {one.name: one for one in client.jobs.views()}
    if name not in views:
        known = ", ".join(views) or "none yet"
        raise NotFound(f"There is no view {name!r}.", hint=f"Your saved views: {known}.")
    told = views[name].view.model_dump(mode="json", exclude_defaults=True)
    return {**told, "columns": ",".join(told["columns"])} if "columns" in told else told


def _show_groups(client: Client, asked: dict[str, Any], columns: list[str], each: int) -> None:
    by = asked.pop("group")
    found = list(client.jobs.groups(by, each=each, **asked))
    if not found and not Output.as_json:
        say("No such jobs.")
    show(found)
    for group in () if Output.as_json else found:
        value = "none" if group.value is None else str(group.value)
        say(f"{by} = {value}: {group.total} job{'' if group.total == 1 else 's'}", style="bold")
        show(None, _table(group.jobs, columns))


def _table(jobs: Sequence[JobRead], columns: list[str]) -> Any:
    if not columns:
        rows = [(j.id, j.name, j.method, j.status, j.phase or "", j.status_reason[:60]) for j in jobs]
        return table(("id", "name", "method", "status", "phase", "reason"), rows)
    chosen = [(j.id, j.name, j.status, *(_cell((j.values or {}).get(name)) for name in columns)) for j in jobs]
    return table(("id", "name", "status", *columns), chosen)


def _cell(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else value
