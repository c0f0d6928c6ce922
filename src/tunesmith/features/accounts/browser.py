"""How a browser is logged in and out: by a cookie that no script reads."""

from __future__ import annotations

from fastapi import Response
from fastapi.responses import RedirectResponse

from tunesmith.features.accounts.doorkeeper import DEVICE_S, Doorkeeper
from tunesmith.http.redirects import local_path


def enter(door: Doorkeeper, user_id: int, agent: str, address: str, device: str) -> RedirectResponse:
    """Logged in, and on to `address`. `device`: the cookie by which the browser is known already."""
    answer = RedirectResponse(local_path(address), status_code=303, headers={"Cache-Control": "no-store"})
    answer.set_cookie(
        door.cookie, door.begin(user_id, agent), max_age=door.settings.session_s, path="/", secure=door.is_secure,
        httponly=True, samesite="lax",
    )  # fmt: skip
    answer.set_cookie(
        door.device_cookie, door.device_of(user_id, device), max_age=DEVICE_S, path="/", secure=door.is_secure,
        httponly=True, samesite="lax",
    )  # fmt: skip
    return answer


def leave(door: Doorkeeper, answer: Response) -> None:
    """The cookie goes; the login itself is ended elsewhere."""
    answer.delete_cookie(door.cookie, path="/", secure=door.is_secure, httponly=True, samesite="lax")
