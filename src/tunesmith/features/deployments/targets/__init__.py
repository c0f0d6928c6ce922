"""The places that models are deployed to besides this machine's own processes."""

from __future__ import annotations

from tunesmith.core.errors import InvalidInput
from tunesmith.features.deployments.targets.base import Target
from tunesmith.features.deployments.targets.cloud import Cloud
from tunesmith.features.deployments.targets.huggingface import HuggingFace
from tunesmith.features.deployments.targets.lmstudio import LMStudio
from tunesmith.features.deployments.targets.ollama import Ollama

TARGETS: tuple[Target, ...] = (Ollama(), LMStudio(), HuggingFace(), Cloud())


def find(name: str) -> Target:
    """Raises `InvalidInput` naming those that there are."""
    for target in TARGETS:
        if target.name == name:
            return target
    raise InvalidInput(
        f"There is no target {name!r}.", hint=f"One of: local, {', '.join(target.name for target in TARGETS)}."
    )
