"""The list of pages, and their files. Nothing on a page comes from another host, and nothing runs inline."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path

from fastapi import APIRouter, Response
from fastapi.responses import FileResponse, HTMLResponse
from jinja2 import Environment, PackageLoader

from tunesmith.core.errors import NotFound, Unavailable
from tunesmith.core.version import VERSION

router = APIRouter(include_in_schema=False)

STATIC = Path(__file__).parent / "static"
SWAGGER_PACKAGE = "fastapi_offline"
"""The package that ships Swagger UI's files; it is found, never imported."""
SWAGGER_FILES = frozenset({"swagger-ui-bundle.js", "swagger-ui.css"})
MEDIA_TYPES = {".js": "text/javascript", ".css": "text/css"}
FILES = SWAGGER_FILES | {path.name for path in STATIC.iterdir() if path.suffix in MEDIA_TYPES}
"""Everything that is served; nothing else is looked for."""
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


@cache
def _templates() -> Environment:
    return Environment(loader=PackageLoader("tunesmith.ui"), autoescape=True)


def _page(name: str) -> HTMLResponse:
    return HTMLResponse(_templates().get_template(name).render(version=VERSION), headers=HEADERS)


@cache
def _swagger_folder() -> Path:
    """Where Swagger UI's files are. Raises `Unavailable` when its package is not installed."""
    found = find_spec(SWAGGER_PACKAGE)
    if found is None or found.origin is None:
        raise Unavailable("The files of the API page are not installed.", hint="pip install fastapi-offline")
    return Path(found.origin).parent / "static"


@router.get("/")
def home() -> HTMLResponse:
    """Datasets, jobs with a live loss chart, and a chat."""
    return _page("home.html")


@router.get("/docs")
def docs() -> HTMLResponse:
    """Every operation of the API, to read and to try."""
    return _page("docs.html")


@router.get("/static/{name}")
def static(name: str) -> Response:
    if name not in FILES:
        raise NotFound()
    folder = _swagger_folder() if name in SWAGGER_FILES else STATIC
    return FileResponse(folder / name, media_type=MEDIA_TYPES[Path(name).suffix], headers=HEADERS)
