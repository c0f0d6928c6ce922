"""The page that makes a new training job: step by step, or all on one page."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cache
from typing import Annotated, Any, Literal, NamedTuple

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse

from tunesmith.core.job_status import JobStatus, Priority
from tunesmith.core.recipe import Recipe
from tunesmith.core.tasks import TASKS
from tunesmith.features.catalog import collection, hub
from tunesmith.features.catalog import service as catalog
from tunesmith.features.catalog.cards import card_html
from tunesmith.features.catalog.search import search
from tunesmith.features.catalog.starter import STARTER_MODEL
from tunesmith.features.datasets.service import Datasets
from tunesmith.features.jobs import run_table
from tunesmith.features.jobs import service as jobs
from tunesmith.http.session import AppState, DbSession, State
from tunesmith.recipes.catalog import TRAINING
from tunesmith.recipes.describing import GROUPS, Setting, describe
from tunesmith.recipes.plans import Machine, read_machine
from tunesmith.schemas.datasets import DatasetRead
from tunesmith.schemas.models import Category, FoundModel, MemoryNeed, ModelRead, Size
from tunesmith.settings import Settings
from tunesmith.storage.database import Session
from tunesmith.ui.render import page
from tunesmith.ui.words import MODEL_SIZES

router = APIRouter(include_in_schema=False)

DATASETS_SHOWN = 12
MODELS_SHOWN = 24
SAVING_GROUPS = ("saving", "tracking")
"""Groups of settings that are shown in the step about saving; all others are shown as parameters."""
CPU_MOST_WEIGHTS = 1.5e9
"""Largest model that is suggested where there is no GPU: above it a training takes days."""
GATED = "Fetched from the hub, which gives it only to those who have accepted its terms there"
CHAT_WORDS = ("instruct", "chat", "-it")
STEPS = (
    ("dataset", "Dataset", "database"),
    ("model", "Model", "box"),
    ("method", "Method", "layers"),
    ("parameters", "Parameters", "sliders-horizontal"),
    ("saving", "Saving and start", "save"),
    ("review", "Review", "clipboard-check"),
)


class ModelCard(NamedTuple):
    """One model to choose."""

    name: str
    title: str
    kind: str
    """`base`, `tuned`, or `hub` for one that would be fetched first."""
    num_parameters: int | None
    licence: str | None
    memory: list[MemoryNeed]
    collected: bool
    suggested: bool = False
    note: str = ""
    why_not: str = ""

    @property
    def needs(self) -> dict[str, int]:
        """Method → bytes of memory that it takes at least."""
        return {need.method: need.memory_bytes for need in self.memory}

    @property
    def weights(self) -> str:
        """`135M weights`; empty where it is not known."""
        count = self.num_parameters or 0
        unit, size = next((pair for pair in (("B", 1e9), ("M", 1e6), ("k", 1e3)) if count >= pair[1]), ("", 1))
        return f"{count / size:.3g}{unit} weights" if count else ""


class Field(NamedTuple):
    """One setting on the page, with the methods that it belongs to."""

    setting: Setting
    methods: tuple[str, ...]
    key: str
    """Its own name on the page: methods may have the same setting with another default."""


@router.get("/jobs/new")
def show(
    request: Request,
    state: State,
    session: DbSession,
    copied_from: Annotated[int | None, Query(alias="from", ge=1, lt=2**63)] = None,
    fix: Annotated[str, Query(max_length=50)] = "",
    dataset: Annotated[int | None, Query(ge=1, lt=2**63)] = None,
    model: Annotated[str, Query(max_length=500)] = "",
    method: Annotated[str, Query(max_length=50)] = "",
    find: Annotated[str, Query(max_length=200)] = "",
    q: Annotated[str, Query(max_length=200)] = "",
    category: Category | Literal[""] = "",
    provider: Annotated[str, Query(max_length=96)] = "",
    size: Size | Literal[""] = "",
    licence: Annotated[str, Query(max_length=100)] = "",
    hub_too: Annotated[bool, Query(alias="hub")] = False,
) -> HTMLResponse:
    """`find` looks for datasets, `q` and what follows it for models; the rest fills the form in. `fix` is the code of a
    diagnosis of the job that is copied."""
    wanted = hub.Query(q, category or None, provider, size or None, licence)
    machine = read_machine()
    models, hub_problem = find_models(state, session, wanted, machine, ask_hub=hub_too)
    start = prefilled(session, copied_from, dataset, model, method)
    if copied_from and fix:
        start |= fixed(session, start["job"], copied_from, fix)
    methods = [method for method in jobs.methods(state.settings) if method.kind == "training"]
    start["defaults"] = {} if copied_from else defaults(state.settings)
    return page(
        request,
        "new_job/show.html",
        title="New training job",
        section="jobs",
        breadcrumb=[("Training jobs", "/jobs")],
        start=start,
        copied_from=copied_from,
        steps=STEPS,
        datasets=find_datasets(state, session, find, start["job"].get("dataset_id")),
        models=models,
        hub_problem=hub_problem,
        hub_offline=state.settings.hub_offline,
        machine=machine,
        methods=methods,
        guides={method.name: card_html(method.guide) for method in methods},
        tasks=TASKS,
        outcomes={recipe.name: outcome_of(recipe) for recipe in TRAINING},
        groups=GROUPS,
        fields=all_fields(),
        saving_groups=SAVING_GROUPS,
        waiting=waiting_jobs(session),
        off_peak=state.settings.off_peak,
        sizes=MODEL_SIZES,
        query=wanted,
        find=find,
    )


def prefilled(
    session: Session, copied_from: int | None, dataset: int | None, model: str, method: str
) -> dict[str, Any]:
    """What the form starts with: a copy of another job's request, and what the address names. Raises `NotFound`."""
    job = dict(jobs.get(session, copied_from).request) if copied_from else {}
    given = {"dataset_id": dataset, "model": model, "method": method}
    return {"job": {**job, **{name: value for name, value in given.items() if value}}, "from": copied_from}


