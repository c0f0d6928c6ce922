"""The files that pages load: what is served, under which address, and how it is packed.

An address holds a digest of all files (`/static/<digest>/js/app.js`), so browsers may keep what they have loaded for good,
and modules that import each other by relative paths always get each other's right version.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from functools import cache, lru_cache
from pathlib import Path
from typing import NamedTuple

from tunesmith.core.errors import NotFound, Unavailable

STATIC = Path(__file__).parent / "static"
VENDOR = STATIC / "vendor"
MEDIA_TYPES = {
    ".js": "text/javascript",
    ".css": "text/css",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".woff2": "font/woff2",
}
"""Of what is served; other files in the folder are not looked for."""


class File(NamedTuple):
    path: Path
    changed_ns: int
    size_bytes: int

    @property
    def media_type(self) -> str:
        return MEDIA_TYPES[self.path.suffix]

    @property
    def is_text(self) -> bool:
        return self.path.suffix in (".js", ".css", ".svg")


def _file(path: Path) -> File:
    stat = path.stat()
    return File(path, stat.st_mtime_ns, stat.st_size)


def files() -> dict[str, File]:
    """Everything that is served, by its path below `/static/<digest>/`. About half a millisecond."""
    return {
        path.relative_to(STATIC).as_posix(): _file(path)
        for path in sorted(STATIC.rglob("*"))
        if path.suffix in MEDIA_TYPES and path.is_file()
    }


@lru_cache(maxsize=1000)
def _content_digest(file: File) -> str:
    return hashlib.sha256(file.path.read_bytes()).hexdigest()


def digest() -> str:
    """Of all files together; changes when any of them does."""
    whole = hashlib.sha256()
    for name, file in files().items():
        whole.update(f"{name} {_content_digest(file)}\n".encode())
    return whole.hexdigest()[:16]


def find(name: str) -> File:
    """Raises `NotFound` for anything that is not on the list."""
    file = files().get(name)
    if file is None:
        raise NotFound(f"There is no file {name!r}.", hint="Reload the page: it may be older than the server.")
    return file


@lru_cache(maxsize=300)
def packed(file: File) -> bytes:
    """Its content compressed with gzip; made once."""
    return gzip.compress(file.path.read_bytes(), mtime=0)


@cache
def icons() -> dict[str, str]:
    """The inner SVG of every lucide icon, by name. Raises `Unavailable` when the browser's libraries are not there."""
    try:
        loaded: dict[str, str] = json.loads((VENDOR / "icons.json").read_text())
    except FileNotFoundError:
        raise Unavailable("The pages' libraries are not there.", hint="Run make .venv/.vendor, then reload.") from None
    return loaded
