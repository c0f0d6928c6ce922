"""What a compression has left, read back: a model in each format. Imports no training library."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tunesmith.core.completion import Finished, RegisterModel
from tunesmith.recipes.language_models import GGUF, LANGUAGE_MODEL

ENTRY = "compression.json"
"""In each format's folder: its line of the report."""
SCORES = {"perplexity": "check_perplexity", "perplexity_ratio": "perplexity_ratio", "tokens_per_s": "tokens_per_s"}
"""What was measured → its name at the version: a perplexity on the check's text is not one on held-out rows."""


def entries_of(artifacts: Path) -> list[dict[str, Any]]:
    """The formats that a job has left, each with `folder` and `file` as absolute paths."""
    found = []
    for path in sorted((artifacts / "compressed").glob(f"*/{ENTRY}")):
        entry = json.loads(path.read_bytes())
        found.append({**entry, "folder": str(path.parent), "path": str(path.parent / entry["file"])})
    return found


def on_completed(finished: Finished) -> list[RegisterModel]:
    """A version for each format, under names such as `support-bot-q4_k_m`."""
    return [
        RegisterModel(
            kind=(GGUF if entry["file"] else LANGUAGE_MODEL).name,
            path=Path(entry["path"] if entry["file"] else entry["folder"]),
            suffix=entry["format"],
            metrics={name: entry[score] for score, name in SCORES.items() if entry.get(score) is not None},
            tags=[entry["format"]],
            lineage={"format": entry["format"]},
            hyperparameters={"format": entry["format"]},
            is_made_from_model=True,
        )
        for entry in entries_of(finished.dir.artifacts)
    ]
