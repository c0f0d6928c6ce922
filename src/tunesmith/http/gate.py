"""Who is asking, whether they may, and that it is written down: for every request, before any part of it is read."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Protocol
from urllib.parse import quote

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.requests import Request, cookie_parser
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tunesmith.core.acting import ANONYMOUS, LOCAL, Act, Identity, acting
from tunesmith.core.errors import NotLoggedIn, PermissionDenied, TunesmithError, Unavailable
from tunesmith.core.plain_text import one_line
from tunesmith.http.client_address import IS_LOCAL
from tunesmith.http.errors import ErrorPage, error_answer, wants_page
from tunesmith.http.policy import SAFE_METHODS, Access, Policies, Policy, refusal
from tunesmith.storage.outage import DatabaseAway

CSRF_HEADER = "x-csrf-token"
LOOK_AGAIN_S = 1.0
"""How long a stream goes on before its reader's right to it is looked at again."""
LOGIN_PAGE = "/login"


class Doorkeeper(Protocol):
    """What the gate asks of the accounts."""

    is_on: bool
    """Whether people log in at all."""
    cookie: str
    """Name of the cookie with which a browser says who it is."""

    def identify(self, bearer: str | None, cookie: str | None, address: str) -> Identity | None:
        """Whose token, key or cookie it is. Raises `NotLoggedIn` for one that is not good."""

    def csrf_token(self, identity: Identity) -> str:
        """What a browser must send with each change, besides its cookie."""

    def is_csrf_token(self, identity: Identity, sent: str) -> bool:
        """Whether that was sent."""

    def is_still_good(self, identity: Identity) -> bool:
        """Whether it would be let in now."""

    def record(self, act: Act, status: int) -> None:
        """Write down what has come of a request that changes something."""


