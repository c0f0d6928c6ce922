"""Every query on the collection."""

from __future__ import annotations

from sqlalchemy import select

from tunesmith.features.catalog.tables import CollectedRow
from tunesmith.storage.repository import Repository


class CollectionRepository(Repository[CollectedRow]):
    row = CollectedRow
    noun = "model in the collection"

    def named(self, name: str) -> CollectedRow | None:
        return self.session.scalars(self.query().where(CollectedRow.name == name)).one_or_none()

    def ids_by_name(self) -> dict[str, int]:
        return {name: row_id for name, row_id in self.session.execute(select(CollectedRow.name, CollectedRow.id))}

    def remove(self, row: CollectedRow) -> None:
        self.session.delete(row)
