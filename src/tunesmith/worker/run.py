"""What a recipe may do besides compute: report, keep checkpoints, leave artifacts, and learn what is asked of it."""

from __future__ import annotations

import contextlib
import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from tunesmith.core.clock import monotonic_s
from tunesmith.core.events import (
    ArtifactEvent,
    CheckpointEvent,
    MetricsEvent,
    NoticeEvent,
    PhaseEvent,
    ProgressEvent,
    ResourcesEvent,
)
from tunesmith.core.job_dir import JobDir, fsync_dir, new_folder
from tunesmith.core.job_spec import Control, JobSpec
from tunesmith.core.job_status import Phase
from tunesmith.core.progress import moved
from tunesmith.recipes.catalog import kind_of_ref
from tunesmith.worker import checkpoints
from tunesmith.worker.log import WorkerLog
from tunesmith.worker.reporter import Fence, Reporter
from tunesmith.worker.stopping import StopSignals

PROGRESS_EVERY_S = 0.3
"""Least time between two written progress events of one phase, seconds."""


class Run:
    """Implements `tunesmith.core.recipe.RunContext`. Ranks other than 0 compute, but write nothing."""

    def __init__(self, job_dir: JobDir, spec: JobSpec, attempt: int, signals: StopSignals, rank: int = 0) -> None:
        self.dir, self.spec, self.attempt = job_dir, spec, attempt
        self.is_main = rank == 0
        self.model_kind = kind_of_ref(spec.model) if spec.model else None
        self.final_metrics: dict[str, float] = {}
        self.timed_out = False
        self._signals = signals
        self._deadline_s = monotonic_s() + spec.timeout_s if spec.timeout_s else math.inf
        self._fence = Fence(job_dir, attempt)
        self._control = Control()
        self._control_seen: tuple[int, int] | None = None
        self._phase = Phase.STARTING
        self._next_progress_s = 0.0
        self._observers: list[Callable[[Any], None]] = []
        self._reporter = Reporter(job_dir, attempt, self._fence) if self.is_main else None
        self.log = WorkerLog(job_dir, attempt)

    def report(self, event: Any) -> None:
        """Append one event. Raises `Fenced` (SystemExit) when a newer attempt has taken over."""
        if not isinstance(event, ResourcesEvent):  # that comes by the clock and proves no progress
            moved()
        if self._reporter:
            self._reporter.append(event)
            self.log.tell(event)
            for observer in self._observers:
                observer(event)

    def observe(self, observer: Callable[[Any], None]) -> None:
        """Call `observer` with every event that is reported from now on."""
        self._observers.append(observer)

    def phase(self, phase: str, detail: str = "") -> None:
        """Say what the job turns to."""
        self._phase, self._next_progress_s = Phase(phase), 0.0
        moved(self._phase)
        self.report(PhaseEvent(phase=self._phase, detail=detail))

    def progress(self, done: int, total: int, unit: str = "rows") -> None:
        """How far the present phase is; may be called often, is written at most a few times a second."""
        moved()
        now = monotonic_s()
        if now >= self._next_progress_s or done >= total:
            self._next_progress_s = now + PROGRESS_EVERY_S
            self.report(ProgressEvent(phase=self._phase, done=done, total=total, unit=unit))

    def notice(
        self,
        message: str,
        *,
        hint: str = "",
        level: Literal["info", "warning", "error"] = "info",
        code: str = "",
        rows: Sequence[int] = (),
    ) -> None:
        """Something a person should read."""
        self.report(NoticeEvent(message=message, hint=hint, level=level, code=code, rows=list(rows)))

    def control(self) -> Control:
        """What is asked of the worker now. SIGTERM and a passed time limit count as `pause`. Raises `Fenced`."""
        self._fence.check()
        with contextlib.suppress(FileNotFoundError):
            stat = os.stat(self.dir.control)
            identity = (stat.st_mtime_ns, stat.st_ino)
            if identity != self._control_seen:
                self._control, self._control_seen = self.dir.read_control(), identity
        if monotonic_s() > self._deadline_s:
            self.timed_out = True
        if (self.timed_out or self._signals.stop_asked) and not self._control.pause:
            return self._control.model_copy(update={"pause": True})
        return self._control

    def latest_checkpoint(self) -> Path | None:
        """The newest checkpoint whose files match its manifest; damaged ones are reported and passed over."""
        if not self.is_main:
            found = self.dir.complete_checkpoints()
            return next((p for p in reversed(found) if checkpoints.damage(p) is None), None)

        def on_damage(folder: Path, problem: str) -> None:
            self.notice(
                f"Checkpoint {folder.name} is damaged ({problem}); going back to the one before it.",
                hint="If this happens again, check the disk.",
                level="warning",
                code="damaged_checkpoint",
            )

        return checkpoints.latest_good(self.dir, on_damage)

    @contextlib.contextmanager
    def checkpoint(self, step: int, *, reason: str = "schedule") -> Iterator[Path]:
        """A temporary folder to fill; flushed, completed with `complete.json` and renamed when the block ends."""
        if not self._reporter:
            with self._thrown_away() as folder:
                yield folder
            return
        with checkpoints.new_checkpoint(self.dir, step, self.attempt, self._fence.check) as folder:
            yield folder
            size_bytes = _size_bytes(folder)
            self._reporter.flush()  # a run resumed from here after a power loss does not report these steps again
        path = f"checkpoints/{checkpoints.checkpoint_name(step)}"
        self.report(CheckpointEvent(step=step, path=path, size_bytes=size_bytes, reason=reason))  # type: ignore[arg-type]
        self._reporter.flush()

    def prune_checkpoints(self, keep: int, also: tuple[Path, ...] = ()) -> None:
        """Delete all but the newest `keep` complete checkpoints and those in `also`."""
        if self.is_main:
            self._fence.check()
            checkpoints.prune(self.dir, keep, also)

    @contextlib.contextmanager
    def artifact(self, name: str) -> Iterator[Path]:
        """A temporary folder that becomes `artifacts/<name>/` when the block ends, and an `ArtifactEvent`."""
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", name):
            raise ValueError(f"{name!r} is not a plain name for an artifact")
        if not self._reporter:
            with self._thrown_away() as folder:
                yield folder
            return
        with new_folder(self.dir.artifacts / name, before_rename=lambda _: self._fence.check()) as folder:
            yield folder
            size_bytes = _size_bytes(folder)
        self.report(ArtifactEvent(name=name, path=f"artifacts/{name}", size_bytes=size_bytes))

    def metrics(self, values: dict[str, float]) -> None:
        """Final numbers: go to `exit.json` and out as a `MetricsEvent`."""
        self.final_metrics.update(values)
        self.report(MetricsEvent(values=values))

    def start(self) -> None:
        """Make the folder ready: cut a half line and remove half-made folders that a killed predecessor left."""
        for folder in (self.dir.checkpoints, self.dir.artifacts):
            if folder.is_symlink():  # nobody here makes one
                folder.unlink()
            folder.mkdir(exist_ok=True)
        if self.is_main:
            fsync_dir(self.dir.path)  # these, and the file of events
            self._fence.check()
            checkpoints.remove_leftovers(self.dir)

    def finish(self) -> None:
        """Flush the events and refuse the last word to a fenced worker."""
        if self._reporter:
            self._fence.check()
            self._reporter.flush()
            fsync_dir(self.dir.path)

    @contextlib.contextmanager
    def _thrown_away(self) -> Iterator[Path]:
        """For ranks that keep nothing: a folder that is gone afterwards."""
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)


def _size_bytes(folder: Path) -> int:
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
