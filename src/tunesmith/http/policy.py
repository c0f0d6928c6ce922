"""What each route needs. Every route says so; a server with one that does not say refuses to start."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum
from typing import Any, NamedTuple, TypeVar

from fastapi import APIRouter, FastAPI
from fastapi.routing import iter_route_contexts
from starlette.routing import BaseRoute, compile_path
from starlette.types import Scope as AsgiScope

from tunesmith.core.acting import Identity, Scope

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
EndpointT = TypeVar("EndpointT", bound=Callable[..., Any])


class Access(StrEnum):
    """Besides scopes."""

    PUBLIC = "public"
    """Anybody who reaches the server."""
    ACCOUNT = "account"
    """Anybody who has logged in, with whatever scopes."""
    PERSON = "person"
    """As `account`, but not with an API key: a key must not make keys or change passwords."""


Needs = Scope | Access


def needs(what: Needs, *, changes: bool | None = None) -> Callable[[EndpointT], EndpointT]:
    """Say what an endpoint needs, and whether it changes anything: unless told, all do but GET and those that need reading."""

    def mark(endpoint: EndpointT) -> EndpointT:
        endpoint.needs = what  # type: ignore[attr-defined]
        endpoint.changes = changes  # type: ignore[attr-defined]
        return endpoint

    return mark


def declare(router: APIRouter, *, read: Needs, write: Needs) -> None:
    """Say it for every route of `router` that does not say it itself: `read` for GET and WebSocket, `write` for the rest."""
    for route in iter_route_contexts(router.routes):
        endpoint = route.endpoint
        if endpoint is not None and not hasattr(endpoint, "needs"):
            needs(read if (route.methods or SAFE_METHODS) <= SAFE_METHODS else write)(endpoint)


class Policy(NamedTuple):
    """One route."""

    path: str
    methods: frozenset[str]
    """Empty for a WebSocket."""
    action: str
    """The endpoint's name: what the audit log calls it."""
    needs: Needs
    changes: bool


def policies(app: FastAPI | APIRouter) -> list[Policy]:
    """Every route in the order in which they are tried. Raises `LookupError` naming those that say nothing."""
    found, silent = [], []
    for path, methods, endpoint in _routes(app.routes):
        what: Needs | None = getattr(endpoint, "needs", None)
        if what is None:
            silent.append(f"{'/'.join(sorted(methods)) or 'WS'} {path}")
            continue
        changes = getattr(endpoint, "changes", None)
        if changes is None:
            changes = bool(methods) and not methods <= SAFE_METHODS and what != Scope.READ
        found.append(Policy(path, methods, endpoint.__name__, what, changes))
    if silent:
        raise LookupError(f"routes that do not say what they need: {', '.join(silent)}")
    return found


def _routes(routes: Sequence[BaseRoute]) -> Iterator[tuple[str, frozenset[str], Callable[..., Any]]]:
    for route in iter_route_contexts(routes):
        yield route.path or "", frozenset(route.methods or ()), route.endpoint or _routes


class PolicedApp(FastAPI):
    """Its own description of the API says what each operation needs."""

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            document = super().openapi()
            document["components"]["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"}}
            for policy in policies(self):
                path = policy.path.replace(":path}", "}")
                for method in policy.methods:
                    if operation := document["paths"].get(path, {}).get(method.lower()):
                        operation["x-needs"] = policy.needs.value
                        operation["security"] = [] if policy.needs == Access.PUBLIC else [{"bearer": []}]
        return self.openapi_schema or {}


class Policies:
    """Finds the policy of a request by its path, as the router will find its route."""

    def __init__(self, found: Sequence[Policy]) -> None:
        self._compiled = [(compile_path(policy.path)[0], policy) for policy in found]

    def find(self, scope: AsgiScope) -> tuple[Policy | None, dict[str, str]]:
        """The policy and what stands in the path; None where there is no such route or method."""
        method = scope["method"] if scope["type"] == "http" else ""
        for pattern, policy in self._compiled:
            if (match := pattern.match(scope["path"])) and (
                method in policy.methods or method == "" == "".join(policy.methods)
            ):
                return policy, match.groupdict()
        return None, {}


def refusal(who: Identity, what: Needs) -> str | None:
    """Why `who` may not, in words; None when they may."""
    if isinstance(what, Access):
        if what == Access.PERSON and not who.is_interactive:
            return "This cannot be done with an API key; log in with your password."
        return None
    if who.may(what):
        return None
    if who.via == "key":
        return f"This API key has no scope {what.value!r}."
    return f"Your account is of role {who.role.value}, which may not do this."
