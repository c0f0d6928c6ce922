"""Who is at work now, and what they may: set once for each request, known to everything that runs for it.

Threads of the server itself (scheduler, processing, monitor) act as nobody in particular and see everything.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal


class Scope(StrEnum):
    """What a route needs. Each of the others includes reading; `admin` includes all."""

    READ = "read"
    TRAIN = "train"
    DEPLOY = "deploy"
    ADMIN = "admin"


class Role(StrEnum):
    """What an account is in the team."""

    VIEWER = "viewer"
    MEMBER = "member"
    ADMIN = "admin"


class Visibility(StrEnum):
    """Who else sees a thing: nobody, or everybody with an account."""

    PRIVATE = "private"
    TEAM = "team"


ALL_SCOPES = frozenset(Scope)
ROLE_SCOPES: dict[Role, frozenset[Scope]] = {
    Role.VIEWER: frozenset({Scope.READ}),
    Role.MEMBER: frozenset({Scope.READ, Scope.TRAIN, Scope.DEPLOY}),
    Role.ADMIN: ALL_SCOPES,
}
Via = Literal["system", "local", "anonymous", "session", "token", "key"]
"""The server itself; the one user of a server without accounts; nobody known; a browser's cookie; an access token; an API
key."""


@dataclass(frozen=True)
class Identity:
    """Somebody who is known."""

    user_id: int | None
    """None where there are no accounts."""
    name: str
    role: Role
    scopes: frozenset[Scope]
    via: Via
    credential: str = ""
    """Which session or key it was that let them in."""
    jobs_seen: Callable[[], frozenset[int] | None] = lambda: None
    """The jobs that may be seen, for what lies in files; None means all."""

    @property
    def sees_all(self) -> bool:
        return self.user_id is None or self.role == Role.ADMIN

    @property
    def is_interactive(self) -> bool:
        """Whether a person is there, rather than a program with a key."""
        return self.via != "key"

    def may(self, scope: Scope) -> bool:
        return scope in self.scopes

    def may_change(self, owner_id: int | None) -> bool:
        """Whether a thing of that owner is theirs to change."""
        if self.user_id is None or (self.role == Role.ADMIN and Scope.ADMIN in self.scopes):
            return True
        return owner_id is not None and owner_id == self.user_id


SYSTEM = Identity(None, "system", Role.ADMIN, ALL_SCOPES, "system")
LOCAL = Identity(None, "local", Role.ADMIN, ALL_SCOPES, "local")
"""The one user of a server without accounts, which answers its own machine alone."""
ANONYMOUS = Identity(0, "anonymous", Role.VIEWER, frozenset(), "anonymous")
"""Somebody who has not logged in; owns nothing, for accounts are numbered from 1."""


@dataclass
class Act:
    """One request, or one command on the server's own machine: what the audit log says of it."""

    who: Identity
    action: str = ""
    """The operation's name, such as `delete_job`; empty for what changes nothing."""
    method: str = ""
    path: str = ""
    objects: list[str] = field(default_factory=list)
    """What it acts on: `job 7`."""
    address: str = ""
    """The sender's, as far as it is known; see `http/client_address.py`."""
    is_local: bool = False
    """Whether somebody at this machine asks, with nothing in between."""
    is_recorded: bool = False


_current: ContextVar[Act | None] = ContextVar("tunesmith_act", default=None)


def current_act() -> Act:
    """What is happening; outside of requests, the server's own work."""
    return _current.get() or Act(SYSTEM)


def current() -> Identity:
    """Who is at work."""
    return current_act().who


@contextlib.contextmanager
def acting(act: Act) -> Iterator[Act]:
    """Within the block, `act` is what happens."""
    token = _current.set(act)
    try:
        yield act
    finally:
        _current.reset(token)


@contextlib.contextmanager
def everything_seen() -> Iterator[None]:
    """Within the block the server looks for itself, for instance at the whole queue; what it finds is not shown."""
    with acting(Act(SYSTEM)):
        yield


def owner_id() -> int | None:
    """Whose a thing is that is made now."""
    return current().user_id


def owner_name() -> str | None:
    return current().name if current().user_id is not None else None


def new_visibility() -> str:
    """Of a thing that is made now: its maker's alone."""
    return Visibility.PRIVATE
