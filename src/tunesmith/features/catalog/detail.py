"""All that is known of one model at hand: where it comes from, its files, its check, its card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tunesmith.core.job_dir import JobDir
from tunesmith.core.job_spec import JobSpec
from tunesmith.features.catalog import library, service
from tunesmith.features.catalog.cards import read_card
from tunesmith.features.catalog.checksums import model_files
from tunesmith.features.catalog.usage import snippets
from tunesmith.recipes.plans import read_machine
from tunesmith.schemas.models import Lineage, LineageStep, ModelDetail, ModelFile, ModelRead
from tunesmith.settings import Settings

MAX_GENERATIONS = 50
"""Longest chain of trainings that is followed."""


def detail(settings: Settings, name: str, url: str) -> ModelDetail:
    """`url` is this server's own, for the commands. Raises `NotFound`."""
    model = service.get_model(settings, name)
    tuned = list(library.tuned_models(settings))
    folder = folder_of(settings, model)
    line = lineage(settings, model, tuned)
    return ModelDetail(
        model=service.with_memory(settings, model, read_machine()),
        lineage=line,
        files=model_files(settings, folder, compute=False) if folder else [],
        versions=versions(tuned, model, line.root),
        validation=_validation(folder),
        card=read_card((folder.parent if folder.is_file() else folder) / "README.md") if folder else "",
        use=snippets(model, line.root, url),
    )


def checksums(settings: Settings, name: str) -> list[ModelFile]:
    """Every file with its SHA-256; what is not known yet is computed now. Raises `NotFound`."""
    folder = folder_of(settings, service.get_model(settings, name))
    return model_files(settings, folder, compute=True) if folder else []


def folder_of(settings: Settings, model: ModelRead) -> Path | None:
    """Where the model's own files are; a tuned model's adapter, not its base. A GGUF model is a file."""
    if model.job_id is not None:
        return library.made_model(JobDir(settings.jobs_dir / str(model.job_id)))
    return service.find_base(settings, model.name)


def lineage(settings: Settings, model: ModelRead, tuned: list[ModelRead]) -> Lineage:
    """From the first base model to this one."""
    steps: list[LineageStep] = []
    current, root = model.job_id, model.name
    while current is not None and len(steps) < MAX_GENERATIONS:
        spec = _spec(settings, current)
        if spec is None:
            break
        steps.append(_step(spec))
        root = spec.model.name if spec.model else ""
        before = service.JOB_NAME.fullmatch(root)
        current = int(before[1]) if before else None
    used_by = [other.name for other in tuned if other.base_model == model.name]
    return Lineage(root=root, steps=steps[::-1], used_by=used_by)


def versions(tuned: list[ModelRead], model: ModelRead, root: str) -> list[ModelRead]:
    """Models tuned from the same first base, in one step or several; this one too, newest first."""
    above = {other.name: other.base_model for other in tuned}

    def first(name: str) -> str:
        for _ in range(MAX_GENERATIONS):
            if (base := above.get(name)) is None:
                return name
            name = base
        return name

    return [other for other in tuned if first(other.name) == root or other.name == model.name]


def _step(spec: JobSpec) -> LineageStep:
    data = spec.dataset
    return LineageStep(
        job_id=spec.job_id,
        job_name=spec.name,
        method=spec.recipe,
        dataset_name=data.name if data else None,
        dataset_id=library.dataset_id_of(data.path) if data else None,
        dataset_version=data.digest if data else None,
        num_rows=data.num_rows if data else None,
        model=f"job:{spec.job_id}",
    )


def _spec(settings: Settings, job_id: int) -> JobSpec | None:
    try:
        return JobDir(settings.jobs_dir / str(job_id)).read_spec()
    except FileNotFoundError:
        return None  # the job has been deleted since


def _validation(folder: Path | None) -> dict[str, Any] | None:
    try:
        found = json.loads((folder / "validation.json").read_bytes()) if folder else None
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
