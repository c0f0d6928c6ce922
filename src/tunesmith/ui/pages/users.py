"""The page of users: accounts with their roles and quotas, and invitations. For administrators."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse

from tunesmith.core.acting import Role, Scope
from tunesmith.features.accounts.api import Door, Service
from tunesmith.http.pagination import Cursor
from tunesmith.http.policy import needs
from tunesmith.ui.render import page

router = APIRouter(include_in_schema=False)

PAGE_ROWS = 50
ROLES = (
    (Role.ADMIN, "Administrator", "everything, users and settings too"),
    (Role.MEMBER, "Member", "uploads data, trains and deploys"),
    (Role.VIEWER, "Viewer", "looks at what the team shares"),
)
TABS = (("users", "Users"), ("invitations", "Invitations"))


@router.get("/users")
@needs(Scope.ADMIN)
def show(
    request: Request,
    door: Door,
    accounts: Service,
    q: Annotated[str, Query(max_length=100)] = "",
    role: Annotated[str, Query(max_length=20)] = "",
    tab: Annotated[str, Query(max_length=20)] = "users",
    cursor: Cursor = None,
) -> HTMLResponse:
    """The list, or the invitations; a role that does not exist is passed over. Without accounts, how to have them."""
    if not door.is_on:
        return page(request, "account/off.html", title="Users", section="users")
    role = role if role in tuple(Role) else ""
    tab = tab if tab in dict(TABS) else "users"
    if tab == "invitations":
        rows, following = accounts.links.page(accounts.links.invitations(), cursor=cursor, limit=PAGE_ROWS)
    else:
        wanted = accounts.users.filtered(role=role or None, text_like=q or None)
        rows, following = accounts.users.page(wanted, cursor=cursor, limit=PAGE_ROWS)  # type: ignore[assignment]
    return page(
        request,
        f"users/{tab}.html",
        title="Users",
        section="users",
        tab=tab,
        tabs=TABS,
        rows=rows,
        count=accounts.users.count(),
        q=q,
        role=role,
        roles=ROLES,
        defaults=door.settings,
        next_url=_address(q, role, tab, following) if following else "",
        first_url=_address(q, role, tab) if cursor else "",
    )


def _address(q: str, role: str, tab: str, cursor: int | None = None) -> str:
    asked = {"q": q, "role": role, "tab": "" if tab == "users" else tab, "cursor": cursor}
    query = urlencode({name: value for name, value in asked.items() if value})
    return f"/users?{query}" if query else "/users"
