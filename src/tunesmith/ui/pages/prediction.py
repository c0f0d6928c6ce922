"""What forms for models that do not chat are drawn from."""

from __future__ import annotations

from typing import Any

from tunesmith.recipes.model_about import ModelAbout

MOST_COLUMNS = 300
"""Fields of a form; a row with more columns comes from a file or a program."""


def predict_columns(about: ModelAbout) -> list[dict[str, Any]]:
    """The columns of a row: name, type, choices as a select takes them, and a number for the field."""
    return [
        {
            "name": str(column["name"]), "type": str(column.get("type", "")), "place": place,
            "choices": [(str(choice), str(choice)) for choice in column.get("choices") or ()],
        }
        for place, column in enumerate(about.columns[:MOST_COLUMNS])
    ]  # fmt: skip