def fixed(session: Session, job: dict[str, Any], copied_from: int, code: str) -> dict[str, Any]:
    """The copy with the settings that deal with a diagnosis of the other job; as it is when that is not made any more."""
    found = jobs.progress(session, copied_from, lambda _: {}).diagnosis
    changes = next((each.changes for each in found if each.code == code), {})
    return {
        "job": {**job, "hyperparameters": {**job.get("hyperparameters", {}), **changes}},
        "fix": code if changes else "",
    }


def defaults(settings: Settings) -> dict[str, Any]:
    """What the settings say that a new job begins with."""
    chosen = {"model": settings.default_model, "method": settings.default_method}
    if settings.default_priority != Priority.NORMAL:
        chosen["priority"] = settings.default_priority
    return {name: value for name, value in chosen.items() if value}


def find_datasets(state: AppState, session: Session, text: str, chosen: int | None) -> list[DatasetRead]:
    """Ready ones, newest first; the one that is chosen already comes first, whatever is looked for."""
    datasets = Datasets(state.settings, session, state.bus)
    found = datasets.page(status="ready", text=text or None, limit=DATASETS_SHOWN).items
    if chosen is None:
        return found
    row = datasets.rows.find(chosen)
    first = datasets.read([row]) if row else []
    return [*first, *(dataset for dataset in found if dataset.id != chosen)]


def find_models(
    state: AppState, session: Session, wanted: hub.Query, machine: Machine, *, ask_hub: bool
) -> tuple[list[ModelCard], str]:
    """Models at hand, the suggested one first; with `ask_hub` the hub's too, and why it said nothing if it did not."""
    collected = frozenset(collection.ids_by_name(session))
    if ask_hub:
        answer = search(state.settings, wanted, limit=MODELS_SHOWN, collected=collected)
        cards = [_found(model) for model in answer.items]
        tuned = (
            catalog.select(catalog.list_models(state.settings), text=wanted.text, kind="tuned") if wanted.text else []
        )
        return [*cards, *(_at_hand(state, model, machine, collected) for model in tuned[:6])], answer.hub_problem
    known = [model for model in catalog.list_models(state.settings) if model.format != "gguf"]
    cards = [_at_hand(state, model, machine, collected) for model in known[:MODELS_SHOWN]]
    return suggested_first(cards, machine, offline=state.settings.hub_offline), ""


