"""What a place that models are deployed to is to the deployments: it puts a model there, looks whether it works, and takes it away."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pydantic import BaseModel

from tunesmith.core.job_spec import ModelRef


@dataclass(frozen=True)
class TargetWork:
    """One model to put in one place. Nothing in it may change while it is worked on."""

    name: str
    """Of the deployment: letters, digits, dots and dashes."""
    model: ModelRef
    """Where the weights are: `path`, and `adapter_path` for an adapter over it. For a GGUF version `path` is the file."""
    title: str
    """`support-bot@1.2.0`, or what else the user named."""
    facts: dict[str, Any]
    """What is known of the model: kind, lineage, metrics, scores, parameters, licence, `tuned_with` (hyperparameters)."""
    settings: dict[str, Any]
    """The deployment's own settings of this target, checked: see each target's `Settings`."""
    system_prompt: str
    sampling: dict[str, Any]
    """`temperature`, `top_p`, `top_k`, `repetition_penalty`, `max_tokens`, `stop`, as the playground has them."""
    folder: Path
    """The deployment's own folder, to write in; kept until it is undeployed."""
    timeout_s: float
    report: Callable[[str, float | None], None] = lambda _message, _share: None
    """Say what is being done, and how much of it is done, 0 to 1."""


@dataclass(frozen=True)
class TargetResult:
    """What has been put there."""

    address: str = ""
    """Where it can be used: a URL, a command, or a folder."""
    is_live: bool = True
    """False for a folder that somebody still has to carry somewhere."""
    instructions: str = ""
    """Markdown: what to do next."""
    details: dict[str, Any] = field(default_factory=dict)
    """For `check` and `undeploy`: whatever the target must know again. No secrets."""


@dataclass(frozen=True)
class Health:
    """How a deployed model is."""

    ok: bool
    message: str = ""
    latency_s: float | None = None


class Target(Protocol):
    """One place. Each function may take long and raises `TunesmithError` with what to do; none keeps state in memory."""

    name: str
    title: str
    sentence: str

    @property
    def Settings(self) -> type[BaseModel]:  # noqa: N802
        """What may be set, and how it is told in forms."""

    def why_not(self) -> str | None:
        """Why it cannot be used here, with the alternative named; None when it can."""

    def check_settings(self, settings: dict[str, Any]) -> dict[str, Any]:
        """The settings, complete. Raises `InvalidInput` naming each that cannot be used."""

    def deploy(self, work: TargetWork) -> TargetResult: ...

    def check(self, result: TargetResult) -> Health:
        """Whether it answers now: by generating a few tokens where that is possible."""

    def undeploy(self, result: TargetResult) -> None:
        """Take it away; it is no error when it is gone already."""
