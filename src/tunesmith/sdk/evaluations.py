"""`client.evaluations`, and `client.evaluations.arena`."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

from tunesmith.core.job_status import JobStatus
from tunesmith.schemas.evaluations import (
    ArenaRating,
    BattleRead,
    EvaluationComparison,
    EvaluationDetail,
    EvaluationRead,
    SampleRead,
)
from tunesmith.sdk.connection import Connection, pages
from tunesmith.sdk.stream import chat

LOOK_EVERY_S = 1.0


class Evaluations:
    """`client.evaluations`."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.arena = Arena(connection)

    def create(self, model: str, **fields: Any) -> EvaluationRead:
        """Measure a model: `dataset_id`, `held_out_of`, `metrics`, `benchmarks`, `settings`, … Sent again safely."""
        return EvaluationRead.model_validate(self.connection.post_once("/evaluations/", {"model": model, **fields}))

    def list(self, **filters: Any) -> Iterator[EvaluationRead]:
        """Newest first; `model`, `dataset_id`, `q` filter."""
        return (EvaluationRead.model_validate(item) for item in pages(self.connection, "/evaluations/", filters))

    def get(self, evaluation_id: int) -> EvaluationDetail:
        return EvaluationDetail.model_validate(self.connection.get(f"/evaluations/{evaluation_id}"))

    def wait(self, evaluation_id: int) -> EvaluationDetail:
        """Until it has ended, however it ends."""
        while True:
            found = self.get(evaluation_id)
            if JobStatus(found.status).is_final or found.status == JobStatus.PAUSED:
                return found
            time.sleep(LOOK_EVERY_S)

    def samples(self, evaluation_id: int, **filters: Any) -> Iterator[SampleRead]:
        """What the model answered; `only` is `right` or `wrong`, `q` a part of the text."""
        for item in pages(self.connection, f"/evaluations/{evaluation_id}/samples", filters):
            yield SampleRead.model_validate(item)

    def compare(self, evaluations: Sequence[int]) -> EvaluationComparison:
        """Each with the first."""
        answer = self.connection.post("/evaluations/compare", {"evaluations": [*evaluations]})
        return EvaluationComparison.model_validate(answer)


class Arena:
    """`client.evaluations.arena`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def begin(self, models: Sequence[str], prompt: str | None = None, **fields: Any) -> BattleRead:
        """A question to two of the models: `prompt`, or the next one of `dataset_id`."""
        body = {"models": [*models], "prompt": prompt, **fields}
        return BattleRead.model_validate(self._connection.post("/evaluations/arena/battles", body))

    def answer(self, battle_id: int, side: str) -> Iterator[str]:
        """What side `a` or `b` says, in pieces as they come."""
        return chat(self._connection, f"/evaluations/arena/battles/{battle_id}/answers/{side}", {})

    def vote(self, battle_id: int, vote: str) -> BattleRead:
        """`a`, `b`, `tie` or `both_bad`; the answer tells who was who."""
        return BattleRead.model_validate(
            self._connection.post(f"/evaluations/arena/battles/{battle_id}/vote", {"vote": vote})
        )

    def battles(self, **filters: Any) -> Iterator[BattleRead]:
        """Newest first; `model` and `voted` filter."""
        return (
            BattleRead.model_validate(item) for item in pages(self._connection, "/evaluations/arena/battles", filters)
        )

    def ratings(self) -> Sequence[ArenaRating]:
        """The strongest first."""
        return [ArenaRating.model_validate(item) for item in self._connection.get("/evaluations/arena/ratings")]
