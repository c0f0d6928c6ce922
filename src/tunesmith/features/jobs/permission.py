"""Who may run which method. Asked wherever a request is checked and wherever a job enters the queue, so that no way leads around."""

from __future__ import annotations

from tunesmith.core.acting import Scope, current
from tunesmith.core.errors import PermissionDenied
from tunesmith.core.recipe import Recipe
from tunesmith.settings import Settings, variable_of

WHO = {
    Scope.READ: "anybody who may read",
    Scope.TRAIN: "members, with keys of scope train",
    Scope.DEPLOY: "members, with keys of scope deploy",
    Scope.ADMIN: "administrators, with keys of scope admin",
}


def check(recipe: Recipe) -> None:
    """Raises `PermissionDenied` when who is at work may not run it."""
    if why := _refusal(recipe):
        raise PermissionDenied(why, hint="Ask an administrator to run it, or choose another method.")


def check_request(settings: Settings, recipe: Recipe, *, runs: bool = True) -> None:
    """As `check`, and for a method that is switched off on this server. Who only asks for a plan (`runs` is false) need not be
    one of those who may train."""
    if _is_off(settings, recipe):
        hint = f"The administrator sets {variable_of(recipe.switch)}=true; the other methods need no such setting."
        raise PermissionDenied(f"{recipe.title} is switched off on this server.", hint=hint)
    if runs or recipe.permission != Scope.TRAIN:
        check(recipe)


def why_not(settings: Settings, recipe: Recipe) -> str:
    """Why who is at work cannot run it here, in words; empty when they can."""
    if _is_off(settings, recipe):
        return f"It is switched off on this server; the administrator sets {variable_of(recipe.switch)}=true."
    return _refusal(recipe) or recipe.unavailable_reason() or ""


def _refusal(recipe: Recipe) -> str:
    if current().may(recipe.permission):
        return ""
    return f"{recipe.title} is for {WHO[recipe.permission]}."


def _is_off(settings: Settings, recipe: Recipe) -> bool:
    return bool(recipe.switch) and not settings.model_dump(include={recipe.switch})[recipe.switch]
