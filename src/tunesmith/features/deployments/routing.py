"""Who answers a request: the deployments in use as the gateway knows them, and the choice among a deployment's models."""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass, field
from typing import Any

from tunesmith.core.acting import Identity, Visibility
from tunesmith.executors.serving_process import Endpoint
from tunesmith.recipes.model_about import ModelAbout
from tunesmith.schemas.deployments import LocalSettings


@dataclass(frozen=True)
class Variant:
    """One model of a deployment that takes requests."""

    revision_id: int
    number: int
    role: str
    percent: float
    model: str
    engine: str
    endpoint: Endpoint | None
    """None while its process is starting."""
    adapter: int | None
    """Its place among the adapters of the process; None for the base itself."""
    adapter_path: str | None
    num_adapters: int
    known_words: frozenset[str] = frozenset()
    """Of its training data; empty where that is not known."""
    about: ModelAbout | None = None
    """Of a model that does not chat."""


@dataclass(frozen=True)
class Route:
    """One deployment."""

    deployment_id: int
    name: str
    owner_id: int | None
    visibility: str
    settings: LocalSettings
    sampling: dict[str, Any]
    system_prompt: str
    created: int
    """Seconds since 1970."""
    variants: tuple[Variant, ...] = ()
    failed: str = ""
    """Why nobody answers here, and when it is tried again; empty for one that answers or is on its way."""

    def seen_by(self, who: Identity) -> bool:
        return who.sees_all or self.owner_id == who.user_id or self.visibility == Visibility.TEAM

    def choose(self, sticky: str) -> Variant | None:
        """The same `sticky` gets the same variant as long as the shares stay, and one that had a candidate at 5 % has it at
        25 % too. None where nothing is live."""
        live = next((v for v in self.variants if v.role == "live"), None)
        candidate = next((v for v in self.variants if v.role == "candidate" and v.percent and v.endpoint), None)
        if candidate is not None and place(f"{self.name}\n{candidate.number}\n{sticky}") < candidate.percent:
            return candidate
        return live

    def shadow(self, sticky: str) -> Variant | None:
        """Who gets a copy."""
        found = next((v for v in self.variants if v.role == "shadow" and v.endpoint), None)
        return found if found and place(f"shadow\n{sticky}") < found.percent else None


def place(text: str) -> float:
    """0 to 100, evenly, and always the same for the same text."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) / 2**64 * 100


@dataclass
class Routes:
    """What the supervision has found last; read by every request."""

    by_name: dict[str, Route] = field(default_factory=dict)
    changed: threading.Event = field(default_factory=threading.Event)
    wake: Any = None
    """Asks the supervision to look at once."""

    def set(self, routes: list[Route]) -> None:
        self.by_name = {route.name: route for route in routes}

    def find(self, name: str, who: Identity) -> Route | None:
        """The deployment, if there is one that may be used."""
        route = self.by_name.get(name)
        return route if route and route.seen_by(who) else None

    def seen(self, who: Identity) -> list[Route]:
        return [route for route in self.by_name.values() if route.seen_by(who)]
