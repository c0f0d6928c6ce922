"""What an evaluation has left, read back. Imports no training library."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tunesmith.core.completion import AddScores, Finished

SCORES_FILE = "evaluation/scores.json"
"""Below the artifacts."""


def read_scores(artifacts: Path) -> dict[str, Any] | None:
    """None where there is nothing that can be read."""
    try:
        found = json.loads((artifacts / SCORES_FILE).read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and isinstance(found.get("scores"), dict) else None


def on_completed(finished: Finished) -> list[AddScores]:
    """The scores go to the version that was evaluated."""
    found = read_scores(finished.dir.artifacts)
    if found is None:
        return []
    about = {"job_id": finished.spec.job_id, "dataset": found.get("dataset")}
    return [AddScores(name=_name(found), scores=found["scores"], about=about)]


def _name(found: dict[str, Any]) -> str:
    """What an evaluation is called in the registry: its dataset, or that it ran benchmarks alone."""
    dataset = found.get("dataset")
    if not dataset:
        return "benchmarks"
    return f"{dataset['name']} (held out)" if dataset.get("held_out_by") else str(dataset["name"])
