"""Whether a model can be used here: cached, reachable, gated, its licence, its size, and what this machine can do with it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Literal, NamedTuple

from tunesmith.core.errors import Conflict, NotFound, TunesmithError, Unavailable
from tunesmith.features.catalog import asking, detail, fitting, hub, library, service
from tunesmith.features.catalog.asking import About
from tunesmith.features.catalog.fetching import SPARE_BYTES
from tunesmith.features.catalog.fitting import Shape
from tunesmith.features.catalog.licences import licence
from tunesmith.recipes.plans import Machine, read_machine
from tunesmith.schemas.models import LicenceRead, MemoryUse, ModelCheck, ModelRead
from tunesmith.settings import Settings

Format = Literal["safetensors", "gguf", "unsafe", "unknown"]
DOING = {"full": "tune all of its weights", "lora": "tune it with LoRA", "qlora": "tune it with QLoRA",
         "inference": "let it answer"}  # fmt: skip


class Asked(NamedTuple):
    """What the hub said."""

    about: About | None
    is_reachable: bool | None
    sentence: str


def check(settings: Settings, name: str, machine: Machine | None = None) -> ModelCheck:
    """Raises `InvalidInput` for no name, `NotFound` for what is neither here nor on the hub."""
    service.check_name(name)
    machine = machine or read_machine()
    local = _local(settings, name)
    if local is None and ("/" not in name or name.endswith(".gguf")):
        raise service.not_here(settings, name)
    asked = _ask(settings, name, local is not None)
    about = asked.about
    shape = _shape_here(settings, local) if local else _shape_there(about)
    missing = 0 if local else sum(file.size_bytes for file in about.files) if about and about.files else None
    free = shutil.disk_usage(_nearest(_cache())).free
    said = local.licence if local and local.licence else about.licence if about else None
    found = licence(said, about.licence_name if about else None)
    uses = fitting.uses(shape, machine) if shape else []
    fmt = _format(local, about)
    return ModelCheck(
        name=name,
        revision=about.commit if about else None,
        is_at_hand=local is not None,
        source=local.source if local else None,
        is_reachable=asked.is_reachable,
        gated=about.gated if about else None,
        has_token=hub.has_token(),
        hub_sentence=asked.sentence,
        format=fmt,
        num_parameters=shape.info.num_parameters if shape else None,
        architecture=_known(shape.info.architecture) if shape else None,
        context_length=shape.info.context_length if shape and not shape.is_estimated else None,
        download_bytes=missing,
        disk_free_bytes=free,
        has_disk=None if missing is None else missing + SPARE_BYTES <= free if missing else True,
        licence=found,
        is_estimated=bool(shape and shape.is_estimated),
        uses=uses,
        verdict=_verdict(name, local is not None, asked, fmt, uses, found, missing, free),
    )


def _local(settings: Settings, name: str) -> ModelRead | None:
    try:
        return service.get_model(settings, name)
    except NotFound:
        return None


def _ask(settings: Settings, name: str, is_here: bool) -> Asked:
    """Raises `NotFound` when it is nowhere."""
    if "/" not in name or name.endswith(".gguf"):
        return Asked(None, None, "It is not a name of the hub, so the hub was not asked.")
    if why := hub.why_not_asked(settings):
        if is_here:
            return Asked(None, None, f"{why}; the model is here and needs it no more.")
        return Asked(None, None, f"{why}, so only what is at hand can be told.")
    try:
        about = asking.about(settings, name)
        if about.gated and not asking.is_given(name):
            return Asked(about, False, asking.gated(name).message)
    except NotFound:
        if is_here:
            return Asked(None, False, "The hub has no such model; it is only here.")
        raise
    except (Unavailable, Conflict) as error:
        return Asked(None, False, error.message)
    terms = " Its terms are accepted with the token that is set." if about.gated else ""
    return Asked(about, True, f"The hub has it and gives it to this server.{terms}")


def _shape_here(settings: Settings, model: ModelRead) -> Shape | None:
    path = detail.folder_of(settings, model)
    if path is not None and path.is_file():
        header = library.gguf_of(path)
        return fitting.shape_of_gguf(header) if header else None
    try:
        folder = Path(service.resolve_model(settings, None, model.name).path)
    except TunesmithError:
        return None
    info = library.info_of(folder)
    return fitting.shape_of_folder(info, folder) if info else None


def _shape_there(about: About | None) -> Shape | None:
    if about is None or not about.num_parameters:
        return None
    config = asking.config_of(about.name, about.commit)
    exact = fitting.shape_of_config(config, about.num_parameters) if config else None
    return exact or fitting.shape_of_weights(about.num_parameters)


def _format(local: ModelRead | None, about: About | None) -> Format:
    if local:
        return local.format if local.num_parameters or local.kind == "tuned" else "unknown"
    if about is None:
        return "unknown"
    if any(file.path.endswith(".safetensors") for file in about.files):
        return "safetensors"
    return "gguf" if about.gguf_files else "unsafe" if about.has_pickles_only else "unknown"


def _known(architecture: str) -> str | None:
    return None if architecture == "unknown" else architecture


def _cache() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE).absolute()


def _nearest(path: Path) -> Path:
    return next(one for one in (path, *path.parents) if one.exists())


def _verdict(
    name: str,
    is_here: bool,
    asked: Asked,
    fmt: Format,
    uses: list[MemoryUse],
    found: LicenceRead,
    missing: int | None,
    free: int,
) -> str:
    """The first thing that stands in the way, else the most that can be done."""
    if not is_here:
        if asked.about is None:
            return f"{name} is not here, and it cannot be told whether it could be: {asked.sentence}"
        if asked.is_reachable is False:
            return f"{name} cannot be fetched yet: {asked.sentence}"
        if fmt == "unsafe":
            return f"{name} has its weights only in a format that can run code, so it is not fetched."
        if missing and missing + SPARE_BYTES > free:
            return f"{name} needs {missing / 1e9:.1f} GB of disk, and {free / 1e9:.1f} GB are free."
    where = "is here" if is_here else f"can be fetched ({missing / 1e9:.2f} GB)" if missing else "can be fetched"
    best = fitting.best_way(uses)
    if best is None:
        return (
            f"{name} {where}, but it is too large for this machine."
            if uses
            else f"{name} {where}; its size is not known."
        )
    licensed = {"yes": "commercial use is allowed", "no": "commercial use is not allowed",
                "conditions": "commercial use has conditions", "unknown": "its licence has to be read"}  # fmt: skip
    return f"{name} {where}, and this machine can {DOING[best]}; {licensed[found.commercial]}."
