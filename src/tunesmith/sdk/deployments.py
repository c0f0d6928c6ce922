"""`client.deployments`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tunesmith.core.errors import NotFound, Unavailable
from tunesmith.schemas.datasets import DatasetRead
from tunesmith.schemas.deployments import (
    DeploymentMetrics,
    DeploymentRead,
    HistoryRead,
    RequestRead,
    RevisionRead,
    TargetRead,
)
from tunesmith.schemas.predictions import PredictAnswer
from tunesmith.sdk import predictions
from tunesmith.sdk.connection import Connection, json_of, pages

LOOK_EVERY_S = 0.5
PATH = "/deployments"


class Deployments:
    """`client.deployments`. A deployment is named by its number or its name.

    >>> bot = client.deployments.create("support-bot", "support-bot@champion")
    >>> client.deployments.wait(bot.id).address
    >>> client.deployments.roll_out("support-bot", "support-bot@1.1.0", strategy="canary", steps=[5, 50])
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def list(self, q: str | None = None, *, target: str | None = None) -> Iterator[DeploymentRead]:
        """Newest first."""
        found = pages(self._connection, f"{PATH}/", {"q": q, "target": target})
        return (DeploymentRead.model_validate(item) for item in found)

    def targets(self) -> Sequence[TargetRead]:
        """Where models can be deployed to from this server."""
        return [TargetRead.model_validate(item) for item in self._connection.get(f"{PATH}/targets")]

    def create(self, name: str, model: str, *, target: str = "local", **settings: Any) -> DeploymentRead:
        """Deploy a model; returns at once, see `wait`. Keyword arguments are those of the API: `settings`, `system_prompt`,
        `sampling`, `auto_rollback`, `timeout_s`."""
        body = {"name": name, "model": model, "target": target, **settings}
        return DeploymentRead.model_validate(self._connection.post(f"{PATH}/", body))

    def get(self, deployment: int | str) -> DeploymentRead:
        """Raises `NotFound`."""
        return DeploymentRead.model_validate(self._connection.get(self._path(deployment)))

    def wait(
        self,
        deployment: int | str,
        *,
        timeout_s: float = 3600.0,
        progress: Callable[[DeploymentRead], None] | None = None,
    ) -> DeploymentRead:
        """Until what was rolled out last is live or has failed. Raises `Unavailable` when it has failed, or the time is over."""
        path, deadline_s = self._path(deployment), time.monotonic() + timeout_s
        while time.monotonic() < deadline_s:
            found = DeploymentRead.model_validate(self._connection.get(path))
            if progress:
                progress(found)
            under_way = any(r.role == "candidate" and r.status in ("pending", "starting") for r in found.revisions)
            if found.status == "failed":
                raise Unavailable(f"{found.name} could not be deployed.", hint=found.reason)
            if found.status != "deploying" and not under_way:
                return found
            time.sleep(LOOK_EVERY_S)
        raise Unavailable(f"It was not ready within {timeout_s:g} s.")

    def change(self, deployment: int | str, **changes: Any) -> DeploymentRead:
        """Settings key by key, `system_prompt`, `sampling`, `auto_rollback`, `visibility`."""
        answer = self._connection.request("PATCH", self._path(deployment), json=changes)
        return DeploymentRead.model_validate(json_of(answer))

    def roll_out(self, deployment: int | str, model: str, **plan: Any) -> RevisionRead:
        """Another model: `strategy` replace, canary, ab or shadow, with `steps`, `step_s`, `min_requests` and so on."""
        body = {"model": model, **plan}
        return RevisionRead.model_validate(self._connection.post(f"{self._path(deployment)}/rollouts", body))

    def promote(self, deployment: int | str) -> RevisionRead:
        """The candidate becomes live now."""
        return RevisionRead.model_validate(self._connection.post(f"{self._path(deployment)}/promote"))

    def roll_back(self, deployment: int | str) -> RevisionRead:
        """Take back the candidate, or go back to the model before."""
        return RevisionRead.model_validate(self._connection.post(f"{self._path(deployment)}/rollback"))

    def undeploy(self, deployment: int | str) -> DeploymentRead:
        """Take the model away; the record stays."""
        return DeploymentRead.model_validate(self._connection.post(f"{self._path(deployment)}/undeploy"))

    def start(self, deployment: int | str) -> DeploymentRead:
        """Deploy again."""
        return DeploymentRead.model_validate(self._connection.post(f"{self._path(deployment)}/start"))

    def delete(self, deployment: int | str) -> None:
        """Forget one that was undeployed."""
        self._connection.request("DELETE", self._path(deployment))

    def revisions(self, deployment: int | str) -> Sequence[RevisionRead]:
        """Every model that it had, newest first."""
        found = self._connection.get(f"{self._path(deployment)}/revisions")
        return [RevisionRead.model_validate(item) for item in found]

    def history(self, deployment: int | str) -> Iterator[HistoryRead]:
        """Newest first."""
        found = pages(self._connection, f"{self._path(deployment)}/history", {})
        return (HistoryRead.model_validate(item) for item in found)

    def metrics(self, deployment: int | str, *, window_s: float = 3600.0) -> DeploymentMetrics:
        """Of the last `window_s` seconds."""
        found = self._connection.get(f"{self._path(deployment)}/metrics", window_s=window_s)
        return DeploymentMetrics.model_validate(found)

    def requests(self, deployment: int | str, *, failed: bool | None = None) -> Iterator[RequestRead]:
        """What it was asked, newest first."""
        found = pages(self._connection, f"{self._path(deployment)}/requests", {"failed": failed})
        return (RequestRead.model_validate(item) for item in found)

    def rate(self, deployment: int | str, request_id: str, verdict: str | None) -> None:
        """`up`, `down`, or None to take it back; `request_id` is the answer's `X-Request-Id`."""
        path = f"{self._path(deployment)}/requests/{request_id}/rating"
        self._connection.request("PUT", path, json={"verdict": verdict})

    def to_dataset(self, deployment: int | str, name: str, *, rating: str = "up") -> DatasetRead:
        """Recorded conversations as a dataset."""
        body = {"name": name, "rating": rating}
        return DatasetRead.model_validate(self._connection.post(f"{self._path(deployment)}/dataset", body))

    def predict(self, deployment: int | str, inputs: Any, **parameters: Any) -> PredictAnswer:
        """Ask a model that does not chat: one input, or a list. Keyword arguments are the model's own, such as `top_k`."""
        return predictions.predict(self._connection, self._path(deployment), inputs, parameters)

    def predict_file(
        self, deployment: int | str, source: str | Path, target: str | Path, *, column: str | None = None
    ) -> Path:
        """The same about each row of a CSV file; the answers are written to `target`, beside the rows."""
        path = self._path(deployment)
        return predictions.predict_file(self._connection, path, Path(source), Path(target), column)

    def _path(self, deployment: int | str) -> str:
        if isinstance(deployment, str) and not deployment.isdigit():
            named = [found for found in self.list(deployment) if found.name == deployment]
            if not named:
                raise NotFound(f"There is no deployment {deployment!r}.", hint="tunesmith deployments list")
            deployment = named[0].id
        return f"{PATH}/{deployment}"
