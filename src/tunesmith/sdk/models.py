"""`client.models`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

from tunesmith.schemas.jobs import (
    ChatAnswer,
)
from tunesmith.schemas.models import (
    CategoryList,
    CollectedRead,
    DownloadRead,
    ModelCheck,
    ModelDetail,
    ModelRead,
    ModelSearch,
    RatingRead,
    RecommendationList,
)
from tunesmith.sdk.connection import Connection, error_from, pages
from tunesmith.sdk.stream import Messages, ask

LOOK_EVERY_S = 0.2


class Models:
    """`client.models`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def list(self, **filters: Any) -> list[ModelRead]:
        """All at hand; filters: q, kind (base, tuned), method, base, licence, sort."""
        return [ModelRead.model_validate(item) for item in pages(self._connection, "/models/", filters)]

    def get(self, name: str) -> ModelDetail:
        """All that is known of a model: lineage, files, versions, check, card, commands. Raises `NotFound`."""
        return ModelDetail.model_validate(self._connection.get("/models/detail", name=name))

    def search(self, q: str = "", *, limit: int = 20, **filters: Any) -> ModelSearch:
        """Models here and on the hub; filters: category, provider, size, licence, sort, cursor."""
        return ModelSearch.model_validate(self._connection.get("/models/search", q=q, limit=limit, **filters))

    def categories(self) -> CategoryList:
        """What language models are for, with how many are here and on the hub."""
        return CategoryList.model_validate(self._connection.get("/models/categories"))

    def check(self, name: str) -> ModelCheck:
        """Whether a model can be used here: cached, reachable, gated, licence, and what fits. Raises `NotFound`."""
        return ModelCheck.model_validate(self._connection.get("/models/check", name=name))

    def recommend(self, use_case: str = "chat", **options: Any) -> RecommendationList:
        """Which model to take; options: commercial, limit."""
        return RecommendationList.model_validate(
            self._connection.get("/models/recommend", use_case=use_case, **options)
        )

    def collect(self, name: str, note: str = "") -> CollectedRead:
        """Put a model into the collection."""
        return CollectedRead.model_validate(self._connection.post("/models/collection", {"name": name, "note": note}))

    def collection(self) -> Iterator[CollectedRead]:
        """Models that somebody wants to find again, newest first."""
        return (CollectedRead.model_validate(item) for item in pages(self._connection, "/models/collection", {}))

    def download(
        self,
        name: str,
        *,
        revision: str | None = None,
        file: str | None = None,
        wait: bool = True,
        progress: Callable[[DownloadRead], None] | None = None,
    ) -> DownloadRead:
        """Let the server fetch a model; with `wait` until it is there. Raises the server's own reason when it cannot."""
        body = {"name": name, "revision": revision, "file": file}
        found = DownloadRead.model_validate(self._connection.post("/models/downloads", body))
        while wait and not found.ended_at:
            if progress:
                progress(found)
            time.sleep(LOOK_EVERY_S)
            found = DownloadRead.model_validate(self._connection.get(f"/models/downloads/{found.id}"))
        if found.error and wait:
            raise error_from(found.error)
        return found

    def downloads(self) -> Iterator[DownloadRead]:
        """Waiting, under way and over, newest first."""
        return (DownloadRead.model_validate(item) for item in pages(self._connection, "/models/downloads", {}))

    def cancel_download(self, download_id: int) -> DownloadRead:
        return DownloadRead.model_validate(self._connection.post(f"/models/downloads/{download_id}/cancel"))

    def ratings(self, **filters: Any) -> Iterator[RatingRead]:
        """What people think of answers, newest first; filters: model, verdict (up, down), q."""
        for item in pages(self._connection, "/ratings/", filters):
            yield RatingRead.model_validate(item)

    def chat(
        self, model: str, messages: Messages, *, stream: bool = False, **sampling: Any
    ) -> Iterator[str] | ChatAnswer:
        """Talk to a base model, or to `job:<id>`."""
        return ask(self._connection, "/models/chat", messages, {"model": model, **sampling}, stream=stream)
