"""The pages of models: what is here, what the hub has, the collection, and one model."""

from __future__ import annotations

from typing import Any, get_args
from urllib.parse import quote, urlencode

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from tunesmith.core.clock import utc_now
from tunesmith.core.errors import TunesmithError
from tunesmith.features.catalog import checking, collection, detail, downloads, hub, library, recommending, service
from tunesmith.features.catalog.cards import card_html, front_matter
from tunesmith.features.catalog.licences import licence
from tunesmith.features.catalog.purposes import ABOUT, PROVIDERS, PURPOSES
from tunesmith.features.catalog.search import search
from tunesmith.features.chat import ratings
from tunesmith.features.registry import service as registry
from tunesmith.http.session import AppState, State
from tunesmith.recipes.catalog import RECIPES
from tunesmith.recipes.plans import read_machine
from tunesmith.schemas.models import (
    Category,
    DownloadRead,
    HubSort,
    MemoryNeed,
    MemoryUse,
    ModelDetail,
    ModelRead,
    ModelSort,
    UseCase,
)
from tunesmith.ui.render import page
from tunesmith.ui.scores import of_version
from tunesmith.ui.words import MODEL_SIZES

router = APIRouter(include_in_schema=False)

TABS = ("here", "hub", "recommended", "check", "collection")
DETAIL_TABS = ("overview", "files", "versions", "ratings", "card", "use")
SHOWN = 48
"""Models on one page."""
FOUND = 30
"""Search results on one page."""
SORTS = {"newest": "Newest first", "name": "Name", "size": "Largest first", "score": "Best loss first"}
HUB_SORTS = {
    "trending": "Trending",
    "downloads": "Most downloads",
    "likes": "Most likes",
    "updated": "Recently updated",
}
LICENCES = ("apache-2.0", "mit", "bsd-3-clause", "llama3.1", "llama3.2", "llama3.3", "gemma", "cc-by-4.0", "openrail")
OF_THE_RUN = {
    "training_s": "Training time",
    "evaluation_s": "Evaluation time",
    "checkpoint_s": "Checkpoint time",
    "train_steps": "Steps",
}
METRICS = {
    "eval_loss": "Held-out loss",
    "perplexity": "Perplexity on held-out rows",
    "check_perplexity": "Perplexity on the check text",
    "loss": "Training loss",
    "train_loss": "Training loss",
}
"""The first of these that a model has stands on its card."""
ENDED_SHOWN_S = 600.0
"""How long a download that is over is still shown above the models, seconds."""
USE_TONES = {"fits": ("Fits", "good"), "tight": ("Tight", "warn"), "too_large": ("Too large", "bad"),
             "unavailable": ("Cannot run here", "")}  # fmt: skip
FITS = {
    "standard": ("Fits any method", "good"),
    "lora": ("Fits with LoRA", "good"),
    "qlora": ("Fits with QLoRA", "info"),
}


@router.get("/models")
def show(request: Request, state: State, tab: str = "here") -> HTMLResponse:
    tab = tab if tab in TABS else "here"
    with state.database.unit_of_work(readonly=True) as session:
        collected = collection.ids_by_name(session)
        entries = (
            collection.list_collected(state.settings, session, cursor=None, limit=500).items
            if tab == "collection"
            else []
        )
    models = service.list_models(state.settings)
    context: dict[str, Any] = {"collected": collected, "num_models": len(models), "entries": entries}
    if tab == "here":
        context |= _here(state, request, models)
    elif tab == "hub":
        context |= _hub(state, request, frozenset(collected))
    elif tab == "recommended":
        context |= _recommended(state, request, frozenset(collected))
    elif tab == "check":
        context |= _check(state, request)
    return page(
        request, f"models/{tab}.html", title="Models", section="models", tab=tab, badge=fit_badge, metric=metric,
        needs_text=needs_text, downloads=_downloads(state), use_tone=USE_TONES, **context,
    )  # fmt: skip


@router.get("/models/{name:path}")
def show_one(
    request: Request,
    state: State,
    name: str,
    tab: str = "overview",
    tool: str = "",
    verdict: str = "",
    cursor: str = "",
) -> HTMLResponse:
    tab = tab if tab in DETAIL_TABS else "overview"
    found = detail.detail(state.settings, name, own_address(request))
    with state.database.unit_of_work(readonly=True) as session:
        collected = collection.ids_by_name(session)
        counts = ratings.counts(session, name)
        version = registry.of_job(session, found.model.job_id) if found.model.job_id else None
        scores = of_version(version.scores) if version else []
        judged = None
        if tab == "ratings":
            judged = ratings.list_ratings(
                session,
                model=name,
                verdict=_one_of(("up", "down"), verdict),
                text=None,
                cursor=_number(cursor),
                limit=30,
            )
    if tab == "files" and is_part(request):
        found.files = detail.checksums(state.settings, name)
    tools = {snippet.key: snippet for snippet in found.use}
    return page(
        request, f"models/{tab}.html", title=found.model.title or name, section="models", breadcrumb=[("Models", "/models")],
        found=found, model=found.model, tab=tab, tabs=_tabs(found, sum(c.up + c.down for c in counts)), collected=collected,
        scores=scores, counts=counts[0] if counts else None, judged=judged, verdict=verdict, tool=tools.get(tool, found.use[0]),
        facts=front_matter(found.card), card=card_html(found.card) if tab == "card" else "", badge=fit_badge, metric=metric,
        metric_name=metric_name, link=link, needs_text=needs_text, licensed=licence(found.model.licence), names=_names(state, found), next_url=_next(request, judged),
    )  # fmt: skip


