"""Templates made into pages, and errors into pages. Nothing on a page comes from another host, and nothing runs inline."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from tunesmith.core.acting import Role, Scope, current
from tunesmith.core.errors import TunesmithError
from tunesmith.core.version import VERSION
from tunesmith.http.errors import retry_after
from tunesmith.recipes.catalog import RECIPES
from tunesmith.ui import files, words
from tunesmith.ui.navigation import navigation

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data: blob:; media-src 'self' blob:; font-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
Breadcrumb = Sequence[tuple[str, str]]


def icon(name: str, label: str = "") -> Markup:
    """A lucide icon, drawn in the page; `label` for those who hear it, else it is decoration. Raises `KeyError`."""
    said = Markup('role="img" aria-label="{}"').format(label) if label else Markup('aria-hidden="true"')
    return Markup('<svg class="icon" viewBox="0 0 24 24" {}>{}</svg>').format(said, Markup(files.icons()[name]))


def may(scope: str) -> bool:
    """Whether who looks at the page has that scope."""
    return current().may(Scope(scope))


def may_change(thing: Any) -> bool:
    """Whether a dataset or job is theirs to change, so that its buttons are shown; the server looks again."""
    who = current()
    return who.may(Scope.TRAIN) and (who.user_id is None or who.role == Role.ADMIN or thing.owner == who.name)


def chats(method: str) -> bool:
    """Whether what a method makes is talked to, in the playground; other models are tried on the job's page."""
    return next((recipe.task == "text-generation" for recipe in RECIPES if recipe.name == method), False)


@cache
def templates() -> Environment:
    made = Environment(
        loader=PackageLoader("tunesmith.ui"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(words.FILTERS)
    made.globals.update(icon=icon, lucide=icon, version=VERSION, may=may, may_change=may_change, chats=chats)
    return made


def page(
    request: Request,
    template: str,
    *,
    title: str,
    section: str = "",
    breadcrumb: Breadcrumb = (),
    status: int = 200,
    **context: Any,
) -> HTMLResponse:
    """`template` as an answer.

    `section` is the entry of the navigation that the page belongs to; `breadcrumb` are (text, address) of the pages above.
    A template also knows `here` (this address with its query), `asset(path)` (address of a file), `icon(name)`, `who` looks,
    whether `accounts_on`, what they `may(scope)` and `may_change(thing)`, and `csrf`, which each change must bring.
    """
    folder = f"/static/{files.digest()}/"
    known = files.files()
    who, door = current(), request.app.state.doorkeeper

    def asset(name: str) -> str:
        if name not in known:
            raise LookupError(f"{name} is not among the files of the pages")
        return folder + name

    query = request.scope["query_string"].decode("latin-1")
    html = (
        templates()
        .get_template(template)
        .render(
            **context,
            look=request.app.state.tunesmith.settings,
            title=title,
            section=section,
            breadcrumb=breadcrumb,
            asset=asset,
            static=folder,
            who=who,
            navigation=navigation(who),
            accounts_on=door.is_on,
            csrf=door.csrf_token(who) if who.via == "session" else "",
            here=request.scope["path"] + (f"?{query}" if query else ""),
        )
    )
    return HTMLResponse(html, status_code=status, headers=HEADERS)


def error_page(request: Request, error: TunesmithError) -> HTMLResponse:
    """What went wrong and what to do, with the error's own status."""
    title = TITLES.get(error.status, "Something went wrong")
    drawn = page(request, "error.html", title=title, status=error.status, error=error)
    if again := retry_after(error):
        drawn.headers.update(again)
        drawn.headers["Refresh"] = again["Retry-After"]  # the browser loads the page again by itself
    return drawn


TITLES = {
    400: "This cannot be read",
    403: "Not allowed",
    404: "Not found",
    422: "This address does not work",
    503: "Not ready",
}
