"""`client.jobs`, and one job."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, overload

from tunesmith.core.errors import FailureCode as Code
from tunesmith.core.errors import JobFailure
from tunesmith.core.job_status import JobStatus
from tunesmith.core.log_lines import LogFilter
from tunesmith.schemas.before_after import BeforeAfter
from tunesmith.schemas.jobs import (
    ChatAnswer,
    JobComparison,
    JobEvent,
    JobMetrics,
    JobProgress,
    JobRead,
    LogMatch,
)
from tunesmith.schemas.predictions import PredictAnswer
from tunesmith.schemas.runs import JobColumn, JobGroup, JobViewRead
from tunesmith.sdk import predictions
from tunesmith.sdk.connection import Connection, Progress, pages
from tunesmith.sdk.stream import Messages, ask, follow

LOOK_EVERY_S = 0.2


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

    def predict(self, job_id: int, inputs: Any, **parameters: Any) -> PredictAnswer:
        """Ask the model of a finished job, where it does not chat: one input, or a list. Keyword arguments are the model's own, such as
        `top_k`."""
        return predictions.predict(self._connection, f"/jobs/{job_id}", inputs, parameters)

    def predict_file(self, job_id: int, source: str | Path, target: str | Path, *, column: str | None = None) -> Path:
        """The same about each row of a CSV file; the answers are written to `target`, beside the rows."""
        return predictions.predict_file(self._connection, f"/jobs/{job_id}", Path(source), Path(target), column)

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
        return ask(self._connection, f"{self._path}/chat", messages, sampling, stream=stream)

    def predict(self, inputs: Any, **parameters: Any) -> PredictAnswer:
        """Ask the model, where it does not chat: one input, or a list."""
        return predictions.predict(self._connection, self._path, inputs, parameters)

    def _do(self, what: str, body: Any = None) -> JobRead:
        self.info = JobRead.model_validate(self._connection.post(f"{self._path}/{what}", body))
        return self.info