class Gate:
    """ASGI layer; HTTP and WebSocket alike."""

    def __init__(self, app: ASGIApp, policies: Callable[[], Policies], doorkeeper: Doorkeeper, page: ErrorPage) -> None:
        self.app, self._policies, self.doorkeeper, self._page = app, policies, doorkeeper, page

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        policy, params = self._policies().find(scope)
        address = (scope.get("client") or ("",))[0]
        who = ANONYMOUS
        try:
            if self.doorkeeper.is_on:
                who = await run_in_threadpool(self._identify, scope, policy, address)
            elif scope.get(IS_LOCAL):
                who = LOCAL
            self._check(scope, policy, who)
        except DatabaseAway as away:
            await self._refuse(away.answer, scope, receive, send)
            return
        except TunesmithError as error:
            if who is not ANONYMOUS and policy and policy.changes:
                await self._record(_act(who, scope, policy, params, address), error.status)
            with acting(Act(who)):
                await self._refuse(error, scope, receive, send)
            return
        act = _act(who, scope, policy, params, address)
        with acting(act):
            await self._pass_on(act, scope, receive, send)

    def _identify(self, scope: Scope, policy: Policy | None, address: str) -> Identity:
        try:
            return self._known(scope, address) or ANONYMOUS
        except NotLoggedIn:
            if policy and policy.needs == Access.PUBLIC:  # a token that has run out is brought along to be renewed
                return ANONYMOUS
            raise

    def _known(self, scope: Scope, address: str) -> Identity | None:
        headers = Headers(scope=scope)
        kind, _, bearer = headers.get("authorization", "").partition(" ")
        if kind and kind.lower() != "bearer":
            raise NotLoggedIn("Only Bearer tokens are understood.", hint="Authorization: Bearer <token or API key>")
        cookie = cookie_parser(headers.get("cookie", "")).get(self.doorkeeper.cookie)
        return self.doorkeeper.identify(bearer.strip() if kind else None, cookie, address)

    def _check(self, scope: Scope, policy: Policy | None, who: Identity) -> None:
        """Raises `NotLoggedIn` or `PermissionDenied`. What no route says is for those who have logged in."""
        if policy and policy.needs == Access.PUBLIC:
            return
        if who is ANONYMOUS and not self.doorkeeper.is_on:
            raise PermissionDenied(
                "This server has no accounts, so it answers its own machine alone, and this request came another way.",
                hint="Set TUNESMITH_AUTH=on before others reach it through a proxy. For yourself an SSH tunnel will do: "
                "ssh -L 8000:localhost:8000 this-machine",
            )
        if who is ANONYMOUS:
            raise NotLoggedIn("Log in first.", hint="On the login page, with tunesmith login, or with an API key.")
        if who.via == "session" and scope["type"] == "websocket" and "origin" not in Headers(scope=scope):
            raise PermissionDenied("A browser says which page it asks for.", hint="Programs use an API key.")
        if who.via == "session" and scope.get("method", "GET") not in SAFE_METHODS:
            self._check_csrf(scope, who)
        if policy and (why := refusal(who, policy.needs)):
            raise PermissionDenied(why, hint="An administrator can give you another role, or you use another key.")

    def _check_csrf(self, scope: Scope, who: Identity) -> None:
        sent = Headers(scope=scope).get(CSRF_HEADER, "")
        if not self.doorkeeper.is_csrf_token(who, sent):
            raise PermissionDenied("The page is too old, or another site has sent this.", hint="Load the page again.")

    async def _refuse(self, error: TunesmithError, scope: Scope, receive: Receive, send: Send) -> None:
        answer: Response = error_answer(scope["path"], error)
        if scope["type"] == "websocket" and error.status == Unavailable.status:
            await answer(scope, receive, send)  # instead of the handshake
            return
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 4401 if error.status == 401 else 4403, "reason": error.code})
            return
        for_browser = wants_page(Request(scope)) and scope["method"] in SAFE_METHODS
        if for_browser and error.status != 401:
            answer = self._page(Request(scope), error)
        if error.status == 401:
            answer.headers["WWW-Authenticate"] = "Bearer"
            if for_browser:
                here = scope["path"] + (f"?{scope['query_string'].decode('latin-1')}" if scope["query_string"] else "")
                answer = RedirectResponse(f"{LOGIN_PAGE}?next={quote(here, safe='')}", status_code=303)
        answer.headers["Cache-Control"] = "no-store"
        await answer(scope, receive, send)

    async def _pass_on(self, act: Act, scope: Scope, receive: Receive, send: Send) -> None:
        """Call the application; end a stream whose reader may no longer read; write down what came of a change."""
        status = 500
        looked_s = time.monotonic()

        async def watched(message: Message) -> None:
            nonlocal status, looked_s
            if message["type"] == "http.response.start":
                status = message["status"]
            elif time.monotonic() - looked_s > LOOK_AGAIN_S and message.get("more_body", True):
                looked_s = time.monotonic()
                if not await run_in_threadpool(self._is_still_good, act.who):
                    raise _Ended
            await send(message)

        try:
            await self.app(scope, receive, watched)
        except _Ended:
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 4401, "reason": "not_logged_in"})
            else:
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            if act.action and not (act.is_recorded and status < 400):
                await asyncio.shield(self._record(act, status))

    def _is_still_good(self, who: Identity) -> bool:
        try:
            return self.doorkeeper.is_still_good(who)
        except DatabaseAway:
            return True  # nobody can have been shut out, and nothing new comes

    async def _record(self, act: Act, status: int) -> None:
        """Without a database there is nothing to write to, and nothing has been changed in it."""
        with contextlib.suppress(DatabaseAway):
            await run_in_threadpool(self.doorkeeper.record, act, status)


class _Ended(Exception):
    """The reader of a stream has logged out, or was shut out."""


def _act(who: Identity, scope: Scope, policy: Policy | None, params: dict[str, str], address: str) -> Act:
    """What the audit log will say; the query is left out, for it may hold data."""
    changes = policy is not None and policy.changes
    return Act(
        who,
        action=policy.action if policy and changes else "",
        method=scope.get("method", ""),
        path=policy.path if policy else "",
        objects=[f"{name.removesuffix('_id')} {one_line(value[:80])}" for name, value in params.items()]
        if changes
        else [],
        address=address,
        is_local=bool(scope.get(IS_LOCAL)),
    )