def suggested_first(cards: list[ModelCard], machine: Machine, *, offline: bool = False) -> list[ModelCard]:
    """The same with the one marked that suits this machine best: the largest that trains in sensible time with LoRA.

    Where none is at hand it is the starter model, unless no hub may be asked.
    """
    most = CPU_MOST_WEIGHTS if machine.device == "cpu" else float("inf")
    fitting = [
        card for card in cards if card.kind == "base" and _fits(card, "lora") and (card.num_parameters or 0) <= most
    ]
    if not fitting:
        starter = ModelCard(
            STARTER_MODEL, STARTER_MODEL, "hub", 134_515_008, "apache-2.0", [], False, True, "Small and quick"
        )
        return cards if offline or any(card.kind == "base" for card in cards) else [starter, *cards]
    best = max(
        fitting, key=lambda card: (any(word in card.name.lower() for word in CHAT_WORDS), card.num_parameters or 0)
    )
    return [best._replace(suggested=True), *(card for card in cards if card is not best)]


def _fits(card: ModelCard, method: str) -> bool:
    return any(need.method == method and need.fit == "fits" for need in card.memory)


def _at_hand(state: AppState, model: ModelRead, machine: Machine, collected: Iterable[str]) -> ModelCard:
    told = catalog.with_memory(state.settings, model, machine)
    made = f"{model.method} on {model.dataset_name or 'a dataset'}, from {model.base_model}"
    return ModelCard(
        name=model.name,
        title=model.title or model.name if model.kind == "tuned" else model.name,
        kind=model.kind,
        num_parameters=model.num_parameters,
        licence=model.licence,
        memory=told.memory,
        collected=model.name in collected,
        note=made if model.kind == "tuned" else "On this machine",
    )


def _found(model: FoundModel) -> ModelCard:
    return ModelCard(
        name=model.name,
        title=model.name,
        kind="base" if model.at_hand else "hub",
        num_parameters=model.num_parameters,
        licence=model.licence,
        memory=model.memory,
        collected=model.collected,
        note="On this machine"
        if model.at_hand
        else GATED
        if model.gated
        else "Fetched from the hub when the job starts",
        why_not=model.why_not,
    )


def outcome_of(recipe: Recipe) -> list[str]:
    """What a job of the recipe leaves, and what can be done with it."""
    output = recipe.model_output
    if output is None:
        return [f"What it leaves in {recipe.produces}."] if recipe.produces else []
    kinds = " or ".join(_within_a_sentence(kind.title) for kind in output.kinds)
    is_talked_to = recipe.task == "text-generation"
    try_it = "Chat with it in the playground" if is_talked_to else "Try it on the job's page"
    article = "An" if kinds[:1].lower() in "aeiou" else "A"
    return [
        f"{article} {kinds}, with model card and training report.",
        f"{try_it} at once, deploy it, or download it as one archive.",
    ]


def _within_a_sentence(title: str) -> str:
    """`text classifier`, but `LoRA adapter`."""
    return title[:1].lower() + title[1:] if title.split()[0][1:].islower() else title


@cache
def all_fields() -> dict[str, list[Field]]:
    """Group → its settings, over all methods; a setting that differs between methods comes once for each way it is."""
    found: dict[Setting, list[str]] = {}
    for recipe in TRAINING:
        for setting in describe(recipe.params):
            found.setdefault(setting._replace(default=_frozen(setting.default)), []).append(recipe.name)
    fields: dict[str, list[Field]] = {group: [] for group in GROUPS}
    seen: dict[str, int] = {}
    for setting, methods in found.items():
        seen[setting.name] = seen.get(setting.name, 0) + 1
        number = seen[setting.name]
        key = setting.name.replace(".", "-") + (f"-{number}" if number > 1 else "")
        fields[setting.group].append(Field(setting, tuple(methods), key))
    return fields


def _frozen(value: Any) -> Any:
    """The same as a value that can be compared with others in a set."""
    if isinstance(value, dict):
        return json.dumps(value) if value else None
    return tuple(value) if isinstance(value, list) else value


def waiting_jobs(session: Session) -> list[Any]:
    """Jobs after which another can start."""
    active = (JobStatus.QUEUED, JobStatus.RUNNING, JobStatus.PAUSED, JobStatus.CREATED)
    return run_table.list_jobs(session, status=active, limit=50).items
