"""The list of pages, and their files."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from fastapi import APIRouter, Response
from fastapi.responses import FileResponse, HTMLResponse
from jinja2 import Environment, PackageLoader

from tunesmith.core.errors import NotFound
from tunesmith.core.version import VERSION

router = APIRouter(include_in_schema=False)

STATIC = Path(__file__).parent / "static"
FILES = {"app.js": "text/javascript", "chart.js": "text/javascript", "style.css": "text/css"}
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


@router.get("/")
def home() -> HTMLResponse:
    """Datasets, jobs with a live loss chart, and a chat."""
    return HTMLResponse(_templates().get_template("home.html").render(version=VERSION), headers=HEADERS)


@router.get("/static/{name}")
def static(name: str) -> Response:
    if name not in FILES:
        raise NotFound()
    return FileResponse(STATIC / name, media_type=FILES[name], headers=HEADERS)
