"""Models at hand: folders in the home, the hub's cache, and what jobs have made. Read from files alone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tunesmith.core.errors import InvalidInput, NotFound, TunesmithError
from tunesmith.core.job_dir import JobDir
from tunesmith.core.job_spec import ModelRef
from tunesmith.core.recipe import Outcome
from tunesmith.recipes.catalog import get_recipe
from tunesmith.recipes.model_info import ModelInfo, read_model_info
from tunesmith.schemas.models import ModelRead
from tunesmith.settings import Settings
from tunesmith.storage.database import Session

HUB_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}(/[A-Za-z0-9][A-Za-z0-9._-]{0,95})?")
"""A hub id, `organisation/name`, or a local folder's plain name. No `..`, no absolute paths, no links elsewhere."""
JOB_NAME = re.compile(r"job:([1-9][0-9]{0,18})")
MERGED_BASE = "base_model"
"""Artifact of a job that went on from an adapter: the base with that adapter merged in."""
WHOLE_MODEL_FILE = "config.json"


def list_models(settings: Settings) -> list[ModelRead]:
    """Base models by name, then what jobs made, newest first."""
    found = {model.name: model for model in _hub_models(settings)}
    found |= {model.name: model for model in _local_models(settings)}
    return [*(found[name] for name in sorted(found, key=str.lower)), *_tuned_models(settings)]


def get_model(settings: Settings, name: str) -> ModelRead:
    """One model by name. Raises `NotFound` saying which there are."""
    check_name(name)
    for model in list_models(settings):
        if model.name == name:
            return model
    raise _not_here(settings, name)


def check_name(name: str) -> None:
    """Raise `InvalidInput` for what cannot be a model's name, such as a path."""
    if (HUB_NAME.fullmatch(name) and ".." not in name) or JOB_NAME.fullmatch(name):
        return
    raise InvalidInput(
        f"{name[:80]!r} is not a model's name.",
        hint="Use a hub id such as HuggingFaceTB/SmolLM2-135M-Instruct, a name from the list of models, or job:7.",
        details=[{"loc": "model", "message": "not a hub id, a local name or job:<id>"}],
    )


def resolve_model(settings: Settings, session: Session | None, name: str) -> ModelRef:
    """Where a model is: a local folder, the hub's cache, a job's result; else the hub id for the worker to fetch.

    Raises `InvalidInput` for what is no name, `NotFound` when it is not here and no hub may be asked.
    """
    check_name(name)
    if job := JOB_NAME.fullmatch(name):
        return _of_job(settings, int(job[1]), name)
    if folder := find_base(settings, name):
        return ModelRef(name=name, path=str(folder))
    if settings.hub_offline or "/" not in name:
        raise _not_here(settings, name)
    return ModelRef(name=name, path=name)


def find_base(settings: Settings, name: str) -> Path | None:
    """The folder of a base model that is on this machine, or None."""
    for folder in (settings.models_dir / name.replace("/", "--"), settings.models_dir / name):
        if _is_inside(folder, settings.models_dir) and (folder / WHOLE_MODEL_FILE).is_file():
            return folder.resolve()
    if "/" not in name:
        return None
    import huggingface_hub

    config = huggingface_hub.try_to_load_from_cache(name, WHOLE_MODEL_FILE)
    cached = Path(config).parent if isinstance(config, str) else None
    return cached if cached and any(cached.glob("*.safetensors")) else None


def model_info(ref: ModelRef) -> ModelInfo | None:
    """The base model's architecture; None while it is still to be fetched. Raises as `read_model_info`."""
    path = Path(ref.path)
    return read_model_info(path) if path.is_absolute() and path.is_dir() else None


def _is_inside(path: Path, root: Path) -> bool:
    return path.resolve().is_relative_to(root.resolve()) and path.resolve() != root.resolve()


