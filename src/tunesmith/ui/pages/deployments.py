"""The pages of deployments: what is in use where, putting a model in use, and one deployment."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple
from urllib.parse import quote, urlencode

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import HTMLResponse
from pydantic import BaseModel

from tunesmith.core.acting import Role, Scope, current
from tunesmith.features.catalog import service as catalog
from tunesmith.features.catalog.cards import card_html
from tunesmith.features.deployments import reading, service, targets
from tunesmith.features.registry import listing
from tunesmith.http.pagination import Cursor
from tunesmith.http.policy import needs
from tunesmith.http.session import AppState, DbSession, State
from tunesmith.recipes.describing import Setting, describe
from tunesmith.schemas.deployments import (
    Comparison,
    DeploymentMetrics,
    DeploymentRead,
    LocalSettings,
    RevisionRead,
    Rollout,
    SamplingDefaults,
    TargetName,
    VariantStats,
    suggested_name,
)
from tunesmith.storage.database import Session
from tunesmith.ui.pages.deployment_use import snippets
from tunesmith.ui.pages.prediction import predict_columns
from tunesmith.ui.render import page
from tunesmith.ui.words import duration, percent

router = APIRouter(include_in_schema=False)

DeploymentId = Annotated[int, Path(ge=1, lt=2**63)]
Tab = Literal["overview", "use", "requests", "history", "settings"]
TITLE, BREADCRUMB = "Deployments", ("Deployments", "/deployments")
PAGE = 24
PAGE_OF_REQUESTS = 30
MAX_CHOICES = 200
"""Models that forms offer."""
GLANCE_S = 3600.0
"""What the list tells of each deployment: the last hour."""
TARGETS = {"local": ("This machine", "server"), "ollama": ("Ollama", "bird"), "lmstudio": ("LM Studio", "monitor"),
           "huggingface": ("Hugging Face hub", "cloud-upload"), "cloud": ("Cloud or container", "container")}  # fmt: skip
STATES = {"ready": ("Ready", "good"), "deploying": ("Getting ready", "info"), "degraded": ("Needs attention", "warn"),
          "failed": ("Failed", "bad"), "stopped": ("Undeployed", "")}  # fmt: skip
ROLES = {"live": "Live", "candidate": "Candidate", "shadow": "Shadow", "retired": "Retired"}
WINDOWS = ((600, "10 min"), (3600, "1 hour"), (86_400, "1 day"), (7 * 86_400, "7 days"))
FIRST_SETTINGS = {
    "local": ("engine", "context_tokens", "max_concurrent", "record_conversations"),
    "ollama": ("format", "context_tokens"),
    "lmstudio": ("format",),
    "huggingface": ("repo", "public", "licence"),
    "cloud": ("provider", "engine", "format"),
}
"""What most people set; the rest is folded away."""
TITLES = {
    "context_tokens": "Longest request (tokens)",
    "max_concurrent": "Requests at the same time",
    "queue_limit": "Requests that may wait",
    "requests_per_minute": "Requests a minute, of each caller",
    "cache_s": "Keep answers for",
    "threads": "Processor threads",
    "min_requests": "Requests before it is judged",
    "max_error_rate": "Most requests that may fail (share)",
    "max_p95_latency_s": "Longest p95 latency",
    "health_every_s": "Look at it every",
    "window_s": "Judge the last",
    "max_drift": "Warn of drift from",
    "repo": "Repository",
    "gpu": "With a GPU",
    "gguf": "GGUF formats besides",
    "top_p": "Top p",
    "top_k": "Top k",
}
"""Of settings whose name says too little."""
STRATEGIES = (
    ("replace", "Replace", "As soon as it is ready, everything goes to it. What was live stays until then."),
    ("canary", "Canary", "It gets a small share first and more step by step; back at once when it does worse."),
    ("ab", "A/B test", "Both answer at fixed shares, each caller always by the same one, until one is significantly better."),
    ("shadow", "Shadow", "It gets copies of requests, and nobody sees its answers: to measure it without a risk."),
)  # fmt: skip
JUDGED = {
    "error_rate": ("Requests that fail", False),
    "latency": ("Time to answer, p95", False),
    "rating": ("Answers that are liked", True),
}
"""In words, and whether more is better."""


class Card(NamedTuple):
    """One deployment in the list."""

    deployment: DeploymentRead
    stats: VariantStats | None
    """Of the last hour; None where requests do not pass through here."""
    requests: list[float]
    """Over that hour."""


class Part(NamedTuple):
    """One model's share of the traffic."""

    revision: RevisionRead
    begin: float
    width: float
    """Per cent, both."""


