"""Every query on battles."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Select, func, or_, select

from tunesmith.features.evaluations.tables import BattleRow
from tunesmith.storage.repository import Repository


class BattleRepository(Repository[BattleRow]):
    row = BattleRow
    noun = "battle"

    def filtered(self, *, model: str | None = None, voted: bool | None = None) -> Select[Any]:
        """A query for `page`."""
        query = self.query()
        if model:
            query = query.where(or_(BattleRow.model_a == model, BattleRow.model_b == model))
        if voted is not None:
            query = query.where(BattleRow.vote.is_not(None) if voted else BattleRow.vote.is_(None))
        return query

    def results(self, limit: int) -> list[tuple[str, str, str]]:
        """`(model A, model B, vote)` of the newest battles that were decided, oldest first."""
        query = select(BattleRow.model_a, BattleRow.model_b, BattleRow.vote).where(BattleRow.vote.is_not(None))
        found = self.session.execute(query.order_by(BattleRow.id.desc()).limit(limit))
        return [(a, b, vote) for a, b, vote in found if vote is not None][::-1]

    def count_on(self, dataset_id: int) -> int:
        """Battles with rows of that dataset."""
        query = select(func.count()).select_from(BattleRow).where(BattleRow.dataset_id == dataset_id)
        return self.session.scalar(query) or 0
