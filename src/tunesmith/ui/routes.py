"""The list of pages, and their files."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from fastapi.responses import FileResponse

from tunesmith.core.acting import Scope
from tunesmith.core.errors import NotFound
from tunesmith.http.policy import Access, declare, needs
from tunesmith.ui import files
from tunesmith.ui.pages import (
    account,
    audit,
    dashboard,
    datasets,
    deployments,
    evaluations,
    jobs,
    login,
    models,
    new_job,
    playground,
    reference,
    registry,
    settings,
    system,
    users,
)
from tunesmith.ui.render import HEADERS

router = APIRouter(include_in_schema=False)
for part in (
    dashboard,
    datasets,
    new_job,
    jobs,
    models,
    registry,
    evaluations,
    deployments,
    playground,
    settings,
    system,
    reference,
    login,
    account,
    users,
    audit,
):
    router.include_router(part.router)

FOREVER = "public, max-age=31536000, immutable"


@router.get("/icons/{name}.svg")
@needs(Access.PUBLIC)
def icon(name: str) -> Response:
    """One icon, for `<use href="/icons/<name>.svg#i">` in what scripts draw. Raises `NotFound`."""
    drawn = files.icons().get(name)
    if drawn is None:
        raise NotFound(f"There is no icon {name!r}.")
    svg = f'<svg xmlns="http://www.w3.org/2000/svg"><symbol id="i" viewBox="0 0 24 24">{drawn}</symbol></svg>'
    headers = {**HEADERS, "Cache-Control": "public, max-age=86400"}
    return Response(svg, media_type="image/svg+xml", headers=headers)


@router.get("/static/{digest}/{name:path}")
@needs(Access.PUBLIC)
def static(request: Request, digest: str, name: str) -> Response:
    """A file of the pages. An older page gets today's file, and keeps it for no longer than itself."""
    file = files.find(name)
    headers = {
        **HEADERS,
        "Cache-Control": FOREVER if digest == files.digest() else "no-cache",
        "Vary": "Accept-Encoding",
    }
    if not file.is_text or "gzip" not in request.headers.get("accept-encoding", ""):
        return FileResponse(file.path, media_type=file.media_type, headers=headers)
    return Response(files.packed(file), media_type=file.media_type, headers={**headers, "Content-Encoding": "gzip"})


declare(router, read=Scope.READ, write=Scope.READ)
