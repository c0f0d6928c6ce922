"""Models by name: which there are, and where each one is."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from tunesmith.core.errors import InvalidInput, NotFound
from tunesmith.core.job_dir import JobDir
from tunesmith.core.job_spec import ModelRef
from tunesmith.core.tasks import TASKS
from tunesmith.features.catalog import hub, library
from tunesmith.features.catalog.curated import MODELS as CURATED
from tunesmith.features.catalog.library import WHOLE_MODEL_FILE, made_model
from tunesmith.features.catalog.memory import needs
from tunesmith.features.registry import service as registry
from tunesmith.features.registry.naming import parse_ref
from tunesmith.recipes.catalog import find_kind, kind_of_ref
from tunesmith.recipes.model_about import about
from tunesmith.recipes.model_info import ModelInfo, read_model_info
from tunesmith.recipes.plans import Machine
from tunesmith.schemas.models import ModelRead, ModelSort
from tunesmith.settings import Settings
from tunesmith.storage.database import Session

HUB_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}(/[A-Za-z0-9][A-Za-z0-9._-]{0,95})?")
"""A hub id, `organisation/name`, or a local folder's plain name. No `..`, no absolute paths, no links elsewhere."""
JOB_NAME = re.compile(r"job:([1-9][0-9]{0,18})")
MERGED_BASE = "base_model"
"""Artifact of a job that went on from an adapter: the base with that adapter merged in."""
NEAR = 3
"""Names that are told to who has misspelt one."""
SCORES = ("eval_loss", "loss")
"""The metric that `score` sorts by, the first that a model has; lower is better."""


def list_models(settings: Settings) -> list[ModelRead]:
    """Base models by name, then what jobs made, newest first."""
    found = library.base_models(settings)
    return [*(found[name] for name in sorted(found, key=str.lower)), *library.tuned_models(settings)]


def select(
    models: Iterable[ModelRead],
    *,
    text: str | None = None,
    kind: str | None = None,
    method: str | None = None,
    base: str | None = None,
    licence: str | None = None,
    category: str | None = None,
    provider: str | None = None,
    sort: ModelSort | None = None,
) -> list[ModelRead]:
    """Those that fit every filter; in the given order unless `sort` says otherwise. Models without a score come last."""
    wanted = (text or "").lower()
    found = [
        model
        for model in models
        if wanted in " ".join((model.name, model.title, model.base_model or "", model.dataset_name or "")).lower()
        and kind in (None, model.kind)
        and method in (None, model.method)
        and base in (None, model.base_model)
        and licence in (None, model.licence)
        and (category is None or category in model.categories)
        and (provider is None or (model.kind == "base" and model.name.lower().startswith(f"{provider.lower()}/")))
    ]
    if sort == "newest":
        found.sort(key=lambda model: model.created_at.timestamp() if model.created_at else 0.0, reverse=True)
    elif sort == "name":
        found.sort(key=lambda model: (model.title or model.name).lower())
    elif sort == "size":
        found.sort(key=lambda model: model.size_bytes or 0, reverse=True)
    elif sort == "score":
        found.sort(key=score)
    return found


def score(model: ModelRead) -> float:
    """The held-out loss, else the training loss, else infinity."""
    return next((float(model.metrics[name]) for name in SCORES if name in model.metrics), float("inf"))


def get_model(settings: Settings, name: str) -> ModelRead:
    """One model by name. Raises `NotFound` saying which there are."""
    check_name(name)
    if job := JOB_NAME.fullmatch(name):
        found = library.tuned_model(settings, int(job[1]))
    else:
        found = library.base_models(settings).get(name)
    if found is None:
        raise not_here(settings, name)
    return found


def with_memory(settings: Settings, model: ModelRead, machine: Machine) -> ModelRead:
    """The same with what training it further takes; a tuned model takes what its base takes, a GGUF file is not trained."""
    info = None if model.format == "gguf" else root_info(settings, model.name)
    return model.model_copy(update={"memory": needs(info, machine) if info else []})


def root_info(settings: Settings, name: str) -> ModelInfo | None:
    """The architecture under a model's name; None where it cannot be read."""
    try:
        ref = resolve_model(settings, None, name)
    except (NotFound, InvalidInput):
        return None
    return library.info_of(Path(ref.path))


def check_name(name: str) -> None:
    """Raise `InvalidInput` for what cannot be a model's name, such as a path."""
    if (HUB_NAME.fullmatch(name) and ".." not in name) or JOB_NAME.fullmatch(name):
        return
    if "@" in name:
        parse_ref(name)
        return
    raise InvalidInput(
        f"{name[:80]!r} is not a model's name.",
        hint="Use a hub id such as HuggingFaceTB/SmolLM2-135M-Instruct, a name from the list of models, or job:7.",
        details=[{"loc": "model", "message": "not a hub id, a local name or job:<id>"}],
    )


def check_seen(settings: Settings, session: Session, name: str) -> None:
    """Raises `InvalidInput` for what is no model's name, `NotFound` for a model that is not there for who asks. A hub id is
    anybody's."""
    check_name(name)
    job = JOB_NAME.fullmatch(name)
    if job and not library.may_see(int(job[1])):
        raise no_model(int(job[1]))
    if "@" in name:
        registry.find_version(session, name)
    elif not job and "/" not in name and not find_base(settings, name) and not registry.has_name(session, name):
        raise not_here(settings, name, session)


