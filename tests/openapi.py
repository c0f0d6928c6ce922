"""`python -m tests.openapi` writes docs/openapi.json, the API as it was last looked at."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from tunesmith.app import create_app
from tunesmith.settings import Settings

SNAPSHOT = Path(__file__).parent.parent / "docs" / "openapi.json"


def openapi() -> dict[str, Any]:
    """The API's description, as it goes out."""
    with tempfile.TemporaryDirectory() as home:
        return dict(json.loads(json.dumps(create_app(Settings(home=Path(home))).openapi())))


if __name__ == "__main__":
    SNAPSHOT.write_text(json.dumps(openapi(), indent=1, sort_keys=True) + "\n")
