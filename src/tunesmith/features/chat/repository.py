"""Every query on ratings."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Select, and_, func, or_, select

from tunesmith.features.chat.tables import RatingRow
from tunesmith.storage.database import EVERYONES
from tunesmith.storage.repository import Repository, contains

EXPORT_ROWS = 500
"""Rows of one part of an export."""


class RatingRepository(Repository[RatingRow]):
    row = RatingRow
    noun = "rating"

    def filtered(self, *, model: str | None, verdict: str | None, text_like: str | None = None) -> Select[Any]:
        """A query for `page`."""
        query = self.query()
        if model:
            query = query.where(RatingRow.model == model)
        if verdict:
            query = query.where(RatingRow.verdict == verdict)
        if text_like:
            query = query.where(contains(text_like, RatingRow.answer, RatingRow.note))
        return query

    def after(self, query: Select[Any], row_id: int) -> list[RatingRow]:
        """The next part, oldest first."""
        return list(self.session.scalars(query.where(RatingRow.id > row_id).order_by(RatingRow.id).limit(EXPORT_ROWS)))

    def counts(self, model: str | None = None) -> list[tuple[str, str, int]]:
        """`(model, verdict, how many)`, by model."""
        query = select(RatingRow.model, RatingRow.verdict, func.count()).group_by(RatingRow.model, RatingRow.verdict)
        if model:
            query = query.where(RatingRow.model == model)
        return [
            (name, verdict, count) for name, verdict, count in self.session.execute(query.order_by(RatingRow.model))
        ]

    def counts_of_version(self, ref: str, job_id: int | None, made_at: datetime) -> dict[str, int]:
        """Everybody's verdicts on a version of the registry: under its own name since it was made (the number of a version
        that was deleted may be given again), and as the model of the job that made it."""
        of_it = and_(RatingRow.model == ref, RatingRow.created_at >= made_at)
        if job_id is not None:
            of_it = or_(of_it, RatingRow.model == f"job:{job_id}")
        query = select(RatingRow.verdict, func.count()).where(of_it).group_by(RatingRow.verdict)
        return {verdict: count for verdict, count in self.session.execute(query, execution_options=EVERYONES)}

    def remove(self, row: RatingRow) -> None:
        self.session.delete(row)
