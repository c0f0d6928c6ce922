"""The Python SDK: `from tunesmith import Client`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, overload

from pydantic import ValidationError

from tunesmith.core.errors import BadData, InvalidInput, JobFailure
from tunesmith.core.errors import FailureCode as Code
from tunesmith.core.job_status import JobStatus
from tunesmith.core.log_lines import LogFilter
from tunesmith.core.validation import message_of
from tunesmith.schemas.before_after import BeforeAfter
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
from tunesmith.schemas.jobs import (
    ChatAnswer,
    JobComparison,
    JobEvent,
    JobMetrics,
    JobProgress,
    JobRead,
    LogMatch,
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
from tunesmith.schemas.read_options import ReadOptions, as_query
from tunesmith.schemas.runs import JobColumn, JobGroup, JobViewRead
from tunesmith.sdk.accounts import Account, Audit, Users
from tunesmith.sdk.connection import Connection, Progress, error_from, json_of, pages
from tunesmith.sdk.deployments import Deployments
from tunesmith.sdk.evaluations import Evaluations
from tunesmith.sdk.registry import Registry
from tunesmith.sdk.stream import chat, follow
from tunesmith.sdk.system import System

LOOK_EVERY_S = 0.2
FETCH_TIMEOUT_S = 3660.0
"""A little more than the server gives itself to fetch a file."""
Messages = Sequence[dict[str, str]] | str


class Client:
    """A Tunesmith server. `url` is `TUNESMITH_URL`, else this machine's; `token` is an API key, else `TUNESMITH_API_KEY`,
    else what `tunesmith login` has stored for that server.

    >>> client = Client()
    >>> dataset = client.datasets.upload("support.jsonl")
    >>> job = client.jobs.create(model="HuggingFaceTB/SmolLM2-135M-Instruct", dataset_id=dataset.id)
    >>> for event in job.follow(): print(event)
    >>> job.download("support-bot.tar.gz")
    """

    def __init__(self, url: str | None = None, token: str | None = None, *, timeout_s: float = 60.0) -> None:
        self.connection = Connection(url, token, timeout_s=timeout_s)
        self.datasets = Datasets(self.connection)
        self.jobs = Jobs(self.connection)
        self.models = Models(self.connection)
        self.registry = Registry(self.connection)
        self.evaluations = Evaluations(self.connection)
        self.deployments = Deployments(self.connection)
        self.system = System(self.connection)
        self.account = Account(self.connection)
        self.users = Users(self.connection)
        self.audit = Audit(self.connection)

    def close(self) -> None:
        self.connection.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


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


class Jobs:
    """`client.jobs`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def create(self, **fields: Any) -> Job:
        """Make a job; fields as of `POST /jobs/`. Sent again safely when the connection breaks."""
        return self._job(self._connection.post_once("/jobs/", fields))

    def batch(self, jobs: Sequence[dict[str, Any]]) -> Sequence[Job]:
        """Make many jobs, all or none."""
        answer = self._connection.post_once("/jobs/batch", {"jobs": list(jobs)})
        return [self._job(item) for item in answer["jobs"]]

    def plan(self, **fields: Any) -> dict[str, Any]:
        """What a job would be, without making it."""
        return dict(self._connection.post("/jobs/plan", fields))

    def list(self, **filters: Any) -> Iterator[Job]:
        """All jobs, newest first; `status`, `method`, `tag`, `q`, `where` filter, `sort` and `order` sort by any metric or
        parameter, and `columns` (names with commas between them) are in each job's `info.values`."""
        return (self._job(item) for item in pages(self._connection, "/jobs/", filters))

    def groups(self, group: str, **filters: Any) -> Iterator[JobGroup]:
        """Jobs by one value, such as `param.lora_r`: each group with its first jobs; filters as of `list`, and `each`."""
        offset: int | None = 0
        while offset is not None:
            answer = self._connection.get("/jobs/groups", group=group, **filters, offset=offset)
            yield from (JobGroup.model_validate(item) for item in answer["groups"])
            offset = answer["next_offset"]

    def columns(self) -> Sequence[JobColumn]:
        """The values by which jobs can be sorted, grouped and shown."""
        return tuple(JobColumn.model_validate(item) for item in self._connection.get("/jobs/columns"))

    def views(self) -> Sequence[JobViewRead]:
        """Your saved tables of jobs."""
        return tuple(JobViewRead.model_validate(item) for item in self._connection.get("/jobs/views"))

    def save_view(self, name: str, **view: Any) -> JobViewRead:
        """Save a table of jobs: `columns`, `sort`, `order`, `group` and filters. One of that name is replaced."""
        return JobViewRead.model_validate(self._connection.post("/jobs/views", {"name": name, "view": view}))

    def delete_view(self, view_id: int) -> None:
        self._connection.request("DELETE", f"/jobs/views/{view_id}")

    def get(self, job_id: int) -> Job:
        return self._job(self._connection.get(f"/jobs/{job_id}"))

    def queue(self) -> Sequence[dict[str, Any]]:
        return tuple(self._connection.get("/jobs/queue"))

    def compare(self, ids: Sequence[int]) -> JobComparison:
        """Up to eight jobs side by side: settings, scores, curves, samples."""
        joined = ",".join(map(str, ids))
        return JobComparison.model_validate(self._connection.get("/jobs/compare", ids=joined))

    def methods(self) -> Sequence[dict[str, Any]]:
        """Ways to train, with their settings."""
        return tuple(self._connection.get("/jobs/methods"))

    def _job(self, data: Any) -> Job:
        return Job(self._connection, JobRead.model_validate(data))


