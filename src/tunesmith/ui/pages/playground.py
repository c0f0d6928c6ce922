"""The playground: up to three models side by side."""

from __future__ import annotations

from typing import Any, NamedTuple

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from tunesmith.features.catalog import service
from tunesmith.http.session import State
from tunesmith.schemas.jobs import ChatRequest
from tunesmith.ui.render import page

router = APIRouter(include_in_schema=False)

SIDE_BY_SIDE = 3
"""Most models at once."""
QUESTIONS = (
    "What can you help me with?",
    "Explain what a language model is, in two sentences.",
    "Write a friendly reply to a customer whose parcel is late.",
)


class Control(NamedTuple):
    """One sampling setting."""

    name: str
    label: str
    hint: str
    kind: str
    """`range` or `number`."""
    least: float
    most: float
    step: float


CONTROLS = (
    Control("temperature", "Temperature", "0 always takes the likeliest token; higher is more varied.", "range", 0, 2, 0.05),
    Control("top_p", "Top p", "Only the likeliest tokens that add up to this share.", "range", 0.05, 1, 0.05),
    Control("top_k", "Top k", "Only so many of the likeliest tokens; empty is no limit.", "number", 1, 10_000, 1),
    Control("max_tokens", "Maximum tokens", "An answer is cut there.", "number", 1, 32_768, 1),
    Control("repetition_penalty", "Repetition penalty", "Above 1, what was said already gets less likely.", "range", 0.8, 2, 0.05),
    Control("seed", "Seed", "The same seed gives the same answer; empty is by chance.", "number", 0, 2**32 - 1, 1),
)  # fmt: skip


@router.get("/playground")
def show(request: Request, state: State) -> HTMLResponse:
    models = service.list_models(state.settings)
    names = {model.name for model in models}
    asked = list(dict.fromkeys(request.query_params.getlist("with")))[:SIDE_BY_SIDE]
    chosen = [name for name in asked if name in names or "/" in name or "@" in name]
    return page(
        request, "playground/show.html", title="Playground", section="playground",
        tuned=[model for model in models if model.kind == "tuned"], base=[model for model in models if model.kind == "base"],
        others=[name for name in chosen if name not in names], chosen=chosen or _first(models),
        gone=[name for name in asked if name not in chosen], controls=CONTROLS, defaults=_defaults(),
        questions=QUESTIONS, side_by_side=SIDE_BY_SIDE,
    )  # fmt: skip


def _defaults() -> dict[str, Any]:
    fields = ChatRequest.model_fields
    return {control.name: fields[control.name].default for control in CONTROLS}


def _first(models: list[Any]) -> list[str]:
    """The newest tuned model beside its base, since that is what one wants to compare; else the first base."""
    tuned = next((model for model in models if model.kind == "tuned"), None)
    if tuned is None:
        return [model.name for model in models[:1]]
    here = {model.name for model in models}
    return [tuned.name, *([tuned.base_model] if tuned.base_model in here else [])]
