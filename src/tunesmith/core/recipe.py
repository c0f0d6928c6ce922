"""What a recipe is to the catalog, and what its `train` function is given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from pydantic import BaseModel

from tunesmith.core import credentials
from tunesmith.core.acting import Scope
from tunesmith.core.job_dir import JobDir
from tunesmith.core.job_spec import Control, JobSpec


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One way to train. Importing it must not import torch."""

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
    kind: Literal["training", "evaluation", "compression"] = "training"
    """What the job is for; only training makes something new out of data."""
    produces: str
    """Folder name under `artifacts/`, e.g. `lora_model`; empty when the recipe makes no model."""
    shapes: tuple[str, ...] = ()
    """Row shapes it can learn from."""
    needs_model: bool = True
    needs_dataset: bool = True
    unavailable_reason: Callable[[], str | None] = lambda: None
    """Why this machine cannot run it, with the alternative named; None when it can."""
    switch: str = ""
    """The server's setting that allows it; empty for what is always allowed."""
    credentials: Callable[[JobSpec], set[str]] = credentials.of_job
    """Names of the variables with tokens that a job of it needs; it gets no others."""
    confines_itself: bool = False
    """Whether it keeps what it runs apart by namespaces. Its worker stays outside of the domain of `core/confinement.py`, in
    which nobody can make any."""


class RunContext(Protocol):
    """What a recipe's `train(params, run)` may do besides compute. Implemented by `tunesmith.worker.run.Run`."""

    dir: JobDir
    spec: JobSpec
    attempt: int
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
