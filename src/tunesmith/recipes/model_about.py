"""What a model on this machine is asked and answers, read from its files and kept in memory. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from tunesmith.core.errors import TunesmithError
from tunesmith.core.job_spec import ModelRef
from tunesmith.core.tasks import TASKS, Answered, Asked
from tunesmith.recipes.catalog import get_kind, kind_of_ref

REMEMBERED = 1000


class ModelAbout(NamedTuple):
    """A model that is asked by `predict`."""

    kind: str
    kind_title: str
    task: str
    labels: tuple[str, ...] = ()
    columns: tuple[Mapping[str, Any], ...] = ()
    """Of a table's row; see `Description.inputs`."""

    @property
    def title(self) -> str:
        """Of its task, in words."""
        return TASKS[self.task].title if self.task in TASKS else self.task

    @property
    def asked(self) -> Asked | None:
        """None for a task that is not known: any JSON."""
        return TASKS[self.task].asked if self.task in TASKS else None

    @property
    def answered(self) -> Answered | None:
        """Likewise."""
        return TASKS[self.task].answered if self.task in TASKS else None


def about(ref: ModelRef) -> ModelAbout | None:
    """None for a model that chats, and for one that is not here. What cannot be read is told by its kind alone."""
    if ref.adapter_path or not Path(ref.path).is_absolute():
        return None
    try:
        changed = _changed(Path(ref.path))
    except OSError:
        return None
    kind = _kind(ref.kind, ref.path, changed)
    return _about(kind, ref.path, changed) if kind else None


def _changed(path: Path) -> int:
    """When the model's files were, the last of them. Raises `OSError` where there is nothing."""
    files = path.iterdir() if path.is_dir() else ()
    return max(one.stat().st_mtime_ns for one in (path, *files))


@lru_cache(REMEMBERED)
def _kind(name: str, path: str, _at: int) -> str | None:
    """Of a kind that does not chat."""
    kind = kind_of_ref(ModelRef(name="", path=path, kind=name))
    return kind.name if kind and kind.predicts else None


@lru_cache(REMEMBERED)
def _about(name: str, path: str, _at: int) -> ModelAbout:
    kind = get_kind(name)
    try:
        found = kind.describe(Path(path), None)
    except TunesmithError:
        return ModelAbout(name, kind.title, kind.tasks[0])
    return ModelAbout(name, kind.title, found.task or kind.tasks[0], found.labels, found.inputs)
