"""Queries of tables of jobs, and saved views. Each reads the index of `job_values` in order, or no more than a page of jobs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Select, and_, func, select, tuple_
from sqlalchemy.orm import aliased

from tunesmith.core.acting import current
from tunesmith.core.errors import BadRequest
from tunesmith.features.jobs.repository import JobRepository
from tunesmith.features.jobs.tables import JobRow, JobValueRow, JobViewRow
from tunesmith.features.jobs.values import Key
from tunesmith.storage.repository import Repository

NEWEST = 1000
"""Jobs whose values are offered as columns."""


class RunRepository(JobRepository):
    def page_by(
        self, query: Select[Any], name: str, *, descending: bool, cursor: int | None = None, limit: int
    ) -> tuple[list[JobRow], int | None]:
        """Jobs of `query` in the order of a value; those without it come last, newest first. The cursor is as in
        `Repository.page`."""
        value = aliased(JobValueRow)
        valued = query.join(value, and_(value.job_id == JobRow.id, value.name == name))
        without = query.where(~select(value).where(value.job_id == JobRow.id, value.name == name).exists())
        order = (value.number, value.text, value.job_id)
        rows: list[JobRow] = []
        place = self._place_by(name, cursor) if cursor is not None else None
        if cursor is None or place is not None:
            if place is not None:
                here = tuple_(*place)
                valued = valued.where(tuple_(*order) < here if descending else tuple_(*order) > here)
            valued = valued.order_by(*[part.desc() if descending else part.asc() for part in order])
            rows = list(self.session.scalars(valued.limit(limit + 1)))
        elif cursor is not None:
            without = without.where(JobRow.id < cursor)
        if len(rows) <= limit:
            rows += self.session.scalars(without.order_by(JobRow.id.desc()).limit(limit + 1 - len(rows)))
        more = len(rows) > limit
        return rows[:limit], rows[limit - 1].id if more else None

    def _place_by(self, name: str, cursor: int) -> tuple[float, str, int] | None:
        """Where a job stands in the order of a value; None where it has none. Raises `BadRequest`."""
        if self.session.scalar(select(JobRow.id).where(JobRow.id == cursor)) is None:
            raise BadRequest("The list has changed.", hint="Begin again at its first page, without a cursor.")
        found = self.session.get(JobValueRow, (cursor, name))
        return (found.number, found.text, cursor) if found else None

    def groups(self, query: Select[Any], name: str, *, offset: int, limit: int) -> list[tuple[Key | None, int]]:
        """The values of jobs of `query`, in order, with how many jobs have each; last, None for those without."""
        value, jobs = aliased(JobValueRow), query.with_only_columns(JobRow.id)
        of_jobs = jobs.join(value, and_(value.job_id == JobRow.id, value.name == name))
        counted = of_jobs.with_only_columns(value.number, value.text, func.count()).group_by(value.number, value.text)
        rows = self.session.execute(counted.order_by(value.number, value.text).offset(offset).limit(limit))
        found: list[tuple[Key | None, int]] = [((number, text), count) for number, text, count in rows]
        if len(found) < limit:
            rest = jobs.where(~select(value).where(value.job_id == JobRow.id, value.name == name).exists())
            if count := self.count(rest):
                found.append((None, count))
        return found

    def has(self, name: str) -> bool:
        """Whether any job has a value of that name."""
        query = select(JobRow.id).join(JobValueRow, JobValueRow.job_id == JobRow.id).where(JobValueRow.name == name)
        return self.session.scalar(query.limit(1)) is not None

    def value_names(self) -> list[str]:
        """The names of values of the newest jobs."""
        newest = select(JobRow.id).order_by(JobRow.id.desc()).limit(NEWEST)
        query = select(JobValueRow.name).where(JobValueRow.job_id.in_(newest)).distinct()
        return sorted(self.session.scalars(query))

    def chosen(self, ids: Sequence[int], names: Sequence[str]) -> dict[int, dict[str, Key]]:
        """Some values of some jobs."""
        found: dict[int, dict[str, Key]] = {job_id: {} for job_id in ids}
        query = select(JobValueRow).where(JobValueRow.job_id.in_(ids), JobValueRow.name.in_(names))
        for row in self.session.scalars(query) if ids and names else ():
            found[row.job_id][row.name] = (row.number, row.text)
        return found


class ViewRepository(Repository[JobViewRow]):
    row = JobViewRow
    noun = "view"

    def own(self) -> list[JobViewRow]:
        """Those of who asks, by name."""
        query = self.query().where(JobViewRow.owner_id == current().user_id) if current().user_id else self.query()
        return list(self.session.scalars(query.order_by(func.lower(JobViewRow.name))))

    def named(self, name: str) -> JobViewRow | None:
        owner = func.coalesce(JobViewRow.owner_id, 0) == (current().user_id or 0)
        return self.session.scalars(self.query().where(owner, JobViewRow.name == name)).one_or_none()

    def remove(self, view_id: int) -> None:
        self.session.delete(self.get(view_id, for_update=True))
        self.session.flush()
