"""REST routes of quotas."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path

from tunesmith.core.acting import Scope, current
from tunesmith.features.accounts.api import Service
from tunesmith.features.jobs import quotas
from tunesmith.http.policy import Access, needs
from tunesmith.schemas.accounts import Quota

router = APIRouter(tags=["users"])


@router.get("/auth/quotas", summary="How much of one's own quotas is used")
@needs(Access.ACCOUNT)
def own_quotas(accounts: Service) -> list[Quota]:
    """Empty where there are no accounts."""
    user = accounts.users.find(current().user_id or 0)
    return quotas.read(accounts.settings, accounts.session, user) if user else []


@router.get("/users/{user_id}/quotas", summary="How much of its quotas an account uses")
@needs(Scope.ADMIN)
def user_quotas(user_id: Annotated[int, Path(ge=1, lt=2**63)], accounts: Service) -> list[Quota]:
    return quotas.read(accounts.settings, accounts.session, accounts.users.get(user_id))
