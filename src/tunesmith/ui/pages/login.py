"""The pages of somebody who has not logged in: log in, register, and choose a new password. They work without scripts, but
for links, whose secret stands after the # and is read in the browser alone."""

from __future__ import annotations

from typing import Annotated, NamedTuple
from urllib.parse import parse_qs, urlencode

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool

from tunesmith.core.acting import current, current_act
from tunesmith.core.errors import BadRequest, InvalidInput, TooLarge, TunesmithError, UnsupportedFormat
from tunesmith.features.accounts.api import Agent, Device, Door
from tunesmith.features.accounts.browser import enter
from tunesmith.features.accounts.doorkeeper import Doorkeeper
from tunesmith.http.errors import invalid_input
from tunesmith.http.policy import Access, needs
from tunesmith.http.redirects import local_path
from tunesmith.schemas.accounts import Login, Register
from tunesmith.ui.render import page

router = APIRouter(include_in_schema=False)

MAX_FORM_BYTES = 8192
MAX_FIELDS = 20
FORM = "application/x-www-form-urlencoded"
Next = Annotated[str, Query()]


class Registration(NamedTuple):
    """Whether one can register here, in words."""

    text: str
    open: bool
    invitation: bool
    """Whether an invitation has to be given."""


@router.get("/login")
@needs(Access.PUBLIC)
def show_login(
    request: Request,
    door: Door,
    next: Next = "/",  # noqa: A002
    hx_request: Annotated[str, Header(max_length=10)] = "",
) -> Response:
    """The form; whoever has logged in already goes on."""
    if not door.is_on or current().user_id:
        return RedirectResponse(local_path(next), status_code=303)
    if hx_request:  # a part of a page that asks for itself once its reader's login has ended
        return Response(status_code=204, headers={"HX-Redirect": f"/login?{urlencode({'next': local_path(next)})}"})
    if not _has_users(door):
        return RedirectResponse("/register", status_code=303)
    return _page(request, door, "login", given={"next": local_path(next)})


@router.get("/register")
@needs(Access.PUBLIC)
def show_register(request: Request, door: Door) -> Response:
    """The form, and what is needed to use it."""
    if not door.is_on or current().user_id:
        return RedirectResponse("/", status_code=303)
    return _page(request, door, "register")


@router.post("/login")
@needs(Access.PUBLIC)
async def login(request: Request, door: Door, device: Device, agent: Agent = "") -> Response:
    """The cookie, and on to `next`; or the form again with what was wrong."""
    given = await _form(request)
    return await run_in_threadpool(_log_in, request, door, given, agent, device)


def _log_in(request: Request, door: Doorkeeper, given: dict[str, str], agent: str, device: str) -> Response:
    if not door.is_on:
        return RedirectResponse("/", status_code=303)
    try:
        body = Login.model_validate({name: given.get(name, "") for name in ("username", "password")})
        user_id = door.check_password(body.username, body.password.get_secret_value(), device)
        return enter(door, user_id, agent, given.get("next", "/"), device)
    except ValidationError:
        return _page(request, door, "login", given, InvalidInput("Give your name and your password."))
    except TunesmithError as error:
        return _page(request, door, "login", given, error)


@router.post("/register")
@needs(Access.PUBLIC)
async def register(request: Request, door: Door, device: Device, agent: Agent = "") -> Response:
    """The account, logged in; or the form again with what was wrong."""
    given = await _form(request)
    return await run_in_threadpool(_register, request, door, given, agent, device)


def _register(request: Request, door: Doorkeeper, given: dict[str, str], agent: str, device: str) -> Response:
    if not door.is_on:
        return RedirectResponse("/", status_code=303)
    fields = {name: given.get(name, "") for name in ("username", "email", "full_name", "password")}
    try:
        body = Register.model_validate({**fields, "invitation": given.get("invitation", "").strip() or None})
        return enter(door, door.register(body).id, agent, "/", device)
    except ValidationError as error:
        return _page(request, door, "register", given, invalid_input(error))
    except TunesmithError as error:
        return _page(request, door, "register", given, error)


@router.get("/forgot-password")
@needs(Access.PUBLIC)
def show_forgot_password(request: Request, door: Door) -> Response:
    if not door.is_on:
        return RedirectResponse("/", status_code=303)
    return _page(request, door, "forgot")


@router.get("/reset-password")
@needs(Access.PUBLIC)
def show_reset_password(request: Request, door: Door) -> Response:
    """Where the link to a new password leads."""
    if not door.is_on:
        return RedirectResponse("/", status_code=303)
    return _page(request, door, "reset")


TITLES = {"login": "Log in", "register": "Register", "forgot": "Forgotten password", "reset": "Choose a new password"}


def _page(
    request: Request,
    door: Doorkeeper,
    kind: str,
    given: dict[str, str] | None = None,
    error: TunesmithError | None = None,
) -> HTMLResponse:
    settings = door.settings
    has_users = _has_users(door)
    answer = page(
        request,
        f"login/{kind}.html",
        title=TITLES[kind],
        status=error.status if error else 200,
        kind=kind,
        given={name: value for name, value in (given or {}).items() if name != "password"},
        next=local_path((given or {}).get("next", "/")),
        error=error,
        has_users=has_users,
        registration=registration(settings.registration, has_users=has_users, is_local=current_act().is_local),
        single_sign_on=settings.oidc_name if settings.oidc_issuer else "",
        has_mail=settings.smtp_url is not None,
        least=settings.password_min_length,
    )
    # Under `no-referrer` browsers send a form with the origin `null`, which the guard refuses as another site's.
    answer.headers["Referrer-Policy"] = "same-origin"
    return answer


def _has_users(door: Doorkeeper) -> bool:
    with door.database.unit_of_work(readonly=True) as session:
        return not door.accounts(session).users.is_empty()


def registration(who: str, *, has_users: bool, is_local: bool) -> Registration:
    """As the settings and the accounts that there are have it; the server decides again when somebody registers."""
    if not has_users and is_local:
        return Registration("This is the first account, so it becomes the administrator.", True, False)
    if not has_users:
        text = "The first account becomes the administrator. It needs the link that the server printed when it started."
        return Registration(text, True, True)
    if who == "open":
        return Registration("Anybody may make an account here.", True, False)
    if who == "invitation":
        return Registration("You need an invitation: an administrator can give you a link.", True, True)
    return Registration("Nobody can register here. Ask an administrator for an account.", False, False)


async def _form(request: Request) -> dict[str, str]:
    """The fields of a plain form, each once. Raises `UnsupportedFormat`, `TooLarge`, `BadRequest`."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != FORM:
        raise UnsupportedFormat("A form is wanted.", hint="Programs log in at POST /api/v1/auth/login.")
    read = bytearray()
    async for part in request.stream():
        read += part
        if len(read) > MAX_FORM_BYTES:
            raise TooLarge("The form is too large.", hint=f"It may have {MAX_FORM_BYTES // 1024} kB.")
    try:
        fields = parse_qs(read.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS)
    except ValueError:
        raise BadRequest("The form cannot be read.", hint="Send it from the login page.") from None
    if any("\0" in value for values in fields.values() for value in values):
        raise BadRequest("A form must not hold NUL characters.", hint="Remove them.")
    return {name: values[-1] for name, values in fields.items()}
