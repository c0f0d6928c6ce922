"""What is on this machine: folders in the home, the hub's cache, and what jobs have made. Read from files alone.

Nothing is kept but in memory, and that only as long as the files are as old as they were.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple

from tunesmith.core.acting import current
from tunesmith.core.errors import TunesmithError
from tunesmith.core.job_dir import JobDir
from tunesmith.core.job_spec import ModelRef
from tunesmith.core.recipe import Outcome
from tunesmith.features.catalog.cards import front_matter, read_card
from tunesmith.features.catalog.curated import LICENCE_OF
from tunesmith.features.catalog.purposes import purposes
from tunesmith.features.catalog.starter import STARTER_MODEL
from tunesmith.recipes.catalog import get_recipe
from tunesmith.recipes.gguf import GgufInfo, read_gguf
from tunesmith.recipes.model_about import about
from tunesmith.recipes.model_info import ModelInfo, read_json, read_model_info
from tunesmith.schemas.models import ModelRead
from tunesmith.settings import Settings

WHOLE_MODEL_FILE = "config.json"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}(/[A-Za-z0-9][A-Za-z0-9._-]{0,95})?")
"""What a model can be called; what lies in a folder with another name is not listed."""
DEPTH = 3
"""How far below a folder of `model_dirs` models are looked for: `organisation/model/file.gguf`."""
MAX_ENTRIES = 5000
"""Entries of such a folder that are looked at."""
SPLIT = re.compile(r"-\d{5}-of-\d{5}\.gguf$")
"""A GGUF in many files stands for itself by its first."""
REMEMBERED = 10_000
"""Models whose description is kept in memory."""


class Place(NamedTuple):
    """Where a base model lies."""

    name: str
    path: Path
    """Its folder, or its GGUF file."""
    source: Literal["starter", "hub_cache", "local", "model_dir"]


def base_models(settings: Settings) -> dict[str, ModelRead]:
    """By name."""
    return {name: _base(place) for name, place in places(settings).items()}


def places(settings: Settings) -> dict[str, Place]:
    """By name; the home goes before the folders of `model_dirs`, and those before the hub's cache."""
    listed = [*_hub_places(), *_other_places(settings), *_home_places(settings)]
    return {place.name: place for place in listed}


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
        task=_task(made),
        metrics=dict(ended.metrics) if ended else {},
        created_at=datetime.fromtimestamp(job_dir.exit.stat().st_mtime, UTC),
    )


def dataset_id_of(path: str) -> int | None:
    """The dataset that a job's rows came from: they lie in `datasets/<id>/versions/<digest>/`."""
    parts = Path(path).parts
    place = len(parts) - 1 - parts[::-1].index("versions") if "versions" in parts else 0
    return int(parts[place - 1]) if place > 0 and parts[place - 1].isdigit() else None


def _home_places(settings: Settings) -> Iterator[Place]:
    for path in sorted(settings.models_dir.iterdir()) if settings.models_dir.is_dir() else ():
        if path.name.startswith(".") or not _is_below(path, settings.models_dir):
            continue
        if (path / WHOLE_MODEL_FILE).is_file():
            name = path.name.replace("--", "/", 1)
            yield Place(name, path, "starter" if name == STARTER_MODEL else "local")
        elif _is_gguf(path):
            yield Place(path.name, path, "local")


def _other_places(settings: Settings) -> Iterator[Place]:
    """Each folder with `config.json` and each GGUF file below the folders that an administrator has named."""
    for root in reversed(settings.model_dirs):
        if (root / WHOLE_MODEL_FILE).is_file():
            yield from _named(root.name, root)
            continue
        for path in _below(root, DEPTH):
            if not _is_below(path, root):
                continue
            parts = path.relative_to(root).parts
            name = path.name if len(parts) == 1 else f"{parts[0]}/{path.name}"
            yield from _named(name if len(parts) > 1 else name.replace("--", "/", 1), path)


def _named(name: str, path: Path) -> Iterator[Place]:
    if NAME.fullmatch(name) and ".." not in name:
        yield Place(name, path, "model_dir")


def _below(root: Path, depth: int) -> Iterator[Path]:
    """Model folders and GGUF files, not looking into what is a model itself."""
    try:
        entries = sorted(root.iterdir())[:MAX_ENTRIES]
    except OSError:
        return
    for path in entries:
        if path.name.startswith("."):
            continue
        if _is_gguf(path) or (path / WHOLE_MODEL_FILE).is_file():
            yield path
        elif depth > 1 and path.is_dir():
            yield from _below(path, depth - 1)


def _is_below(path: Path, root: Path) -> bool:
    return path.resolve().is_relative_to(root.resolve())


