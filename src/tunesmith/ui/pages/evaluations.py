"""Pages of evaluations and of the arena."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import HTMLResponse

from tunesmith.features.catalog import service as catalog
from tunesmith.features.datasets.service import Datasets
from tunesmith.features.evaluations import arena, comparing, service
from tunesmith.http.pagination import Cursor
from tunesmith.http.session import AppState, DbSession, State
from tunesmith.recipes.shapes import CAUSAL_LM_SHAPES
from tunesmith.schemas.evaluations import ArenaRating, ScoreRead
from tunesmith.storage.database import Session
from tunesmith.ui.render import page
from tunesmith.ui.scores import PLOT_WIDTH, interval_mark, score_text

router = APIRouter(include_in_schema=False)

EvaluationId = Annotated[int, Path(ge=1, lt=2**63)]
TITLE = "Evaluations"
PAGE = 50
SAMPLES = 20
MAX_CHOICES = 200
"""Datasets and models that forms offer."""
MOST_LABELS = 40
"""Labels of a confusion that is shown as a table."""
HEATS = 9


@router.get("/evaluations")
def show_list(
    request: Request,
    state: State,
    session: DbSession,
    model: Annotated[str, Query(max_length=500)] = "",
    dataset: Annotated[int | None, Query(ge=1, lt=2**63)] = None,
    q: Annotated[str, Query(max_length=200)] = "",
    new: Annotated[str, Query(max_length=500)] = "",
    cursor: Cursor = None,
) -> HTMLResponse:
    """Evaluations, newest first, and the form for a new one; `new` names the model that it begins with."""
    found = service.list_evaluations(
        state.settings, session, model=model or None, dataset_id=dataset, text=q or None, cursor=cursor, limit=PAGE
    )
    asked = {"model": model, "dataset": dataset or "", "q": q}
    return page(
        request,
        "evaluations/list.html",
        title=TITLE,
        section="evaluations",
        tab="list",
        found=found,
        asked=asked,
        is_filtered=any(asked.values()),
        new=new,
        models=model_names(state, session, new),
        datasets=dataset_names(state, session),
        next_url=_address({**asked, "cursor": found.next_cursor}) if found.next_cursor else "",
        first_url=_address(asked) if cursor else "",
        value=score_text,
    )


@router.get("/evaluations/compare")
def show_comparison(
    request: Request,
    state: State,
    session: DbSession,
    ids: Annotated[str, Query(pattern=r"^([0-9]{1,18}(,[0-9]{1,18}){0,7})?$")] = "",
) -> HTMLResponse:
    """Two to eight evaluations side by side. Raises `NotFound`, `Conflict`, `InvalidInput`."""
    wanted = [int(part) for part in ids.split(",") if part]
    return page(
        request,
        "evaluations/compare.html",
        title="Compare",
        section="evaluations",
        breadcrumb=[(TITLE, "/evaluations")],
        found=comparing.compare(state.settings, session, wanted) if wanted else None,
        value=score_text,
        best=best_places,
    )


@router.get("/evaluations/arena")
def show_arena(request: Request, state: State, session: DbSession, cursor: Cursor = None) -> HTMLResponse:
    """A blind battle, and what has come of those before."""
    ratings = arena.arena_ratings(session)
    return page(
        request,
        "evaluations/arena.html",
        title="Arena",
        section="evaluations",
        tab="arena",
        models=model_names(state, session, ""),
        datasets=dataset_names(state, session),
        ratings=ratings,
        marks=rating_marks(ratings),
        battles=arena.list_battles(session, voted=True, cursor=cursor, limit=SAMPLES),
        verdicts={"a": "A", "b": "B", "tie": "tie", "both_bad": "both bad"},
    )


@router.get("/evaluations/{evaluation_id}")
def show_one(
    request: Request,
    state: State,
    session: DbSession,
    evaluation_id: EvaluationId,
    only: Annotated[Literal["right", "wrong", ""], Query()] = "",
    q: Annotated[str, Query(max_length=200)] = "",
    cursor: Cursor = None,
) -> HTMLResponse:
    """One evaluation. Raises `NotFound`."""
    found = service.detail(state.settings, session, evaluation_id)
    samples = None
    if found.scores:
        samples = service.samples(
            state.settings, session, evaluation_id, right=only or None, text=q or None, cursor=cursor, limit=SAMPLES
        )
    here = f"/evaluations/{evaluation_id}"
    next_cursor = samples.next_cursor if samples else None
    return page(
        request,
        "evaluations/show.html",
        title=found.name,
        section="evaluations",
        breadcrumb=[(TITLE, "/evaluations")],
        found=found,
        samples=samples,
        asked={"only": only, "q": q},
        value=score_text,
        mark=interval_mark,
        heat=heat_of(found.confusion) if len(found.labels) <= MOST_LABELS else [],
        next_url=_address({"only": only, "q": q, "cursor": next_cursor}, here) if next_cursor else "",
        first_url=_address({"only": only, "q": q}, here) if cursor else "",
    )


def model_names(state: AppState, session: Session, first: str) -> list[tuple[str, str]]:
    """`(name, what it is called)` of models that can be measured."""
    models = [m for m in catalog.list_models(state.settings) if getattr(m, "format", None) != "gguf"]
    models.sort(key=lambda model: model.kind != "tuned")  # they bring rows of their own, which base models do not
    found = [
        (model.name, f"{model.title} ({model.name})" if model.kind == "tuned" else model.name) for model in models
    ][:MAX_CHOICES]
    return found if not first or first in dict(found) else [(first, first), *found]


def dataset_names(state: AppState, session: Session) -> list[tuple[int, str]]:
    """`(number, name)` of datasets that hold questions or texts."""
    found = Datasets(state.settings, session, state.bus).page(limit=MAX_CHOICES).items
    return [(each.id, each.name) for each in found if each.status == "ready" and each.shape in CAUSAL_LM_SHAPES]


def rating_marks(ratings: list[ArenaRating]) -> list[dict[str, float] | None]:
    """Where value and interval of each stand on a line that holds all of them; None where there is no interval yet."""
    ends = [end for each in ratings for end in (each.low, each.high) if end is not None]
    if not ends:
        return [None for _ in ratings]
    low, span = min(ends), max(1.0, max(ends) - min(ends))
    return [
        None
        if each.low is None or each.high is None
        else {
            name: PLOT_WIDTH * (value - low) / span
            for name, value in (("low", each.low), ("value", each.rating), ("high", each.high))
        }
        for each in ratings
    ]


def heat_of(table: list[list[int]]) -> list[list[int]]:
    """0 to `HEATS` a cell: its share of its row."""
    return [[math.ceil(HEATS * count / max(1, sum(row))) for count in row] for row in table]


def best_places(scores: list[ScoreRead | None]) -> list[int]:
    """Places of the best values; none where all are alike."""
    values = [score.value if score else None for score in scores]
    there = [value for value in values if value is not None]
    first = next((score for score in scores if score), None)
    if len(set(there)) < 2 or first is None:
        return []
    best = max(there) if first.higher_is_better else min(there)
    return [place for place, value in enumerate(values) if value == best]


def _address(asked: dict[str, Any], path: str = "/evaluations") -> str:
    query = {name: value for name, value in asked.items() if value}
    return f"{path}?{urlencode(query)}" if query else path
