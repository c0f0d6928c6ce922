"""REST routes of an administrator: accounts, invitations, quotas."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query

from tunesmith.core.acting import Role, Scope
from tunesmith.features.accounts import mail
from tunesmith.features.accounts.api import REFUSED, Door, Service
from tunesmith.http.pagination import Cursor, Limit
from tunesmith.http.policy import declare
from tunesmith.schemas.accounts import (
    InvitationCreate,
    InvitationMade,
    InvitationRead,
    KeyRead,
    PasswordLink,
    UserCreate,
    UserMade,
    UserRead,
    UserUpdate,
)
from tunesmith.schemas.common import Page

router = APIRouter()
users = APIRouter(prefix="/users", tags=["users"])
invitations = APIRouter(prefix="/invitations", tags=["users"])
UserId = Annotated[int, Path(ge=1, lt=2**63)]


@users.get("/", summary="List accounts")
def list_users(
    accounts: Service,
    role: Annotated[Role | None, Query()] = None,
    q: Annotated[str | None, Query(max_length=100, description="Part of a name or an address.")] = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[UserRead]:
    """Newest first."""
    rows, after = accounts.users.page(accounts.users.filtered(role=role, text_like=q), cursor=cursor, limit=limit)
    return Page(items=[UserRead.model_validate(row) for row in rows], next_cursor=after, total=accounts.users.count())


@users.post("/", status_code=201, responses=REFUSED, summary="Make an account for somebody")
def create_user(body: UserCreate, door: Door) -> UserMade:
    """Without a password the answer has a link under which its owner chooses one."""
    password = body.password.get_secret_value() if body.password else None
    hashed = door.new_hash(password, body.username, body.email) if password else None
    with door.database.unit_of_work() as session:
        accounts = door.accounts(session)
        user = accounts.create(body, hashed)
        link = None if hashed else door.link("reset-password", token=accounts.password_link(user).token)
    return UserMade(**UserRead.model_validate(user).model_dump(), link=link)


@users.get("/{user_id}", summary="One account")
def get_user(user_id: UserId, accounts: Service) -> UserRead:
    return UserRead.model_validate(accounts.users.get(user_id))


@users.patch("/{user_id}", responses=REFUSED, summary="Change role, quotas, or whether it is disabled")
def update_user(user_id: UserId, body: UserUpdate, accounts: Service) -> UserRead:
    """A disabled account is logged out everywhere, and its keys stop working."""
    return UserRead.model_validate(accounts.update(user_id, body))


@users.delete("/{user_id}", status_code=204, responses=REFUSED, summary="Remove an account")
def delete_user(user_id: UserId, accounts: Service) -> None:
    """What it owned becomes yours."""
    accounts.delete(user_id)


@users.post("/{user_id}/password-link", responses=REFUSED, summary="A link to a new password")
def make_password_link(user_id: UserId, door: Door) -> PasswordLink:
    """Works once, for a day; sent by mail too where that is set up."""
    with door.database.unit_of_work() as session:
        accounts = door.accounts(session)
        user = accounts.users.get(user_id)
        made = accounts.password_link(user)
    link = door.link("reset-password", token=made.token)
    return PasswordLink(link=link, sent=mail.password(door.settings, user, link), expires_at=made.row.expires_at)


@users.get("/{user_id}/keys", summary="Somebody's API keys")
def user_keys(user_id: UserId, accounts: Service) -> list[KeyRead]:
    accounts.users.get(user_id)
    return [KeyRead.model_validate(row) for row in accounts.keys.of(user_id)]


@users.delete("/{user_id}/keys/{key_id}", status_code=204, responses=REFUSED, summary="Revoke somebody's API key")
def revoke_user_key(user_id: UserId, key_id: Annotated[int, Path(ge=1, lt=2**63)], accounts: Service) -> None:
    accounts.revoke_key(user_id, key_id)


@invitations.get("/", summary="Invitations that were not used yet")
def list_invitations(accounts: Service, cursor: Cursor = None, limit: Limit = 50) -> Page[InvitationRead]:
    rows, after = accounts.links.page(accounts.links.invitations(), cursor=cursor, limit=limit)
    return Page(items=[InvitationRead.model_validate(row) for row in rows], next_cursor=after)


@invitations.post("/", status_code=201, responses=REFUSED, summary="Invite somebody")
def create_invitation(body: InvitationCreate, door: Door) -> InvitationMade:
    """The answer has the link, once; it goes out by mail too where that is set up and an address is given."""
    with door.database.unit_of_work() as session:
        made = door.accounts(session).invite(body)
    link = door.link("register", invitation=made.token)
    told: dict[str, Any] = InvitationRead.model_validate(made.row).model_dump()
    return InvitationMade(**told, link=link, sent=mail.invitation(door.settings, body.email, link))


@invitations.delete("/{invitation_id}", status_code=204, responses=REFUSED, summary="Take an invitation back")
def delete_invitation(invitation_id: UserId, accounts: Service) -> None:
    accounts.links.drop_invitation(invitation_id)


for part in (users, invitations):
    declare(part, read=Scope.ADMIN, write=Scope.ADMIN)
    router.include_router(part)