@router.get("/deployments")
def show_list(
    request: Request,
    state: State,
    session: DbSession,
    q: Annotated[str, Query(max_length=80)] = "",
    target: Annotated[TargetName | Literal[""], Query()] = "",
    cursor: Cursor = None,
) -> HTMLResponse:
    """Newest first, each with its last hour."""
    found = reading.list_deployments(
        session, base_url(state, request), target=target or None, text=q or None, cursor=cursor, limit=PAGE
    )
    asked = {"q": q, "target": target}
    return page(
        request, "deployments/list.html", title=TITLE, section="deployments", asked=asked,
        cards=[_card(session, deployment) for deployment in found.items],
        newest=newest_model(state, session) if not found.items and not (q or target) else "",
        next_url=_address({**asked, "cursor": found.next_cursor}) if found.next_cursor else "",
        first_url=_address(asked) if cursor else "", **WORDS,
    )  # fmt: skip


@router.get("/deployments/new")
@needs(Scope.DEPLOY)
def show_new(
    request: Request,
    state: State,
    session: DbSession,
    model: Annotated[str, Query(max_length=500)] = "",
    target: Annotated[TargetName, Query()] = "local",
) -> HTMLResponse:
    """Choose a model and a place for it. `system` and names of sampling settings in the address are what a form begins with:
    the playground carries its own over."""
    name = suggested_name(model)
    there = reading.list_deployments(
        session, base_url(state, request), target=None, text=name or None, cursor=None, limit=MAX_CHOICES
    )
    places = reading.list_targets()
    if any(each.name == target and each.why_not for each in places):
        target = "local"
    return page(
        request, "deployments/new.html", title="Deploy a model", section="deployments", breadcrumb=[BREADCRUMB],
        model=model, name=name, target=target, targets=places, models=model_names(state, session),
        existing=next((each for each in there.items if name and each.name == name and may_change(each)), None),
        groups=settings_groups(target), sampling=describe(SamplingDefaults), values=_sampling_asked(request), system=request.query_params.get("system", "")[:20_000],
        **WORDS,
    )  # fmt: skip


@router.get("/deployments/{deployment_id}")
def show_one(
    request: Request,
    state: State,
    session: DbSession,
    deployment_id: DeploymentId,
    tab: Annotated[Tab, Query()] = "overview",
    window: Annotated[int, Query(ge=10, le=30 * 86_400)] = 3600,
    failed: Annotated[bool | None, Query()] = None,
    rating: Annotated[Literal["up", "down", ""], Query()] = "",
    cursor: Cursor = None,
) -> HTMLResponse:
    """One deployment. Raises `NotFound`."""
    row = service.seen(session, deployment_id)
    told = reading.read(session, row, base_url(state, request))
    everything = reading.read(session, row, "", all_revisions=True).revisions
    about = reading.about_of(session, row)
    context: dict[str, Any] = {"about": about}
    if tab == "overview":
        metrics = reading.metrics(session, deployment_id, window)
        context |= {"metrics": metrics, "window": window, "windows": WINDOWS} | _traffic(told, metrics)
    elif tab == "requests":
        found = reading.requests(
            session, deployment_id, failed=failed, rating=rating or None, cursor=cursor, limit=PAGE_OF_REQUESTS
        )
        asked = {"tab": tab, "failed": "" if failed is None else str(failed).lower(), "rating": rating}
        context |= {"requests": found.items, "asked": asked} | _pages(told, asked, cursor, found.next_cursor)
    elif tab == "history":
        log = reading.history(session, deployment_id, cursor=cursor, limit=PAGE_OF_REQUESTS)
        context |= {"events": log.items} | _pages(told, {"tab": tab}, cursor, log.next_cursor)
    elif tab == "settings":
        context |= {"groups": settings_groups(told.target), "sampling": describe(SamplingDefaults)}
    else:
        context["snippets"] = snippets(told, about, with_key=request.app.state.doorkeeper.is_on)
    return page(
        request, f"deployments/{tab}.html", title=told.name, section="deployments", breadcrumb=[BREADCRUMB],
        deployment=told, tab=tab, tabs=_tabs(told), everything=everything, numbers={each.id: each for each in everything},
        models=model_names(state, session), strategies=STRATEGIES if told.target == service.LOCAL else STRATEGIES[:1],
        plan=Rollout(model="-"), candidate=_candidate(told), can_go_back=_can_go_back(told, everything),
        is_mine=may_change(told), instructions=_instructions(told), **context, **WORDS,
    )  # fmt: skip


# -- what the pages show ------------------------------------------------------------------------------------------------