def _here(state: AppState, request: Request, models: list[Any]) -> dict[str, Any]:
    """The models on this machine that fit the query, and the query itself."""
    asked = request.query_params
    chosen = {
        "q": asked.get("q", "")[:200],
        "kind": _one_of(("base", "tuned"), asked.get("kind")),
        "method": _one_of([recipe.name for recipe in RECIPES], asked.get("method")),
        "category": _one_of(PURPOSES, asked.get("category")),
        "provider": asked.get("provider", "")[:96],
        "sort": _one_of(get_args(ModelSort), asked.get("sort")) or "newest",
        "view": _one_of(("cards", "table"), asked.get("view")) or "cards",
    }
    found = service.select(
        models,
        text=chosen["q"],
        kind=chosen["kind"],
        method=chosen["method"],
        category=chosen["category"],
        provider=chosen["provider"] or None,
        sort=chosen["sort"],  # type: ignore[arg-type]
    )
    start, machine = _number(asked.get("cursor")) or 0, read_machine()
    shown = [service.with_memory(state.settings, model, machine) for model in found[start : start + SHOWN]]
    more = start + SHOWN if len(found) > start + SHOWN else None
    return {
        "models": shown, "total": len(found), "chosen": chosen, "categories": _chips(models), "providers": _organisations(models),
        "kinds": [("", "All kinds"), ("tuned", "Tuned"), ("base", "Base")],
        "methods": [("", "Any method"), *((recipe.name, recipe.title) for recipe in RECIPES if recipe.produces)],
        "sorts": list(SORTS.items()), "views": {view: _with(request, view=view) for view in ("cards", "table")},
        "next_url": _with(request, cursor=more) if more else "", "first_url": _with(request, cursor=None) if start else "",
    }  # fmt: skip


def _hub(state: AppState, request: Request, collected: frozenset[str]) -> dict[str, Any]:
    """What the hub has; asked only by the part of the page that may wait for it."""
    asked = request.query_params
    category = _one_of((*get_args(Category), *PURPOSES), asked.get("category", "text-generation"))
    query = hub.asked_for(
        asked.get("q", "")[:200], category,
        asked.get("provider", "")[:96], _one_of(MODEL_SIZES, asked.get("size")), asked.get("licence", "")[:100],  # type: ignore[arg-type]
        _one_of(get_args(HubSort), asked.get("sort")) or "trending",  # type: ignore[arg-type]
    )  # fmt: skip
    start = _number(asked.get("cursor"))
    found = search(state.settings, query, cursor=start, limit=FOUND, collected=collected) if is_part(request) else None
    more = found.next_cursor if found else None
    return {
        "found": found, "query": query, "category": category or "",
        "chips": [(key, ABOUT[key][0], ABOUT[key][1], _with(request, category=key)) for key in PURPOSES], "sizes": [("", "Any size"), *MODEL_SIZES.items()], "sorts": list(HUB_SORTS.items()),
        "purposes": [(key, ABOUT[key][0]) for key in PURPOSES],
        "categories": [(c, c.replace("-", " ").capitalize()) for c in get_args(Category) if c not in PURPOSES],
        "providers": PROVIDERS, "licences": LICENCES, "first_url": _with(request, cursor=None) if start else "",
        "next_url": _with(request, cursor=more) if more else "",
    }  # fmt: skip


def _recommended(state: AppState, request: Request, collected: frozenset[str]) -> dict[str, Any]:
    """What to take for a purpose."""
    asked = request.query_params
    use_case: Any = _one_of(get_args(UseCase), asked.get("use_case")) or "chat"
    commercial = asked.get("commercial") == "true"
    found = recommending.recommend(
        state.settings, use_case, read_machine(), limit=12, commercial=commercial, collected=collected
    )
    return {
        "found": found, "use_case": use_case, "commercial": commercial,
        "use_cases": [(key, text, _with(request, use_case=key)) for key, text in recommending.USE_CASES.items()],
    }  # fmt: skip


