"""REST routes of models."""

from __future__ import annotations

from fastapi import APIRouter

from tunesmith.features.catalog import service
from tunesmith.http.session import State
from tunesmith.schemas.common import Page
from tunesmith.schemas.models import ModelRead

router = APIRouter(prefix="/models", tags=["models"])


@router.get("/", summary="Models at hand")
def list_models(state: State) -> Page[ModelRead]:
    """Base models in the home folder and in the hub's cache, and the models that jobs have made."""
    items = service.list_models(state.settings)
    return Page(items=items, total=len(items))


@router.get("/{name:path}", summary="One model")
def get_model(name: str, state: State) -> ModelRead:
    """By its name: a hub id, a local name, or `job:<id>`."""
    return service.get_model(state.settings, name)