def _of_job(settings: Settings, job_id: int, name: str) -> ModelRef:
    job_dir = JobDir(settings.jobs_dir / str(job_id))
    folder = _made_model(job_dir)
    if folder is None:
        raise NotFound(
            f"Job {job_id} has no finished model.",
            hint="Wait until it is completed; GET /models/ lists those that are.",
        )
    if (folder / WHOLE_MODEL_FILE).is_file():
        return ModelRef(name=name, path=str(folder))
    base = job_dir.read_spec().model
    merged = job_dir.artifacts / MERGED_BASE
    if merged.is_dir():
        return ModelRef(name=name, path=str(merged), adapter_path=str(folder))
    if base is None or base.adapter_path:
        raise NotFound(
            f"The model under job {job_id}'s adapter is not kept.",
            hint="Train again from a base model, or with method standard.",
        )
    return ModelRef(name=name, path=base.path, revision=base.revision, adapter_path=str(folder))


def _made_model(job_dir: JobDir) -> Path | None:
    """The model folder of a completed job, or None."""
    ended = job_dir.read_exit()
    if ended is None or ended.outcome != Outcome.COMPLETED or not job_dir.spec.is_file():
        return None
    produces = get_recipe(job_dir.read_spec().recipe).produces
    folder = job_dir.artifacts / produces
    return folder if produces and folder.is_dir() else None


def _local_models(settings: Settings) -> Iterator[ModelRead]:
    for folder in sorted(settings.models_dir.iterdir()) if settings.models_dir.is_dir() else ():
        if folder.name.startswith(".") or not (folder / WHOLE_MODEL_FILE).is_file():
            continue
        name = folder.name.replace("--", "/", 1)
        starter = name == "HuggingFaceTB/SmolLM2-135M-Instruct"
        yield _base(name, folder, "starter" if starter else "local")


def _hub_models(settings: Settings) -> Iterator[ModelRead]:
    import huggingface_hub
    from huggingface_hub import constants

    try:
        repos = huggingface_hub.scan_cache_dir(constants.HF_HUB_CACHE).repos
    except huggingface_hub.CacheNotFound:
        return
    for repo in repos:
        snapshots = [r.snapshot_path for r in repo.revisions if (r.snapshot_path / WHOLE_MODEL_FILE).is_file()]
        if repo.repo_type == "model" and snapshots:
            yield _base(repo.repo_id, snapshots[-1], "hub_cache")


def _base(name: str, folder: Path, source: Any) -> ModelRead:
    """What the folder says; a folder that cannot be read is listed by its name alone."""
    try:
        info = read_model_info(folder)
    except TunesmithError:
        return ModelRead(name=name, kind="base", source=source)
    return ModelRead(
        name=name,
        kind="base",
        source=source,
        num_parameters=info.num_parameters,
        size_bytes=info.size_bytes,
        architecture=info.architecture,
        context_length=info.context_length,
        created_at=datetime.fromtimestamp(folder.stat().st_mtime, UTC),
    )


def _tuned_models(settings: Settings) -> Iterator[ModelRead]:
    """The job directory says it all: what was trained on what, and how well it went."""
    names = [path.name for path in settings.jobs_dir.iterdir()] if settings.jobs_dir.is_dir() else []
    for job_id in sorted((int(name) for name in names if name.isdigit()), reverse=True):
        job_dir = JobDir(settings.jobs_dir / str(job_id))
        folder = _made_model(job_dir)
        if folder is None:
            continue
        spec, ended = job_dir.read_spec(), job_dir.read_exit()
        yield ModelRead(
            name=f"job:{job_id}",
            kind="tuned",
            source="job",
            job_id=job_id,
            base_model=spec.model.name if spec.model else None,
            method=spec.recipe,
            size_bytes=sum(file.stat().st_size for file in folder.glob("*.safetensors")),
            metrics=dict(ended.metrics) if ended else {},
            created_at=datetime.fromtimestamp(folder.stat().st_mtime, UTC),
        )


def _not_here(settings: Settings, name: str) -> NotFound:
    names = [model.name for model in list_models(settings)][:10]
    there = f"At hand: {', '.join(names)}." if names else "No model is at hand yet; tunesmith demo brings one."
    offline = " The hub is switched off (TUNESMITH_HUB_OFFLINE)." if settings.hub_offline else ""
    return NotFound(f"There is no model {name!r} here.{offline}", hint=there)