def _check(state: AppState, request: Request) -> dict[str, Any]:
    """Whether one model can be used; the hub is asked only by the part of the page that may wait for it."""
    name = request.query_params.get("name", "").strip()[:500]
    found, problem = None, None
    if name and is_part(request):
        try:
            found = checking.check(state.settings, name)
        except TunesmithError as error:
            problem = error
    return {"name": name, "found": found, "problem": problem, "slices": slices}


def slices(use: MemoryUse) -> list[tuple[str, float, float]]:
    """`(part, begin, width)` in percent of the larger of need and memory, for the bar of one way to use a model."""
    whole = max(use.memory_bytes, use.available_bytes, 1)
    found, begin = [], 0.0
    for part in use.parts:
        width = 100 * part.bytes / whole
        found.append((part.name, begin, width))
        begin += width
    return found


def _downloads(state: AppState) -> list[DownloadRead]:
    """Under way, and those that ended a short while ago."""
    now = utc_now()
    recent = downloads.list_downloads(state.settings, cursor=None, limit=20).items
    return [one for one in recent if not one.ended_at or (now - one.ended_at).total_seconds() < ENDED_SHOWN_S]


def _chips(models: list[ModelRead]) -> list[tuple[str, str, str, int]]:
    """`(key, title, what it means, how many)` of the categories that are at hand."""
    counts = {key: sum(key in model.categories for model in models) for key in PURPOSES}
    return [(key, *ABOUT[key], counts[key]) for key in PURPOSES if counts[key]]


def _organisations(models: list[ModelRead]) -> list[str]:
    return sorted({model.name.partition("/")[0] for model in models if "/" in model.name}, key=str.lower)


def is_part(request: Request) -> bool:
    """Whether the page itself asks, for a part that may take its time."""
    return request.headers.get("hx-request") == "true"


def own_address(request: Request) -> str:
    """This server as the browser knows it; the guard has checked the host."""
    return f"{request.scope['scheme']}://{request.headers['host']}"


def link(name: str) -> str:
    """The page of a model."""
    return f"/models/{quote(name)}"


def metric_name(name: str) -> str:
    """A metric in words; times are shown with their unit."""
    return METRICS.get(name) or OF_THE_RUN.get(name, name.removesuffix("_s").replace("_", " ").capitalize())


def metric(model: Any) -> tuple[str, float] | None:
    """The number that stands for how good it is."""
    return next(((METRICS[name], model.metrics[name]) for name in METRICS if name in model.metrics), None)


def fit_badge(memory: list[MemoryNeed]) -> tuple[str, str, str] | None:
    """`(text, tone, explanation)`: the most demanding method that this machine has room for."""
    if not memory:
        return None
    ways = {need.method: need for need in memory}
    why = needs_text(memory)
    for method, (text, tone) in FITS.items():
        if ways[method].fit == "fits":
            return text, tone, why
    for method, (text, _) in reversed(FITS.items()):
        if ways[method].fit == "tight":
            return text.replace("Fits", "Tight"), "warn", why
    return "Too large here", "bad", why


def needs_text(memory: list[MemoryNeed]) -> str:
    """The need of each method in words."""
    parts = [f"{need.method} {need.memory_bytes / 1e9:.1f} GB" for need in memory if need.fit != "unavailable"]
    about = "about " if memory and memory[0].estimated else ""
    where = "GPU memory" if memory and memory[0].device == "cuda" else "memory"
    has = f" of {memory[0].available_bytes / 1e9:.0f} GB {where}" if memory else ""
    return f"Training takes {about}{', '.join(parts)}{has}." if parts else ""


def _tabs(found: ModelDetail, num_ratings: int) -> list[tuple[str, str, int | None]]:
    return [
        ("overview", "Overview", None),
        ("use", "Use it", None),
        ("files", "Files", len(found.files)),
        ("versions", "Versions", len(found.versions)),
        ("ratings", "Ratings", num_ratings),
        ("card", "Model card", None),
    ]


def _names(state: AppState, found: ModelDetail) -> dict[str, str]:
    """What people call the models that the page links to."""
    titles = {model.name: model.title for model in found.versions} | {found.model.name: found.model.title}
    for name in found.lineage.used_by:
        other = library.tuned_model(state.settings, int(name.removeprefix("job:")))
        titles[name] = other.title if other else name
    return titles


def _next(request: Request, judged: Any) -> str:
    return _with(request, cursor=judged.next_cursor) if judged and judged.next_cursor else ""


def _with(request: Request, **changes: Any) -> str:
    """This address with other values in its query; None takes one out."""
    values = {**request.query_params, **changes}
    if "cursor" not in changes:
        values.pop("cursor", None)
    kept = {name: value for name, value in values.items() if value not in (None, "")}
    return f"{quote(request.scope['path'])}?{urlencode(kept)}"


def _one_of(allowed: Any, value: str | None) -> str | None:
    """What is not allowed counts as not asked for."""
    return value if value in allowed else None


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isdecimal() and len(text) < 16 else None