def resolve_model(settings: Settings, session: Session | None, name: str) -> ModelRef:
    """Where a model is: a local folder, the hub's cache, a job's result, a version of the registry; else the hub id for the
    worker to fetch. A bare name is a base model's before it is a registered model's.

    Raises `InvalidInput` for what is no name, `NotFound` when it is not here and no hub may be asked, `Conflict` for a
    version whose files are damaged.
    """
    check_name(name)
    if "@" in name:
        return _of_registry(settings, session, name)
    if job := JOB_NAME.fullmatch(name):
        return _of_job(settings, int(job[1]), name)
    if folder := find_base(settings, name):
        return ModelRef(name=name, path=str(folder))
    if session is not None and "/" not in name and registry.has_name(session, name):
        return _of_registry(settings, session, name)
    if "/" not in name or hub.why_not_asked(settings):
        raise not_here(settings, name, session)
    return ModelRef(name=name, path=name)


def _of_registry(settings: Settings, session: Session | None, name: str) -> ModelRef:
    """`support-bot@1.2.0`. Where nobody looks into the database there is no registry."""
    if session is None:
        raise not_here(settings, name)
    row = registry.find_version(session, name)
    return registry.model_ref(settings, row, lambda base: resolve_model(settings, session, base))


def find_base(settings: Settings, name: str) -> Path | None:
    """The folder of a base model that is on this machine, or its GGUF file, or None."""
    for path in (settings.models_dir / name.replace("/", "--"), settings.models_dir / name):
        if _is_inside(path, settings.models_dir) and (path / WHOLE_MODEL_FILE).is_file():
            return path.resolve()
    place = library.places(settings).get(name)
    if place is None or place.path.is_file():
        return place.path if place else None
    return place.path if any(place.path.glob("*.safetensors")) else None


def model_info(ref: ModelRef) -> ModelInfo | None:
    """The base model's architecture; None while it is still to be fetched, and for models that are no networks of transformers.
    Raises as `read_model_info`."""
    path = Path(ref.path)
    kind = kind_of_ref(ref)
    if kind is not None and kind.framework not in ("transformers", "peft"):
        return None
    return read_model_info(path) if path.is_absolute() and path.is_dir() else None


def _is_inside(path: Path, root: Path) -> bool:
    return path.resolve().is_relative_to(root.resolve()) and path.resolve() != root.resolve()


def _of_job(settings: Settings, job_id: int, name: str) -> ModelRef:
    job_dir = JobDir(settings.jobs_dir / str(job_id))
    folder = made_model(job_dir) if library.may_see(job_id) else None
    if folder is None:
        raise no_model(job_id)
    kind = find_kind(folder)
    if kind is not None and not kind.needs_base:
        return ModelRef(name=name, path=str(kind.opens(folder)), kind=kind.name)
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


def no_model(job_id: int) -> NotFound:
    return NotFound(
        f"Job {job_id} has no finished model.",
        hint="Wait until it is completed; the list of models has those that are.",
    )


def check_trainable(model: ModelRef, tasks: Sequence[str] = ("text-generation",)) -> None:
    """Raise `InvalidInput` for a model that is no more than a GGUF file, and for one that is made for none of `tasks`; without
    any, all are taken."""
    if model.path.lower().endswith(".gguf"):
        raise InvalidInput(
            "A GGUF file can be talked to and deployed, not trained.",
            hint="Train its safetensors version.",
            details=[{"loc": "model", "message": "a GGUF file can be talked to and deployed, not trained"}],
        )
    if (told := about(model)) and tasks and told.task not in tasks:
        raise InvalidInput(
            f"{model.name} is for {told.title.lower()}, and this method starts from another kind of model.",
            hint=f"Choose one for {', '.join(TASKS[t].title.lower() if t in TASKS else t for t in tasks)}.",
            details=[{"loc": "model", "message": f"is for {told.title.lower()}"}],
        )


def not_here(settings: Settings, name: str, session: Session | None = None) -> NotFound:
    """What to say of a model that is not at hand. With a `session` registered names are looked at too."""
    names = [model.name for model in list_models(settings)]
    registered = registry.known_names(session) if session is not None else []
    there = f"At hand: {', '.join(names[:10])}." if names else "No model is at hand yet; tunesmith demo brings one."
    why_not = hub.why_not_asked(settings)
    known = [*names, *registered, *([] if why_not else (model.name for model in CURATED))]
    return NotFound(
        f"There is no model {name!r} here.{f' {why_not}.' if why_not else ''}", hint=f"{meant(name, known)}{there}"
    )


def meant(name: str, known: Iterable[str]) -> str:
    """`Did you mean …? ` with up to three names that are nearly `name`; empty where there are none, and for a known name."""
    wanted = (name.lower(), name.lower().rpartition("/")[2])
    keys: dict[str, list[str]] = {}
    for one in dict.fromkeys(known):
        if one == name:
            return ""
        for key in dict.fromkeys((one.lower(), one.lower().rpartition("/")[2])):
            keys.setdefault(key, []).append(one)
    same = [text for text in wanted if text in keys]
    alike = same or [key for text in wanted for key in difflib.get_close_matches(text, keys, n=NEAR, cutoff=0.75)]
    found = list(dict.fromkeys(one for key in alike for one in keys[key] if one != name))[:NEAR]
    return f"Did you mean {' or '.join(found)}? " if found else ""