def _is_gguf(path: Path) -> bool:
    if not path.name.lower().endswith(".gguf") or path.name.startswith("mmproj"):
        return False
    return path.is_file() and (not SPLIT.search(path.name) or "-00001-of-" in path.name)


def _hub_places() -> Iterator[Place]:
    """Each model of the hub's cache, by its newest snapshot."""
    from huggingface_hub import constants

    for repo in sorted(Path(constants.HF_HUB_CACHE).glob("models--*")):
        name = repo.name.removeprefix("models--").replace("--", "/", 1)
        snapshots = sorted(repo.glob("snapshots/*"), key=lambda path: path.stat().st_mtime, reverse=True)
        if whole := next((path for path in snapshots if (path / WHOLE_MODEL_FILE).is_file()), None):
            yield Place(name, whole, "hub_cache")
        for file in sorted({file.name: file for path in snapshots[::-1] for file in path.glob("*.gguf")}.values()):
            if _is_gguf(file) and (organisation := name.partition("/")[0]) != name:
                yield Place(f"{organisation}/{file.name}", file, "hub_cache")


def _base(place: Place) -> ModelRead:
    """What the folder says; one that cannot be read is listed by its name alone."""
    if place.path.suffix.lower() == ".gguf":
        return _gguf(place)
    title, info = place.name.rpartition("/")[2], info_of(place.path)
    if info is None:
        return ModelRead(name=place.name, title=title, kind="base", source=place.source)
    pictures = (
        info.architecture.endswith("ForConditionalGeneration") and (place.path / "preprocessor_config.json").exists()
    )
    causal = info.architecture.endswith(("CausalLM", "LMHeadModel"))
    category = "image-text-to-text" if pictures else "text-generation" if causal else None
    return ModelRead(
        name=place.name,
        title=title,
        kind="base",
        source=place.source,
        num_parameters=info.num_parameters,
        size_bytes=info.size_bytes,
        architecture=info.architecture,
        context_length=info.context_length,
        task=_task(place.path),
        licence=_licence(place.path / "README.md") or LICENCE_OF.get(place.name),
        created_at=datetime.fromtimestamp(place.path.stat().st_mtime, UTC),
        categories=purposes(
            place.name,
            category=category,
            num_parameters=info.num_parameters,
            has_chat_template=_has_template(place.path),
        ),
    )


def _task(path: Path) -> str | None:
    """Of a model that does not chat."""
    told = about(ModelRef(name=path.name, path=str(path)))
    return told.task if told else None


def _gguf(place: Place) -> ModelRead:
    info = gguf_of(place.path)
    found = ModelRead(
        name=place.name,
        title=place.name.rpartition("/")[2].removesuffix(".gguf"),
        kind="base",
        source=place.source,
        format="gguf",
        created_at=datetime.fromtimestamp(place.path.stat().st_mtime, UTC),
    )
    if info is None:
        return found
    categories = purposes(
        found.title,
        category="text-generation",
        num_parameters=info.num_parameters,
        has_chat_template=info.has_chat_template,
    )
    return found.model_copy(
        update={
            "num_parameters": info.num_parameters, "size_bytes": info.size_bytes, "architecture": info.architecture,
            "context_length": info.context_length or None, "quantisation": info.quantisation or None,
            "licence": info.licence or _licence(place.path.parent / "README.md"), "categories": categories,
        }
    )  # fmt: skip


def gguf_of(file: Path) -> GgufInfo | None:
    """The header of a GGUF file in numbers; None when it cannot be read."""
    try:
        return _gguf_info(str(file), file.stat().st_mtime_ns)
    except OSError:
        return None


@lru_cache(REMEMBERED)
def _gguf_info(file: str, _changed: int) -> GgufInfo | None:
    try:
        return read_gguf(Path(file))
    except TunesmithError:
        return None


def _has_template(folder: Path) -> bool:
    if any((folder / name).is_file() for name in ("chat_template.jinja", "chat_template.json")):
        return True
    try:
        return _says_template(
            str(folder / "tokenizer_config.json"), (folder / "tokenizer_config.json").stat().st_mtime_ns
        )
    except OSError:
        return False


@lru_cache(REMEMBERED)
def _says_template(path: str, _changed: int) -> bool:
    try:
        return bool(read_json(Path(path)).get("chat_template"))
    except TunesmithError:
        return False


def _licence(card: Path) -> str | None:
    try:
        return _licence_in(str(card), card.lstat().st_mtime_ns)
    except OSError:
        return None


@lru_cache(REMEMBERED)
def _licence_in(card: str, _changed: int) -> str | None:
    found = front_matter(read_card(Path(card))).get("license")
    return found if isinstance(found, str) else None
