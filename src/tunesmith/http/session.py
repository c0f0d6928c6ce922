"""One request is one unit of work. What every endpoint may ask for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, cast

from fastapi import Depends
from sqlalchemy.orm import Session
from starlette.requests import HTTPConnection

from tunesmith.executors.serving import ServingPool
from tunesmith.live.bus import Bus
from tunesmith.settings import Settings
from tunesmith.storage.database import Database


@dataclass(frozen=True)
class AppState:
    """What the process holds; made once by `create_app`, found at `request.app.state.tunesmith`."""

    settings: Settings
    database: Database
    bus: Bus
    wake_scheduler: Callable[[], None]
    """Makes the scheduler's next round start now."""
    why_waiting: Callable[[Session], dict[int, str]]
    """For each queued job that cannot start now: why, in words."""
    wake_datasets: Callable[[], None]
    """Makes the processing of datasets look for work now."""
    serving: ServingPool
    """The processes that answer chats."""
    dataset_users: Callable[[Session, int], list[str]]
    """What needs a dataset and keeps it from being deleted, in words."""
    version_users: Callable[[Session], dict[int, list[str]]] = lambda _session: {}
    """Versions of the registry (ids) that something uses now, and what, in words: `deployment support`."""
    promotion_gate: Callable[[Session, Any, str], str | None] = lambda _session, _version, _target: None
    """Why a version (`VersionRow`) may not become `alias:champion`, `stage:production` and the like; None when it may."""


def get_state(connection: HTTPConnection) -> AppState:
    return cast(AppState, connection.app.state.tunesmith)


State = Annotated[AppState, Depends(get_state)]


def get_session(connection: HTTPConnection, state: State) -> Iterator[Session]:
    """Commits when the endpoint returns, before the answer is sent; rolls back when it raises."""
    with state.database.unit_of_work(readonly=connection.scope.get("method") in ("GET", "HEAD")) as session:
        yield session


DbSession = Annotated[Session, Depends(get_session, scope="function")]
"""For plain `def` endpoints. Streams open short units of work of their own instead."""
