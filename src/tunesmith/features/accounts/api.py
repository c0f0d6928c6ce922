"""REST routes of one's own account: logging in, password, logins, API keys."""

from __future__ import annotations

from typing import Annotated, Any, cast

from fastapi import APIRouter, Depends, Header, Path, Response
from pydantic import BaseModel
from starlette.requests import HTTPConnection

from tunesmith.core.acting import current
from tunesmith.core.errors import Conflict, NotFound
from tunesmith.features.accounts import mail
from tunesmith.features.accounts.browser import leave
from tunesmith.features.accounts.doorkeeper import Doorkeeper
from tunesmith.features.accounts.service import Accounts, me
from tunesmith.http.policy import Access, declare, needs
from tunesmith.http.session import DbSession
from tunesmith.schemas.accounts import (
    KeyCreate,
    KeyMade,
    KeyRead,
    Login,
    LoginRead,
    Me,
    PasswordChange,
    PasswordForgotten,
    PasswordReset,
    ProfileUpdate,
    Refresh,
    Register,
    Tokens,
    UserRead,
)
from tunesmith.schemas.common import ErrorBody

router = APIRouter(prefix="/auth", tags=["accounts"])

REFUSED: dict[int | str, dict[str, Any]] = {status: {"model": ErrorBody} for status in (401, 403, 409, 429)}
Agent = Annotated[str, Header(alias="User-Agent", max_length=2000, include_in_schema=False)]


def get_doorkeeper(connection: HTTPConnection) -> Doorkeeper:
    return cast(Doorkeeper, connection.app.state.doorkeeper)


Door = Annotated[Doorkeeper, Depends(get_doorkeeper)]


def get_device(connection: HTTPConnection, door: Door) -> str:
    """The cookie by which a browser is known that has logged in before; empty for others."""
    return connection.cookies.get(door.device_cookie, "")


Device = Annotated[str, Depends(get_device)]


def get_accounts(door: Door, session: DbSession) -> Accounts:
    return door.accounts(session)


Service = Annotated[Accounts, Depends(get_accounts)]


class LoginOptions(BaseModel):
    """What a login page offers."""

    accounts: bool
    """Whether people log in at all."""
    registration: str
    has_users: bool
    oidc: str | None
    """Name of the other service to log in with."""
    password_min_length: int


def need_accounts(door: Doorkeeper) -> None:
    """Raises `Conflict` where nobody logs in."""
    if not door.is_on:
        raise Conflict("This server has no accounts.", hint="Start it with TUNESMITH_AUTH=on to have people log in.")


@router.get("/options", summary="Ways to log in")
@needs(Access.PUBLIC)
def login_options(door: Door, accounts: Service) -> LoginOptions:
    settings = door.settings
    return LoginOptions(
        accounts=door.is_on, registration=settings.registration, has_users=not accounts.users.is_empty(),
        oidc=settings.oidc_name if settings.oidc_issuer else None, password_min_length=settings.password_min_length,
    )  # fmt: skip


@router.post("/register", status_code=201, responses=REFUSED, summary="Make an account")
@needs(Access.PUBLIC)
def register(body: Register, door: Door) -> UserRead:
    """The first account is an administrator. An invitation is needed unless registration is open."""
    need_accounts(door)
    return UserRead.model_validate(door.register(body))


@router.post("/login", responses=REFUSED, summary="Log in with name and password")
@needs(Access.PUBLIC)
def login(body: Login, door: Door, device: Device, agent: Agent = "") -> Tokens:
    """An access token for a few minutes, and a refresh token that is good for one renewal. Ten failures a minute are allowed
    for one account from one address."""
    need_accounts(door)
    return door.begin_tokens(door.check_password(body.username, body.password.get_secret_value(), device), agent)


@router.post("/refresh", responses=REFUSED, summary="Renew an access token")
@needs(Access.PUBLIC, changes=False)
def refresh(body: Refresh, door: Door) -> Tokens:
    """Each refresh token works once; when one comes a second time, the whole login is ended."""
    need_accounts(door)
    return door.renew(body.refresh_token.get_secret_value())


@router.post("/forgot-password", status_code=202, responses=REFUSED, summary="Ask for a link to a new password")
@needs(Access.PUBLIC, changes=False)
def forgot_password(body: PasswordForgotten, door: Door) -> None:
    """By mail where that is set up, else an administrator has to give the link. The answer is the same for unknown names."""
    need_accounts(door)
    mail.send_password_link(door, body.username)


