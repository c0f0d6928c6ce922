"""The page of one's own account: profile, API keys, logins, quotas."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse

from tunesmith.core.acting import ROLE_SCOPES, Scope, current
from tunesmith.core.clock import utc_now
from tunesmith.features.accounts.api import Door, Service, list_logins
from tunesmith.features.accounts.service import Accounts
from tunesmith.features.jobs import quotas
from tunesmith.http.policy import Access, needs
from tunesmith.ui.render import page

router = APIRouter(include_in_schema=False)

TABS = (("profile", "Profile"), ("keys", "API keys"), ("logins", "Logins"), ("quotas", "Quotas"))
Tab = Literal["profile", "keys", "logins", "quotas"]
SCOPES = {
    Scope.READ: "Look at everything that you see yourself",
    Scope.TRAIN: "Upload data, start and change jobs",
    Scope.DEPLOY: "Load models and chat with them",
    Scope.ADMIN: "Everything, users and settings too",
}
"""What a key with that scope may do, for people."""
EXPIRIES = (("30", "30 days"), ("90", "90 days"), ("365", "1 year"), ("", "Never"))
QUOTAS = {"storage_bytes": "Storage", "jobs": "Jobs waiting or running", "gpu_hours": "GPU hours this month"}


@router.get("/account")
@needs(Access.PERSON)
def show(request: Request, door: Door, accounts: Service, tab: Annotated[Tab, Query()] = "profile") -> HTMLResponse:
    """One tab of it; without accounts, how to have them."""
    if not current().user_id:
        return page(request, "account/off.html", title="Account", section="account")
    return page(
        request,
        f"account/{tab}.html",
        title="Account",
        section="account",
        tab=tab,
        tabs=TABS,
        least=door.settings.password_min_length,
        **_of(tab, accounts),
    )


def _of(tab: Tab, accounts: Accounts) -> dict[str, Any]:
    """What that tab shows."""
    who = current()
    user = accounts.users.get(who.user_id or 0)
    if tab == "keys":
        allowed = [(scope, text) for scope, text in SCOPES.items() if scope in ROLE_SCOPES[who.role]]
        return {"keys": accounts.keys.of(user.id), "now": utc_now(), "scopes": allowed, "expiries": EXPIRIES}
    if tab == "logins":
        return {"logins": list_logins(accounts)}
    if tab == "quotas":
        return {"quotas": quotas.read(accounts.settings, accounts.session, user), "names": QUOTAS}
    return {"user": user}
