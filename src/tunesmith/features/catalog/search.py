"""One search over the models at hand and the hub's."""

from __future__ import annotations

from typing import Any

from tunesmith.features.catalog import asking, cards, hub, library
from tunesmith.features.catalog.hub import BOUNDS, Query
from tunesmith.features.catalog.memory import needs, usual_shape
from tunesmith.features.catalog.purposes import purposes
from tunesmith.features.catalog.service import with_memory
from tunesmith.recipes.plans import Machine, read_machine
from tunesmith.schemas.models import FoundModel, ModelRead, ModelSearch
from tunesmith.settings import Settings

TRAINED_HERE = ("text-generation", "image-text-to-text")
"""Categories whose language part can be tuned."""
HUB_PART = 100
"""Models asked of the hub at a time."""
MAX_FROM_HUB = 500
DESCRIBED = 30
"""Models of one page whose cards are looked at."""


def search(
    settings: Settings,
    query: Query,
    *,
    cursor: int | None = None,
    limit: int = 20,
    collected: frozenset[str] = frozenset(),
) -> ModelSearch:
    """Models at hand that fit, by name, then the hub's. `cursor` is how many came before. The hub's silence is no error."""
    machine, start = read_machine(), cursor or 0
    here = [_local(settings, model, machine) for model in library.base_models(settings).values()]
    here = sorted((model for model in here if _fits(model, query)), key=lambda model: model.name.lower())
    wanted = min(MAX_FROM_HUB, -(-(start + limit + 1) // HUB_PART) * HUB_PART)
    answer = hub.search(settings, query, wanted)
    names = {model.name for model in here}
    everything: list[Any] = [*here, *(model for model in answer.models if model.id not in names)]
    shown = [
        model if isinstance(model, FoundModel) else _of_hub(model, machine)
        for model in everything[start : start + limit]
    ]
    told = (
        asking.descriptions([model.name for model in shown if not model.at_hand][:DESCRIBED]) if answer.models else {}
    )
    more = {model.name: {"collected": model.name in collected} | _described(told, model) for model in shown}
    return ModelSearch(
        items=[model.model_copy(update=more[model.name]) for model in shown],
        next_cursor=start + limit if len(everything) > start + limit else None,
        hub_problem=answer.problem,
    )


def _described(told: dict[str, str], model: FoundModel) -> dict[str, Any]:
    return {"description": told[model.name]} if model.name in told else {}


def _fits(model: FoundModel, query: Query) -> bool:
    least, most = BOUNDS[query.size] if query.size else (0, float("inf"))
    size = model.num_parameters or 0
    return (
        query.text.lower() in model.name.lower()
        and query.category in (None, model.category)
        and (query.purpose is None or query.purpose in model.categories)
        and (not query.provider or model.provider.lower() == query.provider.lower())
        and (not query.licence or (model.licence or "").lower() == query.licence.lower())
        and (query.size is None or least <= size < most)
    )


def _local(settings: Settings, model: ModelRead, machine: Machine) -> FoundModel:
    pictures = "multimodal" in model.categories
    return FoundModel(
        name=model.name,
        provider=model.name.partition("/")[0] if "/" in model.name else "",
        at_hand=True,
        category="image-text-to-text" if pictures else "text-generation" if model.categories else None,
        categories=model.categories,
        description=_own_description(settings, model),
        licence=model.licence,
        num_parameters=model.num_parameters,
        updated_at=model.created_at,
        memory=with_memory(settings, model, machine).memory,
        why_not=_why_not_here(model),
    )


def _why_not_here(model: ModelRead) -> str:
    if not model.num_parameters:
        return "Its files cannot be read; it has to have safetensors."
    return "A GGUF file can be talked to and deployed; train its safetensors version." if model.format == "gguf" else ""


def _own_description(settings: Settings, model: ModelRead) -> str:
    place = library.places(settings).get(model.name)
    folder = place.path.parent if place and place.path.is_file() else place.path if place else None
    return cards.description(cards.read_card(folder / "README.md")) if folder else ""


def _of_hub(found: Any, machine: Machine) -> FoundModel:
    """From `huggingface_hub.ModelInfo`."""
    size = found.safetensors.total if found.safetensors else None
    tags = found.tags or []
    licence = next((tag.removeprefix("license:") for tag in tags if tag.startswith("license:")), None)
    return FoundModel(
        name=found.id,
        provider=found.author or found.id.partition("/")[0],
        at_hand=False,
        category=found.pipeline_tag,
        categories=purposes(found.id, category=found.pipeline_tag, num_parameters=size, tags=tags),
        licence=licence,
        num_parameters=size,
        downloads=found.downloads,
        likes=found.likes,
        updated_at=found.last_modified,
        gated=bool(found.gated),
        memory=needs(usual_shape(size), machine, estimated=True) if size else [],
        why_not=_why_not(found.pipeline_tag, bool(size)),
    )


def _why_not(category: str | None, has_safetensors: bool) -> str:
    if not has_safetensors:
        return "It has no safetensors weights; other formats can run code when they are read."
    if category and category not in TRAINED_HERE:
        return f"The methods here train language models, not {category.replace('-', ' ')}."
    return ""
