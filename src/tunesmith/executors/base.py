"""What an executor does: start a worker so that it can be found again, say how it is, end it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Protocol

from tunesmith.core.job_dir import JobDir
from tunesmith.core.job_spec import Launch, ShimRecord


@dataclass(frozen=True)
class Order:
    """What to start."""

    attempt: int
    devices: list[int] = field(default_factory=list)
    cpu_threads: int | None = None
    offline: bool = False
    timeout_s: float | None = None
    out_of_memory_kills: int = 0
    """Earlier attempts that the kernel ended for want of memory; the worker starts with a smaller micro-batch."""


@dataclass(frozen=True)
class Stillness:
    """For how long a worker has shown no progress."""

    phase: str = "starting"
    still_s: float = 0.0
    """Seconds in which it could have worked."""
    slowest_s: float = 0.0
    """The longest that it stood still in this phase and then went on."""


@dataclass(frozen=True)
class Observation:
    """How an attempt is."""

    state: Literal["alive", "ended", "gone"]
    """`ended`: the shim told how. `gone`: no such process any more, and nobody told how it ended."""
    shim: ShimRecord | None = None
    heartbeat_age_s: float = 0.0
    stillness: Stillness | None = None
    """What was last told of the worker's progress; None where nobody has."""


class Prepared(Protocol):
    """A process that exists and waits: its identity can be recorded before it does anything."""

    launch: Launch

    def go(self) -> None:
        """Let it begin. When this is never called, it ends by itself."""

    def abandon(self) -> None:
        """End it without a beginning."""


class Executor(Protocol):
    """Starts workers on some machine and finds them again after the server restarts."""

    def warm_up(self) -> None:
        """Make ready what shortens the next start; never waits."""

    def prepare(self, job_dir: JobDir, order: Order) -> Prepared: ...

    def observe(self, job_dir: JobDir, launch: Launch) -> Observation:
        """Never raises for a dead process."""

    def dump(self, job_dir: JobDir, launch: Launch) -> None:
        """Let the attempt's processes write to its log where each of their threads stands."""

    def kill(self, job_dir: JobDir, launch: Launch) -> bool:
        """End every process of the attempt now; whether none is left."""

    def close(self) -> None:
        """The server ends; its workers go on."""