def _card(session: Session, deployment: DeploymentRead) -> Card:
    if deployment.target != service.LOCAL:
        return Card(deployment, None, [])
    stats, series = reading.recent(session, deployment.id, GLANCE_S)
    return Card(deployment, stats, [float(piece.requests) for piece in series])


def shares(deployment: DeploymentRead) -> list[Part]:
    """Who gets how much of the traffic, as the gateway shares it out: a candidate has its share once it is ready."""
    by_role = {revision.role: revision for revision in deployment.revisions}
    live, candidate = by_role.get("live"), by_role.get("candidate")
    theirs = candidate.percent if candidate and candidate.status == "ready" else 0.0
    parts = [Part(live, 0.0, 100.0 - theirs)] if live else []
    return [*parts, Part(candidate, 100.0 - theirs, theirs)] if candidate and theirs else parts


def _traffic(deployment: DeploymentRead, metrics: DeploymentMetrics) -> dict[str, Any]:
    """Shares of the models in use, and how soon the live one begins to answer."""
    parts = shares(deployment)
    live = next((part.revision.number for part in parts if part.revision.role == "live"), 0)
    return {
        "parts_of_traffic": parts,
        "shares_by_number": {part.revision.number: part.width for part in parts},
        "first_token_s": metrics.variants.get(live, VariantStats()).p50_first_token_s,
    }


def _instructions(deployment: DeploymentRead) -> str:
    """What a foreign target says to do next, as HTML that can do nothing."""
    live = next((revision for revision in deployment.revisions if revision.role == "live"), None)
    return card_html(str((live.result or {}).get("instructions") or "")) if live else ""


def _candidate(deployment: DeploymentRead) -> RevisionRead | None:
    """What can be promoted or taken back."""
    waiting = [revision for revision in deployment.revisions if revision.role in ("candidate", "shadow")]
    return waiting[0] if waiting else None


def _can_go_back(deployment: DeploymentRead, everything: list[RevisionRead]) -> bool:
    """Whether there is a candidate to take back, or a model that was live before."""
    before = any(each.role == "retired" and each.status == "retired" and each.ready_at for each in everything)
    return deployment.wanted == "running" and (_candidate(deployment) is not None or before)


def verdict(compared: Comparison) -> tuple[str, str]:
    """What a comparison says, and its tone."""
    if compared.p_value is None or compared.live is None or compared.candidate is None:
        return "Too few requests to say", ""
    if not compared.significant or compared.candidate == compared.live:
        return "No significant difference", ""
    is_better = (compared.candidate > compared.live) == JUDGED[compared.metric][1]
    return ("Significantly better", "good") if is_better else ("Significantly worse", "bad")


def judged_value(compared: Comparison, value: float | None) -> str:
    return duration_of(value) if compared.metric == "latency" else percent(value, 1)


def duration_of(seconds: float | None) -> str:
    """`230 ms`, `4.2 s`."""
    return f"{seconds * 1000:.0f} ms" if seconds is not None and seconds < 1 else duration(seconds)


def progress(metrics: DeploymentMetrics, revision: RevisionRead) -> str:
    """How far a candidate is on its way, in words."""
    plan = Rollout.model_validate(revision.plan)
    if revision.status != "ready":
        return "It is being started." if revision.status in ("pending", "starting") else revision.reason
    seen = metrics.variants.get(revision.number, VariantStats()).requests
    needed = f"{min(seen, plan.min_requests)} of {plan.min_requests} requests that a decision needs"
    if plan.strategy == "canary":
        at = f"Step {min(revision.step, len(plan.steps) - 1) + 1} of {len(plan.steps)}"
        return f"{at}: {needed}, and {duration(plan.step_s)} at each step." if plan.auto else f"{at}: you decide."
    if plan.strategy == "ab" and plan.auto:
        return f"Decided by {JUDGED[plan.metric][0].lower()}: {needed}."
    return "It gets copies only; promote it when you trust it." if plan.strategy == "shadow" else "You decide."


def settings_of(target: str) -> type[BaseModel]:
    return LocalSettings if target == service.LOCAL else targets.find(target).Settings


def settings_groups(target: str) -> tuple[list[Setting], list[Setting]]:
    """A target's settings: those that most people set, and the rest."""
    told, first = describe(settings_of(target)), FIRST_SETTINGS[target]
    by_name = {setting.name: setting for setting in told}
    return [by_name[name] for name in first], [setting for setting in told if setting.name not in first]


