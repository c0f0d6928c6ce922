"""`client.datasets`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tunesmith.core.errors import BadData, InvalidInput
from tunesmith.core.validation import message_of
from tunesmith.schemas.datasets import (
    BulkResult,
    DatasetPreview,
    DatasetRead,
    DatasetStatistics,
    DatasetStatus,
    DatasetTokens,
    RepairPreview,
    ValidationReport,
    VersionRead,
)
from tunesmith.schemas.read_options import ReadOptions, as_query
from tunesmith.sdk.connection import Connection, Progress, error_from, json_of, pages

LOOK_EVERY_S = 0.2
FETCH_TIMEOUT_S = 3660.0
"""A little more than the server gives itself to fetch a file."""


def _reading(options: dict[str, Any]) -> ReadOptions:
    """Raises `InvalidInput` for options that do not exist or have wrong values."""
    try:
        return ReadOptions(**options)
    except ValidationError as error:
        details = [{"loc": ".".join(map(str, p["loc"])), "message": message_of(p)} for p in error.errors()]
        said = "; ".join(f"{each['loc']} {each['message']}" for each in details)
        raise InvalidInput(f"The file cannot be read so: {said}.", details=details) from None


class Datasets:
    """`client.datasets`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def upload(
        self,
        path: str | Path,
        name: str | None = None,
        *,
        progress: Progress | None = None,
        wait: bool = True,
        **options: Any,
    ) -> DatasetRead:
        """Upload a file; with `wait` until it is read. `options` say how: the fields of `ReadOptions`, such as
        `sheet="FAQ", header_row=3`. Raises `BadData` when it cannot be read."""
        params = {"name": name, **as_query(_reading(options))}
        made = DatasetRead.model_validate(
            self._connection.upload("/datasets/upload", Path(path), progress, params=params)
        )
        return self.wait(made.id) if wait else made

    def from_url(
        self, url: str, name: str | None = None, *, description: str = "", wait: bool = True, **options: Any
    ) -> DatasetRead:
        """Let the server fetch a file from an address; with `wait` until it is read. `options` as of `upload`. Raises
        `InvalidInput` for an address that it may not fetch from, `BadData` when the file cannot be read."""
        body = {"url": url, "name": name, "description": description, **_reading(options).given()}
        answer = self._connection.request("POST", "/datasets/from-url", json=body, timeout=FETCH_TIMEOUT_S)
        made = DatasetRead.model_validate(json_of(answer))
        return self.wait(made.id) if wait else made

    def wait(self, dataset_id: int, *, progress: Callable[[float], None] | None = None) -> DatasetRead:
        """Wait until it is read; `progress` is told how far that is, 0 to 1. Raises `BadData` when it could not be."""
        while True:
            dataset = self.get(dataset_id)
            if progress:
                progress(dataset.progress)
            if dataset.status == DatasetStatus.FAILED:
                error = dataset.error or {}
                raise BadData(error.get("message"), hint=error.get("hint", ""), details=error.get("details", []))
            if dataset.status == DatasetStatus.READY:
                return dataset
            time.sleep(LOOK_EVERY_S)

    def list(self, **filters: Any) -> Iterator[DatasetRead]:
        """All datasets, newest first; `type`, `status`, `tag`, `q` filter, `sort` (created, name, rows, size) and `order` sort."""
        return (DatasetRead.model_validate(item) for item in pages(self._connection, "/datasets/", filters))

    def get(self, dataset_id: int) -> DatasetRead:
        return DatasetRead.model_validate(self._connection.get(f"/datasets/{dataset_id}"))

    def preview(self, dataset_id: int, *, offset: int = 0, limit: int = 20) -> DatasetPreview:
        return DatasetPreview.model_validate(
            self._connection.get(f"/datasets/{dataset_id}/preview", offset=offset, limit=limit)
        )

    def show_tokens(self, dataset_id: int, model: str, rows: Sequence[int] = (), **settings: Any) -> DatasetTokens:
        """The rows of these numbers, else the first three, as the model reads them, token by token. `settings` are
        `max_length`, `train_on`, `system_prompt`, `tool_calls` and `rewritten_turns`, as a job has them."""
        asked = {"model": model, "rows": [*rows], **settings}
        given = {name: value for name, value in asked.items() if value not in (None, [])}
        return DatasetTokens.model_validate(self._connection.get(f"/datasets/{dataset_id}/tokens", **given))

    def validation(self, dataset_id: int) -> ValidationReport:
        return ValidationReport.model_validate(self._connection.get(f"/datasets/{dataset_id}/validation"))

    def statistics(self, dataset_id: int) -> DatasetStatistics:
        return DatasetStatistics.model_validate(self._connection.get(f"/datasets/{dataset_id}/statistics"))

    def versions(self, dataset_id: int) -> Sequence[VersionRead]:
        return [VersionRead.model_validate(item) for item in self._connection.get(f"/datasets/{dataset_id}/versions")]

    def repair(self, dataset_id: int, **repairs: Any) -> DatasetRead:
        """Make a new version, e.g. `repair(1, drop_empty=True, strip=True)`; waits until it is ready."""
        return self._changed(dataset_id, "POST", f"/datasets/{dataset_id}/repair", repairs)

    def _changed(self, dataset_id: int, method: str, path: str, json: Any) -> DatasetRead:
        """A change, made once the processing that is under way is over, and waited for. Raises `BadData` when it cannot be."""
        while (before := self.get(dataset_id)).status == DatasetStatus.PROCESSING:
            time.sleep(LOOK_EVERY_S)
        answer = DatasetRead.model_validate(json_of(self._connection.request(method, path, json=json)))
        if answer.status != DatasetStatus.PROCESSING:
            return answer
        after = self.wait(dataset_id)
        if after.error and after.version == before.version:
            raise error_from(after.error, BadData.status)
        return after

    def preview_repair(self, dataset_id: int, **repairs: Any) -> RepairPreview:
        """What `repair` would change, with some rows before and after. Nothing is changed."""
        return RepairPreview.model_validate(self._connection.post(f"/datasets/{dataset_id}/repair/preview", repairs))

    def edit(self, dataset_id: int, cells: Sequence[dict[str, Any]] = (), drop_rows: Sequence[int] = ()) -> DatasetRead:
        """Make a new version, e.g. `edit(1, [{"row": 3, "column": "answer", "value": "42"}])`; waits until it is ready.

        Raises `BadData` when a value does not fit its column.
        """
        body = {"cells": list(cells), "drop_rows": list(drop_rows)}
        return self._changed(dataset_id, "POST", f"/datasets/{dataset_id}/edit", body)

    def restore(self, dataset_id: int, digest: str) -> DatasetRead:
        """Show an older version again; undoes a repair, an edit or a mapping."""
        return DatasetRead.model_validate(
            self._connection.post(f"/datasets/{dataset_id}/versions/{digest}/restore", {})
        )

    def bulk(self, action: str, ids: Sequence[int], tags: Sequence[str] = ()) -> Sequence[BulkResult]:
        """`delete`, `tag` or `untag` many; each has its own result."""
        answer = self._connection.post("/datasets/bulk", {"action": action, "ids": list(ids), "tags": list(tags)})
        return [BulkResult.model_validate(item) for item in answer["items"]]

    def update(self, dataset_id: int, **changes: Any) -> DatasetRead:
        """Change `name`, `description`, `tags`, or how it is read, e.g. `update(1, sheet="FAQ")`; waits until that is done.

        Raises `BadData` when it cannot be read so; then the version before stays."""
        return self._changed(dataset_id, "PATCH", f"/datasets/{dataset_id}", changes)

    def delete(self, dataset_id: int) -> None:
        self._connection.request("DELETE", f"/datasets/{dataset_id}")

    def download(
        self,
        dataset_id: int,
        path: str | Path,
        *,
        format: str = "original",  # noqa: A002
        progress: Progress | None = None,
    ) -> Path:
        """Save the original, or the newest version as `parquet`, `jsonl` or `csv`; the file appears whole or not at all."""
        return self._connection.download(f"/datasets/{dataset_id}/download", Path(path), progress, format=format)
