"""What is on this machine: folders in the home, the hub's cache, and what jobs have made. Read from files alone.

Nothing is kept but in memory, and that only as long as the files are as old as they were.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from tunesmith.core.acting import current
from tunesmith.core.errors import TunesmithError
from tunesmith.core.job_dir import JobDir
from tunesmith.core.recipe import Outcome
from tunesmith.features.catalog.cards import front_matter, read_card
from tunesmith.features.catalog.starter import STARTER_MODEL
from tunesmith.recipes.catalog import get_recipe
from tunesmith.recipes.model_info import ModelInfo, read_model_info
from tunesmith.schemas.models import ModelRead
from tunesmith.settings import Settings

WHOLE_MODEL_FILE = "config.json"
REMEMBERED = 10_000
"""Models whose description is kept in memory."""


def base_models(settings: Settings) -> dict[str, ModelRead]:
    """By name; a folder in the home goes before the hub's cache."""
    return {model.name: model for model in (*_hub_models(), *_local_models(settings))}


def tuned_models(settings: Settings) -> Iterator[ModelRead]:
    """Newest first. The job directory says it all: what was trained on what, and how well it went."""
    seen = current().jobs_seen()
    names = [path.name for path in settings.jobs_dir.iterdir()] if settings.jobs_dir.is_dir() else []
    names = [name for name in names if name.isdigit() and (seen is None or int(name) in seen)]
    for job_id in sorted(map(int, names), reverse=True):
        model = tuned_model(settings, job_id)
        if model is not None:
            yield model


def tuned_model(settings: Settings, job_id: int) -> ModelRead | None:
    """What a job made, or None, as well where that may not be seen."""
    if not may_see(job_id):
        return None
    job_dir = JobDir(settings.jobs_dir / str(job_id))
    try:
        changed = job_dir.exit.stat().st_mtime_ns
    except FileNotFoundError:
        return None
    return _tuned(str(job_dir.path), changed)


def may_see(job_id: int) -> bool:
    """Whether a job's files are for who is at work."""
    seen = current().jobs_seen()
    return seen is None or job_id in seen


def made_model(job_dir: JobDir) -> Path | None:
    """The model folder of a completed job, or None."""
    ended = job_dir.read_exit()
    if ended is None or ended.outcome != Outcome.COMPLETED or not job_dir.spec.is_file():
        return None
    produces = get_recipe(job_dir.read_spec().recipe).produces
    folder = job_dir.artifacts / produces
    return folder if produces and folder.is_dir() else None


def info_of(folder: Path) -> ModelInfo | None:
    """The architecture in numbers; None when the folder cannot be read."""
    try:
        changed = max(file.stat().st_mtime_ns for file in (folder / WHOLE_MODEL_FILE, *folder.glob("*.safetensors")))
    except FileNotFoundError:
        return None
    return _info(str(folder), changed)


@lru_cache(REMEMBERED)
def _info(folder: str, _changed: int) -> ModelInfo | None:
    try:
        return read_model_info(Path(folder))
    except TunesmithError:
        return None


@lru_cache(REMEMBERED)
def _tuned(folder: str, _changed: int) -> ModelRead | None:
    job_dir = JobDir(folder)
    made = made_model(job_dir)
    if made is None:
        return None
    spec, ended = job_dir.read_spec(), job_dir.read_exit()
    weights = sum(file.stat().st_size for file in made.glob("*.safetensors"))
    return ModelRead(
        name=f"job:{spec.job_id}",
        title=spec.name,
        kind="tuned",
        source="job",
        job_id=spec.job_id,
        output_name=spec.output_name or f"job-{spec.job_id}",
        base_model=spec.model.name if spec.model else None,
        method=spec.recipe,
        dataset_name=spec.dataset.name if spec.dataset else None,
        dataset_id=dataset_id_of(spec.dataset.path) if spec.dataset else None,
        size_bytes=weights,
        metrics=dict(ended.metrics) if ended else {},
        created_at=datetime.fromtimestamp(job_dir.exit.stat().st_mtime, UTC),
    )


def dataset_id_of(path: str) -> int | None:
    """The dataset that a job's rows came from: they lie in `datasets/<id>/versions/<digest>/`."""
    parts = Path(path).parts
    place = len(parts) - 1 - parts[::-1].index("versions") if "versions" in parts else 0
    return int(parts[place - 1]) if place > 0 and parts[place - 1].isdigit() else None


def _local_models(settings: Settings) -> Iterator[ModelRead]:
    for folder in sorted(settings.models_dir.iterdir()) if settings.models_dir.is_dir() else ():
        if folder.name.startswith(".") or not (folder / WHOLE_MODEL_FILE).is_file():
            continue
        name = folder.name.replace("--", "/", 1)
        yield _base(name, folder, "starter" if name == STARTER_MODEL else "local")


def _hub_models() -> Iterator[ModelRead]:
    """Each model of the hub's cache, by its newest snapshot."""
    from huggingface_hub import constants

    for repo in sorted(Path(constants.HF_HUB_CACHE).glob("models--*")):
        snapshots = [path.parent for path in repo.glob(f"snapshots/*/{WHOLE_MODEL_FILE}")]
        if snapshots:
            newest = max(snapshots, key=lambda path: path.stat().st_mtime)
            yield _base(repo.name.removeprefix("models--").replace("--", "/", 1), newest, "hub_cache")


def _base(name: str, folder: Path, source: Any) -> ModelRead:
    """What the folder says; a folder that cannot be read is listed by its name alone."""
    title = name.rpartition("/")[2]
    info = info_of(folder)
    if info is None:
        return ModelRead(name=name, title=title, kind="base", source=source)
    return ModelRead(
        name=name,
        title=title,
        kind="base",
        source=source,
        num_parameters=info.num_parameters,
        size_bytes=info.size_bytes,
        architecture=info.architecture,
        context_length=info.context_length,
        licence=_licence(folder / "README.md"),
        created_at=datetime.fromtimestamp(folder.stat().st_mtime, UTC),
    )


def _licence(card: Path) -> str | None:
    try:
        return _licence_in(str(card), card.lstat().st_mtime_ns)
    except OSError:
        return None


@lru_cache(REMEMBERED)
def _licence_in(card: str, _changed: int) -> str | None:
    found = front_matter(read_card(Path(card))).get("license")
    return found if isinstance(found, str) else None