def setting_title(setting: Setting) -> str:
    """With its unit."""
    above, _, name = setting.name.rpartition(".")
    title = TITLES.get(name) or setting.title
    title = title.removesuffix(" s") + " (seconds)" if name.endswith("_s") else title
    return f"{above.capitalize()}: {title[0].lower()}{title[1:]}" if above else title


def value_at(values: dict[str, Any], setting: Setting) -> Any:
    """What is set, else the default."""
    place: Any = values
    for name in setting.name.split("."):
        if not isinstance(place, dict) or name not in place:
            return setting.default
        place = place[name]
    return place


def _sampling_asked(request: Request) -> dict[str, Any]:
    asked = request.query_params
    found: dict[str, Any] = {name: asked[name][:1000] for name in SamplingDefaults.model_fields if asked.get(name)}
    if "stop" in found:
        found["stop"] = [word.strip() for word in found["stop"].split(",") if word.strip()]
    return found


def text_of(content: Any) -> str:
    """What a message says; parts that are no text by their kind."""
    if not isinstance(content, list):
        return "" if content is None else str(content)
    said = (part.get("text") or f"[{part.get('type')}]" if isinstance(part, dict) else str(part) for part in content)
    return "\n".join(str(each) for each in said)


def pairs_of(choices: tuple[str, ...]) -> list[tuple[str, str]]:
    """As a select takes them."""
    return [(choice, choice) for choice in choices]


def model_names(state: AppState, session: Session) -> list[tuple[str, str]]:
    """`(name, what it is)` of models that can be deployed: of the registry first."""
    found: dict[str, str] = {}
    for model in listing.list_names(session, text=None, cursor=None, limit=MAX_CHOICES).items:
        for alias, version in model.aliases.items():
            found[f"{model.name}@{alias}"] = f"registry, version {version}"
        if model.latest:
            found[f"{model.name}@latest"] = f"registry, version {model.latest.version}"
            found.setdefault(f"{model.name}@{model.latest.version}", "registry")
    for each in catalog.list_models(state.settings):
        found.setdefault(each.name, f"tuned: {each.title}" if each.kind == "tuned" else "base model")
    return list(found.items())[:MAX_CHOICES]


def newest_model(state: AppState, session: Session) -> str:
    """What is deployed most likely: the newest of the registry, else any on this machine; empty without any."""
    newest = listing.list_names(session, text=None, cursor=None, limit=1).items
    if newest and newest[0].latest:
        return f"{newest[0].name}@latest"
    models = catalog.list_models(state.settings)
    return next((model.name for model in models if model.kind == "tuned"), models[0].name if models else "")


def may_change(deployment: DeploymentRead) -> bool:
    """Whether its buttons are shown; the server looks again."""
    who = current()
    return who.may(Scope.DEPLOY) and (who.user_id is None or who.role == Role.ADMIN or deployment.owner == who.name)


def base_url(state: AppState, request: Request) -> str:
    """This server as the settings say, else as the browser knows it; the guard has checked the host."""
    return state.settings.public_url or f"{request.scope['scheme']}://{request.headers['host']}"


def model_link(name: str | None) -> str:
    """The page of a model."""
    if not name:
        return ""
    ref, at, version = name.partition("@")
    return f"/registry/{quote(ref)}/{quote(version)}" if at else f"/models/{quote(name)}"


def _tabs(deployment: DeploymentRead) -> list[tuple[str, str]]:
    named = [
        ("overview", "Overview"),
        ("use", "Use it"),
        ("requests", "Requests"),
        ("history", "History"),
        ("settings", "Settings"),
    ]
    return [tab for tab in named if tab[0] not in ("use", "requests") or deployment.target == service.LOCAL]


def _pages(deployment: DeploymentRead, asked: dict[str, Any], cursor: int | None, after: int | None) -> dict[str, str]:
    here = f"/deployments/{deployment.id}"
    return {
        "next_url": _address({**asked, "cursor": after}, here) if after else "",
        "first_url": _address(asked, here) if cursor else "",
    }


def _address(asked: dict[str, Any], path: str = "/deployments") -> str:
    query = {name: value for name, value in asked.items() if value not in ("", None)}
    return f"{path}?{urlencode(query)}" if query else path


WORDS: dict[str, Any] = {
    "states": STATES, "target_names": TARGETS, "roles": ROLES, "judged": JUDGED, "verdict": verdict, "judged_value": judged_value,
    "time_of": duration_of, "progress": progress, "setting_title": setting_title, "value_at": value_at, "model_link": model_link,
    "text_of": text_of, "pairs_of": pairs_of, "metric_options": [(name, JUDGED[name][0]) for name in JUDGED],
    "predict_columns": predict_columns,
}  # fmt: skip
