"""REST routes of models."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query

from tunesmith.core.acting import Scope
from tunesmith.features.catalog import checking, collection, detail, hub, library, purposes, recommending, service
from tunesmith.features.catalog.search import search
from tunesmith.http.pagination import Cursor, Limit
from tunesmith.http.policy import declare
from tunesmith.http.session import DbSession, State
from tunesmith.recipes.plans import read_machine
from tunesmith.schemas.common import ErrorBody, Page
from tunesmith.schemas.models import (
    Category,
    CategoryList,
    CollectedCreate,
    CollectedRead,
    CollectedUpdate,
    HubSort,
    ModelCheck,
    ModelDetail,
    ModelFile,
    ModelRead,
    ModelSearch,
    ModelSort,
    Purpose,
    RecommendationList,
    Size,
    UseCase,
)

router = APIRouter(prefix="/models", tags=["models"])

CollectedId = Annotated[int, Path(ge=1, lt=2**63, description="The entry's number.", examples=[1])]
Name = Annotated[str, Query(max_length=500, description="A hub id, a local name, or `job:<id>`.", examples=["job:1"])]
Text = Annotated[str | None, Query(max_length=200)]
NOT_HERE: dict[int | str, dict[str, Any]] = {404: {"model": ErrorBody, "description": "No such model here."}}


@router.get("/", summary="Models at hand")
def list_models(
    state: State,
    session: DbSession,
    q: Annotated[str | None, Query(max_length=200, description="Part of name, base model or dataset.")] = None,
    kind: Annotated[Literal["base", "tuned"] | None, Query(description="Base models, or what jobs have made.")] = None,
    method: Annotated[str | None, Query(max_length=50)] = None,
    base: Annotated[str | None, Query(max_length=500, description="Tuned from this model.")] = None,
    licence: Annotated[str | None, Query(max_length=100)] = None,
    category: Annotated[Purpose | None, Query(description="What it is good for; base models only.")] = None,
    provider: Annotated[str | None, Query(max_length=96, description="The organisation; base models only.")] = None,
    sort: Annotated[ModelSort | None, Query(description="Base models by name, then the newest, when absent.")] = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[ModelRead]:
    """Base models in the home folder and in the hub's cache, and the models that jobs have made."""
    found = service.select(
        service.list_models(state.settings), text=q, kind=kind, method=method, base=base, licence=licence, sort=sort,
        category=category, provider=provider,
    )  # fmt: skip
    start, machine, collected = cursor or 0, read_machine(), collection.ids_by_name(session)
    items = [
        service.with_memory(state.settings, model, machine).model_copy(update={"collected": model.name in collected})
        for model in found[start : start + limit]
    ]
    after = start + limit if len(found) > start + limit else None
    return Page(items=items, next_cursor=after, total=len(found))


@router.get("/search", summary="Search the hub and what is here")
def search_models(
    state: State,
    session: DbSession,
    q: Annotated[str, Query(max_length=200, description="Part of the name.")] = "",
    query: Annotated[str, Query(max_length=200, description="The same; the longer word.")] = "",
    category: Annotated[Category | Purpose | None, Query(description="What the model is for.")] = None,
    provider: Annotated[str, Query(max_length=96, description="The organisation, such as `Qwen`.")] = "",
    size: Annotated[Size | None, Query(description="How many weights.")] = None,
    licence: Annotated[str, Query(max_length=100, description="Such as `apache-2.0`.")] = "",
    sort: Annotated[HubSort, Query(description="Of the hub's part.")] = "trending",
    cursor: Cursor = None,
    limit: Annotated[int, Query(ge=1, le=100, description="Most items in one page.")] = 20,
) -> ModelSearch:
    """Base models at hand first, then the hub's. When the hub is switched off or silent, `hub_problem` says why."""
    asked = hub.asked_for(q or query, category, provider, size, licence, sort)
    collected = frozenset(collection.ids_by_name(session))
    return search(state.settings, asked, cursor=cursor, limit=limit, collected=collected)


@router.get("/categories", summary="Categories")
def list_categories(state: State) -> CategoryList:
    """What language models are for, with how many are at hand and, when the hub answers, there."""
    return purposes.categories(state.settings, list(library.base_models(state.settings).values()))


@router.get("/providers", summary="Providers")
def list_providers(state: State) -> CategoryList:
    """Organisations of the models at hand and those that are known for open models, with how many they have."""
    return purposes.providers(state.settings, list(library.base_models(state.settings).values()))


@router.get("/check", responses=NOT_HERE, summary="Whether a model can be used here")
def check_model(name: Name, state: State) -> ModelCheck:
    """Here, reachable, gated, its licence, and whether it fits this machine, with the arithmetic. Nothing is fetched."""
    return checking.check(state.settings, name)


@router.get("/recommend", summary="Which model to take")
def recommend_models(
    state: State,
    session: DbSession,
    use_case: Annotated[UseCase, Query(description="What it is wanted for.")] = "chat",
    commercial: Annotated[bool, Query(description="Only models that may be used commercially.")] = False,
    limit: Annotated[int, Query(ge=1, le=50)] = 5,
) -> RecommendationList:
    """From what is at hand and a curated list, what fits this machine, best first, each with a reason."""
    collected = frozenset(collection.ids_by_name(session))
    machine = read_machine()
    return recommending.recommend(
        state.settings, use_case, machine, limit=limit, commercial=commercial, collected=collected
    )


@router.get("/detail", responses=NOT_HERE, summary="All that is known of a model")
def model_detail(name: Name, state: State) -> ModelDetail:
    """Lineage, files, versions, validation, card, and the commands to use it elsewhere."""
    return detail.detail(state.settings, name, f"http://{state.settings.host}:{state.settings.port}")


@router.get("/checksums", responses=NOT_HERE, summary="The files of a model with their SHA-256")
def model_checksums(name: Name, state: State) -> list[ModelFile]:
    """What is not known yet is computed now, about a second a gigabyte, and remembered."""
    return detail.checksums(state.settings, name)


@router.get("/collection", summary="The collection")
def list_collected(state: State, session: DbSession, cursor: Cursor = None, limit: Limit = 50) -> Page[CollectedRead]:
    """Models that somebody wants to find again, newest first."""
    return collection.list_collected(state.settings, session, cursor=cursor, limit=limit)


@router.post("/collection", status_code=201, summary="Add a model to the collection")
def collect_model(body: CollectedCreate, state: State, session: DbSession) -> CollectedRead:
    """At hand or not yet. One that is there already stays and gets the new note."""
    return collection.collect(state.settings, session, body)


@router.patch("/collection/{collected_id}", responses=NOT_HERE, summary="Change the note")
def change_collected(
    collected_id: CollectedId, body: CollectedUpdate, state: State, session: DbSession
) -> CollectedRead:
    return collection.change_note(state.settings, session, collected_id, body.note)


@router.delete(
    "/collection/{collected_id}", status_code=204, responses=NOT_HERE, summary="Take a model out of the collection"
)
def remove_collected(collected_id: CollectedId, session: DbSession) -> None:
    """The model itself stays."""
    collection.remove(session, collected_id)


@router.get("/{name:path}", summary="One model")
def get_model(name: str, state: State) -> ModelRead:
    """By its name: a hub id, a local name, or `job:<id>`."""
    return service.get_model(state.settings, name)


declare(router, read=Scope.READ, write=Scope.TRAIN)
