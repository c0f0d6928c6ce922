"""What a recipe is to the catalog, and what its `train` function is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal, Protocol

from pydantic import BaseModel

from tunesmith.core import credentials
from tunesmith.core.acting import Scope
from tunesmith.core.completion import Finished, Result
from tunesmith.core.job_dir import JobDir
from tunesmith.core.job_spec import Control, JobSpec
from tunesmith.core.metrics import MetricSpec
from tunesmith.core.model_kind import ModelKind


@dataclass(frozen=True, kw_only=True)
class DataContract:
    """The rows that a recipe takes."""

    shapes: tuple[str, ...] = ()
    """Row shapes it can learn from, as in `tunesmith.dataprep.shapes`; empty: any."""
    modality: Literal["text", "table", "image", "audio", "video"] = "text"
    is_needed: bool = True
    """Whether a job must have a dataset."""
    falls_back_to_held_out: bool = False
    """Whether a job without a dataset takes the rows that the training of its model held out."""
    most_sources: int = 1
    """Datasets that one job may mix."""


@dataclass(frozen=True, kw_only=True)
class Output:
    """One thing that a completed job leaves under `artifacts/`."""

    type: Literal["model", "dataset", "scores", "index", "files"]
    folder: str
    kinds: tuple[ModelKind, ...] = ()
    """Of a model: what it can be."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One way to make something of data. Importing it must not import torch."""

    name: str
    title: str
    sentence: str
    """One line for the method card."""
    params: type[BaseModel]
    """What a user may set: frozen, unknown keys refused, a docstring under each field."""
    train: str
    """`module:function`, imported by the worker only; called as `train(params, run)`."""
    permission: Scope
    """What whoever runs it must be allowed; a recipe that does not say cannot be made, and the server does not start."""
    tasks: tuple[str, ...]
    """What its models do, in the field's own words: names of `core.tasks.TASKS`. The first is the usual one."""
    data: DataContract
    metrics: tuple[MetricSpec, ...] = ()
    outputs: tuple[Output, ...] = ()
    kind: Literal["training", "evaluation", "compression"] = "training"
    """What the job is for; only training makes something new out of data."""
    needs_model: bool = True
    """Whether a job starts from a model."""
    has_one_curve: bool = True
    """Whether its steps are those of one training, so that their curve can be judged; false for many fits in a row."""
    base_tasks: tuple[str, ...] = ("text-generation",)
    """What the model that it starts from may have been made for; empty: anything."""
    plan: Callable[[Recipe, Mapping[str, Any], Any, bool], Any] | None = None
    """`plan(recipe, given, facts, auto)`: complete settings, why each was chosen, and what the run takes
    (`recipes.plans.Plan`); None only checks what is given."""
    on_completed: Callable[[Finished], Sequence[Result]] | None = None
    """What becomes of what a completed job has left; None registers its models."""
    unavailable_reason: Callable[[], str | None] = lambda: None
    """Why this machine cannot run it, with the alternative named; None when it can."""
    switch: str = ""
    """The server's setting that allows it; empty for what is always allowed."""
    credentials: Callable[[JobSpec], set[str]] = credentials.of_job
    """Names of the variables with tokens that a job of it needs; it gets no others."""
    confines_itself: bool = False
    """Whether it keeps what it runs apart by namespaces. Its worker stays outside of the domain of `core/confinement.py`, in
    which nobody can make any."""

    def __post_init__(self) -> None:
        if sum(metric.is_primary for metric in self.metrics) > 1:
            raise ValueError(f"Recipe {self.name} has more than one primary metric.")

    @property
    def task(self) -> str:
        return self.tasks[0]

    @property
    def primary(self) -> MetricSpec | None:
        """The metric that stands for a run."""
        return next((metric for metric in self.metrics if metric.is_primary), None)

    @property
    def model_output(self) -> Output | None:
        """The model that it makes, if it makes one."""
        return next((output for output in self.outputs if output.type == "model"), None)

    @property
    def produces(self) -> str:
        """The first folder under `artifacts/` that others use; empty when there is none."""
        return next((output.folder for output in self.outputs if output.type != "scores"), "")

    @property
    def guide(self) -> str:
        """`guide.md` beside its `train`: what it is for, the rows it takes with examples, what to expect; Markdown."""
        package = self.train.partition(":")[0].rpartition(".")[0]
        try:
            return (resources.files(package) / "guide.md").read_text()
        except (FileNotFoundError, ModuleNotFoundError):
            return ""


class RunContext(Protocol):
    """What a recipe's `train(params, run)` may do besides compute. Implemented by `tunesmith.worker.run.Run`."""

    dir: JobDir
    spec: JobSpec
    attempt: int
    model_kind: ModelKind | None
    """Of the model that the job starts from, where it is on this machine."""
    is_main: bool
    """Rank 0: the only one that writes events, checkpoints and artifacts."""

    def report(self, event: Any) -> None:
        """Append one event. Raises `Fenced` (SystemExit) when a newer attempt has taken over."""

    def observe(self, observer: Callable[[Any], None]) -> None:
        """Call `observer` with every event that is reported from now on."""

    def phase(self, phase: str, detail: str = "") -> None: ...

    def progress(self, done: int, total: int, unit: str = "rows") -> None:
        """How far the present phase is; may be called often, is written at most a few times a second."""

    def notice(
        self,
        message: str,
        *,
        hint: str = "",
        level: Literal["info", "warning", "error"] = "info",
        code: str = "",
        rows: Sequence[int] = (),
    ) -> None: ...

    def control(self) -> Control:
        """What is asked of the worker now. Cheap: looks at the file's time stamp. SIGTERM counts as `pause`."""

    def latest_checkpoint(self) -> Path | None: ...

    def checkpoint(self, step: int, *, reason: str = "schedule") -> AbstractContextManager[Path]:
        """A temporary folder to fill; flushed, completed with `complete.json` and renamed when the block ends."""

    def prune_checkpoints(self, keep: int, also: tuple[Path, ...] = ()) -> None:
        """Delete all but the newest `keep` complete checkpoints and those in `also`."""

    def artifact(self, name: str) -> AbstractContextManager[Path]:
        """A temporary folder that becomes `artifacts/<name>/` when the block ends, and an `ArtifactEvent`."""

    def metrics(self, values: dict[str, float]) -> None:
        """Final numbers: go to `exit.json` and out as a `MetricsEvent`."""


class Outcome:
    """What `train` returns."""

    COMPLETED = "completed"
    PAUSED = "paused"
    CANCELLED = "cancelled"
