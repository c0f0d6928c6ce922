"""The two addresses of logging in through another service."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import RedirectResponse

from tunesmith.core.errors import NotLoggedIn
from tunesmith.features.accounts.api import Device, Door
from tunesmith.features.accounts.browser import enter
from tunesmith.features.accounts.oidc import ON_THE_WAY_S, Provider
from tunesmith.features.accounts.throttle import FROM_ONE_ADDRESS
from tunesmith.http.policy import Access, needs
from tunesmith.http.redirects import local_path

router = APIRouter(include_in_schema=False)

COOKIE = "tunesmith-oidc"
PATH = "/login/oidc"


@router.get(PATH)
@needs(Access.PUBLIC)
def begin(door: Door, next: Annotated[str, Query(max_length=2000)] = "/") -> RedirectResponse:  # noqa: A002
    """To the provider. Raises `TooMany`: each time it is asked where its pages are."""
    door.count_try((FROM_ONE_ADDRESS, door.here("oidc")))
    start = Provider(door).start(local_path(next))
    answer = RedirectResponse(start.url, status_code=303)
    answer.set_cookie(
        COOKIE, start.cookie, max_age=ON_THE_WAY_S, path=PATH, secure=door.is_secure, httponly=True, samesite="lax"
    )
    return answer


@router.get(f"{PATH}/callback")
@needs(Access.PUBLIC, changes=True)
def login_with_oidc(
    request: Request,
    door: Door,
    device: Device,
    code: Annotated[str, Query(max_length=4000)] = "",
    state: Annotated[str, Query(max_length=200)] = "",
    agent: Annotated[str, Header(alias="User-Agent", max_length=2000)] = "",
) -> RedirectResponse:
    """Back from there."""
    kept = request.cookies.get(COOKIE)
    if not (kept and code and state):
        raise NotLoggedIn("The other service has not let you in.", hint="Begin again on the login page.")
    user_id, next_path = Provider(door).finish(kept, code, state)
    answer = enter(door, user_id, agent, next_path, device)
    answer.delete_cookie(COOKIE, path=PATH, secure=door.is_secure, httponly=True, samesite="lax")
    return answer
