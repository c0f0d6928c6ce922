"""Whether the hub has a model that a job names and that is not here: asked before the job is saved, since it would fail later."""

from __future__ import annotations

import threading
import time
from typing import NamedTuple

from tunesmith.core.errors import Conflict, InvalidInput, NotFound, TunesmithError, Unavailable
from tunesmith.features.catalog import asking, hub, library, service
from tunesmith.features.catalog.curated import MODELS as CURATED
from tunesmith.features.catalog.hub import Query
from tunesmith.settings import Settings

ABSENT_S = 30.0
"""How long it is remembered that the hub cannot or will not give a model."""
MAX_ANSWERS = 500
"""Answers that are remembered."""


class _Answer(NamedTuple):
    """What is known of one name."""

    at_s: float
    error: TunesmithError | None
    """Why a job could not have it."""


_lock = threading.Lock()
_answers: dict[tuple[str, str, str | None], _Answer] = {}


def check(settings: Settings, path: str, revision: str | None = None) -> None:
    """Raise for a hub id that no job could fetch, within twice `hub.WAIT_S`: `NotFound`, `Conflict` for a gated model,
    `InvalidInput` for one without usable weights, `Unavailable` when the hub is silent. Nothing for a path, for what is here,
    and where the hub may not be asked. Answers are remembered, so that one who has asked need not wait inside a transaction."""
    from huggingface_hub import constants

    if "/" not in path or not service.HUB_NAME.fullmatch(path) or hub.why_not_asked(settings):
        return
    if revision is None and service.find_base(settings, path):
        return
    key = (constants.ENDPOINT, path, revision)
    with _lock:
        known = _answers.get(key)
    if known is None or time.monotonic() - known.at_s > (ABSENT_S if known.error else hub.KEEP_S):
        known = _Answer(time.monotonic(), _asked(settings, path, revision))
        with _lock:
            while len(_answers) >= MAX_ANSWERS:
                _answers.pop(next(iter(_answers)))
            _answers[key] = known
    if known.error:
        raise known.error.with_traceback(None)


def _asked(settings: Settings, name: str, revision: str | None) -> TunesmithError | None:
    """What stands in the way, None when nothing does."""
    try:
        about = asking.about(settings, name, revision)
        if about.gated and not asking.is_given(name):
            return asking.gated(name)
    except NotFound as error:
        if "no such revision" in error.message:
            return error
        return NotFound(
            f"There is no model {name!r} here, and the hub has none of that name, or it is private.",
            hint=f"{_meant(settings, name)}Look for it with: tunesmith models search. For a private model set HF_TOKEN.",
        )
    except Unavailable as error:
        return Unavailable(
            f"There is no model {name!r} here, and whether the hub has it cannot be told: {error.message}",
            hint=f"{_meant(settings, name)}Fetch it when the hub answers again: tunesmith models download {name}",
        )
    except (Conflict, InvalidInput) as error:
        return error
    if any(file.path.endswith(".safetensors") for file in about.files):
        return None
    if about.gguf_files:
        hint = f"Fetch one of them to talk to it or to deploy it: tunesmith models download {name}"
        return InvalidInput(f"The hub has {name} in GGUF files only, which no job can use.", hint=hint)
    return InvalidInput(
        f"The hub has no safetensors weights of {name}; other formats can run code when they are read.",
        hint="Choose a model with safetensors.",
    )


def _meant(settings: Settings, name: str) -> str:
    """Near names: of models at hand, of the known ones, and of what the hub finds by the last part of the name."""
    found = hub.search(settings, Query(text=name.rpartition("/")[2]), 20).models
    return service.meant(
        name, [*library.places(settings), *(model.name for model in CURATED), *(model.id for model in found)]
    )
