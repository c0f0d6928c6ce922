"""Which model to take for a purpose: from what is at hand and a curated list, by what fits this machine."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

from tunesmith.features.catalog import fitting, hub, library
from tunesmith.features.catalog.curated import MODELS, Curated
from tunesmith.features.catalog.fitting import Shape
from tunesmith.features.catalog.licences import licence
from tunesmith.recipes.plans import Machine
from tunesmith.schemas.models import MemoryUse, ModelRead, Purpose, Recommendation, RecommendationList, UseCase, Way
from tunesmith.settings import Settings

USE_CASES: dict[UseCase, str] = {
    "chat": "Chat and support",
    "code": "Code",
    "classification": "Classification",
    "extraction": "Extraction (JSON, fields)",
    "summarising": "Summarising",
    "writing": "Writing",
    "reasoning": "Reasoning",
    "multimodal": "Pictures and text",
    "embedding": "Search (embeddings)",
}
PURPOSE_OF: dict[UseCase, Purpose] = {
    "chat": "conversational", "code": "code", "multimodal": "multimodal", "classification": "instruction-following",
    "extraction": "instruction-following", "summarising": "instruction-following", "writing": "instruction-following",
    "reasoning": "conversational",
}  # fmt: skip
"""What a model at hand that nobody has looked at must be for, to be named."""
NARROW: frozenset[UseCase] = frozenset({"classification", "extraction"})
"""Tasks for which small models do, once they are tuned."""
ENOUGH_WEIGHTS = 2e9
PROCESSOR_WEIGHTS = 1.8e9
"""More than these take too long without a GPU."""
WAY_WORDS = {
    "full": "this machine can tune all of its weights",
    "lora": "this machine can tune it with LoRA",
    "qlora": "this machine can tune it with QLoRA",
    "inference": "this machine can run it but not tune it",
}
DEPTH: dict[Way | None, int] = {"full": 3, "lora": 3, "qlora": 2, "inference": 1, None: 0}


class _Candidate(NamedTuple):
    about: Curated
    shape: Shape
    is_at_hand: bool
    is_curated: bool
    uses: list[MemoryUse]
    way: Way | None
    is_quick: bool
    """Whether this machine is not only large enough for it."""


def recommend(
    settings: Settings,
    use_case: UseCase,
    machine: Machine,
    *,
    limit: int = 5,
    commercial: bool = False,
    collected: frozenset[str] = frozenset(),
) -> RecommendationList:
    """Best first; `commercial` leaves out what may not be sold with. Everything that is named fits this machine."""
    here = library.base_models(settings)
    candidates = [_curated(settings, one, machine, here) for one in MODELS if use_case in one.use_cases]
    candidates += _unknown(settings, use_case, machine, here)
    if commercial:
        candidates = [one for one in candidates if licence(one.about.licence).commercial in ("yes", "conditions")]
    fitting_ones = [one for one in candidates if one.way]
    fitting_ones.sort(key=lambda one: _rank(one, use_case), reverse=True)
    off = hub.why_not_asked(settings)
    return RecommendationList(
        items=[_read(one, use_case, collected) for one in fitting_ones[:limit]],
        left_out=len(candidates) - len(fitting_ones),
        hub_problem=f"{off}, so only what is at hand can be used now." if off else "",
    )


def _curated(settings: Settings, about: Curated, machine: Machine, here: dict[str, ModelRead]) -> _Candidate:
    local = here.get(about.name)
    shape = _shape(settings, local) if local else None
    shape = shape or fitting.shape_of_weights(about.num_parameters, about.context_length)
    return _candidate(about, shape, machine, is_at_hand=local is not None, is_curated=True)


def _unknown(settings: Settings, use_case: UseCase, machine: Machine, here: dict[str, ModelRead]) -> list[_Candidate]:
    """Models at hand that are not on the list but are for this, as far as one can tell."""
    purpose, listed = PURPOSE_OF.get(use_case), {one.name for one in MODELS}
    found = []
    for name, model in here.items():
        shape = _shape(settings, model) if purpose in model.categories and name not in listed else None
        if shape is None:
            continue
        about = Curated(
            name, shape.info.num_parameters, model.licence or "", shape.info.context_length, (use_case,),
            "is here already", is_trainable=model.format != "gguf",
        )  # fmt: skip
        found.append(_candidate(about, shape, machine, is_at_hand=True, is_curated=False))
    return found


def _candidate(about: Curated, shape: Shape, machine: Machine, *, is_at_hand: bool, is_curated: bool) -> _Candidate:
    uses = fitting.uses(shape, machine)
    if not about.is_trainable:
        uses = [use for use in uses if use.way in ("weights", "inference")]
    is_quick = machine.device != "cpu" or about.num_parameters <= PROCESSOR_WEIGHTS
    return _Candidate(about, shape, is_at_hand, is_curated, uses, fitting.best_way(uses), is_quick)


def _shape(settings: Settings, model: ModelRead) -> Shape | None:
    place = library.places(settings)[model.name]
    if place.path.is_file():
        header = library.gguf_of(place.path)
        return fitting.shape_of_gguf(header) if header else None
    info = library.info_of(Path(place.path))
    return fitting.shape_of_folder(info, place.path) if info else None


def _rank(one: _Candidate, use_case: UseCase) -> tuple[float, ...]:
    """What this machine can tune in a day, for what it is best at, larger first; for narrow tasks no more than is enough."""
    weights = min(one.about.num_parameters, ENOUGH_WEIGHTS if use_case in NARROW else math.inf)
    is_main = one.about.use_cases[0] == use_case
    return (one.is_quick, DEPTH[one.way], one.is_curated, is_main, round(weights / 5e8), one.is_at_hand, weights)


def _read(one: _Candidate, use_case: UseCase, collected: frozenset[str]) -> Recommendation:
    about, title = one.about, one.about.name.rpartition("/")[2]
    can = WAY_WORDS[one.way] if one.way and about.is_trainable else "it runs here"
    where = "it is here already" if one.is_at_hand and one.is_curated else ""
    slow = "" if one.is_quick else ", slowly without a GPU"
    reason = "; ".join(filter(None, (f"{title}: {about.strength}", where, f"{can}{slow}.")))
    return Recommendation(
        name=about.name,
        title=title,
        reason=reason,
        use_cases=list(about.use_cases),
        num_parameters=about.num_parameters,
        licence=licence(about.licence),
        is_at_hand=one.is_at_hand,
        is_trainable=about.is_trainable,
        gated=about.gated,
        uses=one.uses,
        best_way=one.way,  # type: ignore[arg-type]
        context_length=about.context_length,
        collected=about.name in collected,
    )
