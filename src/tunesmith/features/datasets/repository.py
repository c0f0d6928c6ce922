"""Every query on datasets."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, Text, column, delete, func, or_, select, update

from tunesmith.core.errors import NotFound
from tunesmith.features.datasets.tables import DatasetRow, DatasetVersionRow, UploadRow
from tunesmith.storage.database import EVERYONES
from tunesmith.storage.repository import Repository, contains, like_text

SORTS: dict[str, ColumnElement[Any] | None] = {
    "created": None,
    "name": func.lower(DatasetRow.name),
    "rows": DatasetRow.num_rows.expression,
    "size": DatasetRow.size_bytes.expression,
}
"""What a list can be sorted by; each has an index."""
MAX_TAGS = 500


class DatasetRepository(Repository[DatasetRow]):
    row = DatasetRow
    noun = "dataset"

    def filtered(self, *, kind: str | None, status: str | None, tag: str | None, text: str | None) -> Select[Any]:
        """A query for `page`."""
        query = self.query()
        if kind:
            query = query.where(DatasetRow.type == kind)
        if status:
            query = query.where(DatasetRow.status == status)
        if tag:
            query = query.where(self.has_tag(DatasetRow.tags, tag))
        if text:
            query = query.where(contains(text, DatasetRow.name, DatasetRow.description, DatasetRow.file_name))
        return query

    def count(self, query: Select[Any]) -> int:
        return int(self.session.scalar(select(func.count()).select_from(query.subquery())) or 0)

    def tags(self) -> list[tuple[str, int]]:
        """Tags in use, each with its number of datasets, the most used first."""
        postgres = self.session.get_bind().dialect.name == "postgresql"
        each = func.jsonb_array_elements_text if postgres else func.json_each
        tag: ColumnElement[str] = (
            each(DatasetRow.tags).table_valued(column("value", Text), name="tag", joins_implicitly=True).c.value
        )
        query = select(tag, func.count()).select_from(DatasetRow).group_by(tag).order_by(func.count().desc(), tag)
        return [(name, count) for name, count in self.session.execute(query.limit(MAX_TAGS))]

    def names_like(self, base: str) -> set[str]:
        """Names in use that begin like `base`, whoever uses them: a name exists once."""
        query = select(DatasetRow.name).where(DatasetRow.name.like(f"{like_text(base)}%", escape="\\"))
        return set(self.session.scalars(query, execution_options=EVERYONES))

    def version(self, dataset_id: int, digest: str) -> DatasetVersionRow:
        """Raises `NotFound`."""
        query = select(DatasetVersionRow).where(
            DatasetVersionRow.dataset_id == dataset_id, DatasetVersionRow.digest == digest
        )
        found = self.session.scalar(query)
        if found is None:
            raise NotFound(
                f"Dataset {dataset_id} has no version {digest[:12]}.", hint="List its versions to see which exist."
            )
        return found

    def versions(self, dataset_id: int) -> list[DatasetVersionRow]:
        """Newest first."""
        query = select(DatasetVersionRow).where(DatasetVersionRow.dataset_id == dataset_id)
        return list(self.session.scalars(query.order_by(DatasetVersionRow.number.desc())))

    def newest_versions(self, rows: Sequence[DatasetRow]) -> dict[int, DatasetVersionRow]:
        """Dataset → the version that it shows, in one query."""
        digests = [row.version for row in rows if row.version]
        ids = [row.id for row in rows]
        query = select(DatasetVersionRow).where(
            DatasetVersionRow.dataset_id.in_(ids), DatasetVersionRow.digest.in_(digests)
        )
        wanted = {(row.id, row.version) for row in rows}
        return {v.dataset_id: v for v in self.session.scalars(query) if (v.dataset_id, v.digest) in wanted}

    def claim(self, worker_id: str, now: datetime, stale: datetime) -> DatasetRow | None:
        """One dataset whose processing nobody does, now this worker's; None when there is none."""
        free = or_(DatasetRow.worker_id.is_(None), DatasetRow.worker_seen_at < stale)
        query = select(DatasetRow).where(DatasetRow.task.is_not(None), DatasetRow.status == "processing", free)
        row = self.session.scalar(query.order_by(DatasetRow.id).limit(1).with_for_update(skip_locked=True))
        if row is not None:
            row.worker_id, row.worker_seen_at = worker_id, now
        return row

    def beat(self, dataset_id: int, worker_id: str, now: datetime, progress: float) -> bool:
        """Note that the worker is at it; False when the dataset is gone or another worker's."""
        result = self.session.execute(
            update(DatasetRow)
            .where(DatasetRow.id == dataset_id, DatasetRow.worker_id == worker_id)
            .values(worker_seen_at=now, progress=progress)
        )
        return bool(result.rowcount)  # type: ignore[attr-defined]

    def release_claims(self, worker_prefix: str) -> None:
        """At start: what an earlier process of this server had begun is free again."""
        mine = DatasetRow.worker_id.like(f"{like_text(worker_prefix)}%", escape="\\")
        self.session.execute(update(DatasetRow).where(mine).values(worker_id=None))

    def has_work(self) -> bool:
        return self.session.scalar(select(DatasetRow.id).where(DatasetRow.task.is_not(None)).limit(1)) is not None

    def find(self, dataset_id: int) -> DatasetRow | None:
        """The row, locked, or None."""
        return self.session.get(DatasetRow, dataset_id, with_for_update=True)

    def ids(self) -> set[int]:
        return set(self.session.scalars(select(DatasetRow.id)))

    # -- resumable uploads ------------------------------------------------------------------------------------------

    def upload(self, upload_id: str) -> UploadRow:
        found = self.session.get(UploadRow, upload_id)
        if found is None:
            raise no_upload()
        return found

    def uploads_before(self, instant: datetime) -> list[UploadRow]:
        return list(self.session.scalars(select(UploadRow).where(UploadRow.created_at < instant)))

    def upload_ids(self) -> set[str]:
        return set(self.session.scalars(select(UploadRow.id)))

    def forget_upload(self, upload_id: str) -> None:
        self.session.execute(delete(UploadRow).where(UploadRow.id == upload_id))


def no_upload() -> NotFound:
    """The same whether there never was one, it has gone, or it is somebody else's."""
    return NotFound("There is no such upload.", hint="It may have been committed or have expired; begin a new one.")