class Job:
    """One job. `job.info` is what the server last said of it."""

    def __init__(self, connection: Connection, info: JobRead) -> None:
        self._connection, self.info = connection, info
        self.id = info.id
        self._path = f"/jobs/{info.id}"

    def __repr__(self) -> str:
        return f"<Job {self.id} {self.info.name!r} {self.info.status}>"

    def refresh(self) -> JobRead:
        self.info = JobRead.model_validate(self._connection.get(self._path))
        return self.info

    def status(self) -> JobProgress:
        return JobProgress.model_validate(self._connection.get(f"{self._path}/status"))

    def follow(self, after: int = 0) -> Iterator[JobEvent]:
        """Every event once and in order, until the job has ended or is paused; survives restarts of the server."""
        yield from follow(self._connection, self.id, after)
        self.refresh()

    def wait(self) -> JobRead:
        """Wait for the end. Raises `JobFailure` when the job failed."""
        for _ in self.follow():
            pass
        info = self.refresh()
        if info.status == JobStatus.FAILED:
            raise JobFailure(Code(info.failure_code or Code.INTERNAL), info.status_reason, hint=info.hint)
        return info

    def start(self) -> JobRead:
        return self._do("start")

    def stop(self) -> JobRead:
        return self._do("stop")

    def pause(self) -> JobRead:
        return self._do("pause")

    def resume(self) -> JobRead:
        return self._do("resume")

    def checkpoint(self) -> JobRead:
        """Write a checkpoint now and go on."""
        return self._do("checkpoint")

    def set_learning_rate(self, learning_rate: float) -> JobRead:
        return self._do("learning-rate", {"learning_rate": learning_rate})

    def move(self, **where: Any) -> list[dict[str, Any]]:
        """Move it in the queue: `to="first"`, `to="last"` or `before_job_id=…`."""
        return list(self._connection.post(f"{self._path}/move", where))

    def clone(self, **changes: Any) -> Job:
        """A copy with some fields changed."""
        made = self._connection.post_once(f"{self._path}/clone", {"changes": changes})
        return Job(self._connection, JobRead.model_validate(made))

    def delete(self) -> None:
        self._connection.request("DELETE", self._path)

    def events(self, after: int = 0, limit: int = 1000) -> list[JobEvent]:
        answer = self._connection.get(f"{self._path}/events", after=after, limit=limit)
        return [JobEvent.model_validate(item) for item in answer]

    def before_after(self) -> BeforeAfter:
        """A few held-out questions with the answers and scores of the base and the tuned model; `reason` where there are none."""
        return BeforeAfter.model_validate(self._connection.get(f"{self._path}/before-after"))

    def metrics(self, **options: Any) -> JobMetrics:
        """The curves; `points`, `only`, `after`, `from_step` and `to_step` say how much of them."""
        return JobMetrics.model_validate(self._connection.get(f"{self._path}/metrics", **options))

    def search_log(self, text: str, level: LogFilter | None = None) -> Iterator[LogMatch]:
        """Every line of the log that holds `text`; with `level` of those that `logs` gives."""
        offset: int | None = 0
        filters = {"level": level} if level else {}
        while offset is not None:
            found = self._connection.get(f"{self._path}/logs/search", q=text, offset=offset, **filters)
            yield from (LogMatch.model_validate(item) for item in found["matches"])
            offset = found["next_offset"]

    def logs(self, offset: int = 0, level: LogFilter | None = None) -> str:
        """The log from a byte offset on: a line for each logged step, evaluation, checkpoint and notice, and what the process
        printed. `level`: lines of at least `info`, `warning` or `error`, or only the `output` of the process."""
        text = ""
        filters = {"level": level} if level else {}
        while True:
            chunk = self._connection.get(f"{self._path}/logs", offset=offset, **filters)
            text += chunk["text"]
            if chunk["next_offset"] == offset:
                return text
            offset = chunk["next_offset"]

    def download(self, path: str | Path, *, progress: Progress | None = None) -> Path:
        """The packed model, report and instructions as `.tar.gz`, which appears whole or not at all."""
        return self._connection.download(f"{self._path}/download", Path(path), progress)

    @overload
    def chat(self, messages: Messages, *, stream: Literal[True], **sampling: Any) -> Iterator[str]: ...

    @overload
    def chat(self, messages: Messages, *, stream: Literal[False] = False, **sampling: Any) -> ChatAnswer: ...

    def chat(self, messages: Messages, *, stream: bool = False, **sampling: Any) -> Iterator[str] | ChatAnswer:
        """Talk to the model: an answer, or with `stream` its pieces as they come."""
        return _chat(self._connection, f"{self._path}/chat", {"messages": _listed(messages), **sampling}, stream=stream)

    def _do(self, what: str, body: Any = None) -> JobRead:
        self.info = JobRead.model_validate(self._connection.post(f"{self._path}/{what}", body))
        return self.info


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
        body = {"model": model, "messages": _listed(messages), **sampling}
        return _chat(self._connection, "/models/chat", body, stream=stream)


def _listed(messages: Messages) -> list[dict[str, str]]:
    return [{"role": "user", "content": messages}] if isinstance(messages, str) else list(messages)


def _chat(connection: Connection, path: str, body: dict[str, Any], *, stream: bool) -> Iterator[str] | ChatAnswer:
    if stream:
        return chat(connection, path, {**body, "stream": True})
    answer = connection.request("POST", path, json={**body, "stream": False}, timeout=600)
    return ChatAnswer.model_validate(json_of(answer))
