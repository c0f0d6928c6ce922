"""The tokens that a tuned model has learned to end an answer with: they must stop it wherever it is used."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

NAME = "generation_config.json"


def end_ids_of(config: Any) -> list[int]:
    """Those that a generation configuration names."""
    told = config.eos_token_id
    return [int(number) for number in (told if isinstance(told, list) else [told]) if number is not None]


def join_ends(model: Any, ids: Iterable[int]) -> None:
    """Let `ids` end an answer besides those that do already."""
    joined = list(dict.fromkeys([*end_ids_of(model.generation_config), *ids]))
    if joined:
        model.generation_config.eos_token_id = joined if len(joined) > 1 else joined[0]


def write_ends(model: Any, folder: Path) -> None:
    """Leave the model's generation configuration in `folder`, as adapters have none of their own."""
    (folder / NAME).write_text(model.generation_config.to_json_string(use_diff=True))


def ends_in(folder: str | Path | None) -> set[int]:
    """The end tokens that a model's or an adapter's folder names; none when it names none."""
    path = Path(folder) / NAME if folder else None
    if path is None or not path.is_file():
        return set()
    try:
        told = json.loads(path.read_bytes()).get("eos_token_id")
    except (ValueError, AttributeError):
        return set()
    return {number for number in (told if isinstance(told, list) else [told]) if isinstance(number, int)}
