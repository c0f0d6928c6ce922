"""What a training has left, read back for the registry. Imports no training library."""

from __future__ import annotations

import json
from typing import Any

from tunesmith.core.completion import Finished, RegisterModel, Result
from tunesmith.recipes.classifiers import TEXT_CLASSIFIER

REPORT = "report/report.json"
"""Below the artifacts."""


def results_of(finished: Finished, folder: str) -> list[Result]:
    """The model, with its scores on the held-out rows."""
    path = finished.dir.artifacts / folder
    if not TEXT_CLASSIFIER.matches(path):
        return []
    try:
        found: dict[str, Any] = json.loads((finished.dir.artifacts / REPORT).read_bytes())
    except (OSError, ValueError):
        found = {}
    scores, name = found.get("scores") or {}, found.get("measured_on") or "held-out rows"
    return [RegisterModel(kind=TEXT_CLASSIFIER.name, path=path, scores={str(name): scores} if scores else {})]
