"""API keys that `tunesmith login` has stored: one for each server, in a file that only its owner reads."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from tunesmith.core.errors import InvalidInput
from tunesmith.core.job_dir import write_atomic


def path() -> Path:
    """`~/.config/tunesmith/credentials.json`, or where XDG says."""
    base = os.environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "tunesmith" / "credentials.json"


def find(url: str) -> str | None:
    """The key for the server at `url`: `TUNESMITH_API_KEY`, else the stored one. It is never sent to another server."""
    return os.environ.get("TUNESMITH_API_KEY") or _read().get(url, {}).get("key")


def store(url: str, username: str, key: str) -> Path:
    """Keep a key; where it is kept."""
    file = path()
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_atomic(file, _read() | {url: {"username": username, "key": key}}, mode=0o600)
    return file


def forget(url: str) -> None:
    known = _read()
    if known.pop(url, None) is not None:
        write_atomic(path(), known, mode=0o600)


def _read() -> dict[str, Any]:
    """Raises `InvalidInput` for a file that is no JSON object."""
    with contextlib.suppress(FileNotFoundError):
        try:
            return dict(json.loads(path().read_bytes()))
        except ValueError:
            raise InvalidInput(f"{path()} cannot be read.", hint="Delete it and log in again.") from None
    return {}