@router.post("/reset-password", status_code=204, responses=REFUSED, summary="Choose a new password with a link")
@needs(Access.PUBLIC)
def reset_password(body: PasswordReset, door: Door) -> None:
    """Ends every login of the account, with its tokens, and its API keys unless `keep_api_keys` is set."""
    need_accounts(door)
    token, password = body.token.get_secret_value(), body.password.get_secret_value()
    door.reset_password(token, password, keep_api_keys=body.keep_api_keys)


@router.get("/me", summary="Who is asking")
@needs(Access.ACCOUNT)
def read_me(accounts: Service) -> Me:
    """The account and what it may."""
    who = current()
    user = accounts.users.find(who.user_id) if who.user_id else None
    return Me(
        username=who.name, role=who.role, scopes=sorted(who.scopes), via=who.via,
        user=UserRead.model_validate(user) if user else None,
    )  # fmt: skip


@router.patch("/me", responses=REFUSED, summary="Change one's own profile")
def update_me(body: ProfileUpdate, accounts: Service) -> UserRead:
    user = me(accounts.users)
    given = body.model_dump(exclude_unset=True)
    accounts.users.change_email(user, given.pop("email", user.email))
    if given.get("full_name") is not None:
        user.full_name = given["full_name"]
    return UserRead.model_validate(user)


@router.post("/password", status_code=204, responses=REFUSED, summary="Change one's own password")
def change_password(body: PasswordChange, door: Door, device: Device) -> None:
    """Ends every login of the account, this one too. API keys stay good; they are revoked one by one."""
    current_password, password = body.current_password.get_secret_value(), body.password.get_secret_value()
    door.change_password(_own_id(), current_password, password, device)


def _own_id() -> int:
    user_id = current().user_id
    if user_id is None:
        raise Conflict("This server has no accounts.", hint="Start it with TUNESMITH_AUTH=on to have people log in.")
    return user_id


@router.post("/logout", status_code=204, responses=REFUSED, summary="End this login")
@needs(Access.ACCOUNT)
def logout(accounts: Service, door: Door, response: Response) -> None:
    """With an API key: revoke that key."""
    if current().via == "key":
        accounts.revoke_key(current().user_id, int(current().credential))
        return
    accounts.users.end_login(current().credential)
    leave(door, response)


@router.post("/logout-everywhere", status_code=204, responses=REFUSED, summary="End every login")
def logout_everywhere(accounts: Service, door: Door, response: Response) -> None:
    """API keys stay good; they are revoked one by one."""
    accounts.users.end_logins(_own_id())
    leave(door, response)


@router.get("/logins", summary="Where one is logged in")
def list_logins(accounts: Service) -> list[LoginRead]:
    here = current().credential
    rows = accounts.users.logins(_own_id())
    return [LoginRead.model_validate(row).model_copy(update={"is_this": row.id == here}) for row in rows]


@router.delete("/logins/{login_id}", status_code=204, responses=REFUSED, summary="End one login")
def end_login(login_id: Annotated[str, Path(max_length=36)], accounts: Service) -> None:
    found = accounts.users.login(login_id)
    if found is None or found.user_id != _own_id():
        raise NotFound("There is no such login.", hint="It may have ended already.")
    accounts.users.end_login(login_id)


@router.get("/keys", summary="One's own API keys")
def list_keys(accounts: Service) -> list[KeyRead]:
    """Newest first; never the keys themselves."""
    return [KeyRead.model_validate(row) for row in accounts.keys.of(_own_id())]


@router.post("/keys", status_code=201, responses=REFUSED, summary="Make an API key")
def create_key(body: KeyCreate, accounts: Service) -> KeyMade:
    """The answer is the only place where the key is ever shown."""
    row, key = accounts.create_key(me(accounts.users), body)
    return KeyMade(**KeyRead.model_validate(row).model_dump(), key=key)


@router.delete("/keys/{key_id}", status_code=204, responses=REFUSED, summary="Revoke an API key")
def revoke_key(key_id: Annotated[int, Path(ge=1, lt=2**63)], accounts: Service) -> None:
    accounts.revoke_key(_own_id(), key_id)


declare(router, read=Access.PERSON, write=Access.PERSON)
