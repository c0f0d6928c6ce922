"""The playground: up to three models side by side."""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse

from tunesmith.core.errors import NotFound
from tunesmith.features.catalog import service
from tunesmith.features.jobs import before_after, files
from tunesmith.features.jobs import service as jobs
from tunesmith.http.session import DbSession, State
from tunesmith.schemas.before_after import BeforeAfter
from tunesmith.schemas.jobs import ChatRequest
from tunesmith.ui.render import page

router = APIRouter(include_in_schema=False)

SIDE_BY_SIDE = 3
"""Most models at once."""
CHAT_ROLES = ("system", "user", "assistant")
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
def show(
    request: Request, state: State, session: DbSession, questions: Annotated[int | None, Query(ge=1, lt=2**63)] = None
) -> HTMLResponse:
    """`questions`: a job whose held-out questions are offered, and whose base stands beside its model. Where
    it is gone the usual questions are."""
    models = [model for model in service.list_models(state.settings) if model.task is None]
    names = {model.name for model in models}
    asked = list(dict.fromkeys(request.query_params.getlist("with")))[:SIDE_BY_SIDE]
    chosen = [name for name in asked if name in names or "/" in name or "@" in name]
    compared = BeforeAfter()
    if questions is not None:
        try:
            compared = before_after.read(
                files.job_dir(state.settings, questions), jobs.read(jobs.get(session, questions))
            )
        except NotFound:
            questions = None
        if len(asked) == 1 and compared.base_model in names:
            chosen = [*chosen, compared.base_model]
    return page(
        request, "playground/show.html", title="Playground", section="playground",
        tuned=[model for model in models if model.kind == "tuned"], base=[model for model in models if model.kind == "base"],
        others=[name for name in chosen if name not in names], chosen=chosen or _first(models),
        gone=[name for name in asked if name not in chosen], controls=CONTROLS, defaults=_defaults(),
        questions=QUESTIONS, asked=to_ask(compared), asked_job=questions, side_by_side=SIDE_BY_SIDE,
    )  # fmt: skip


def to_ask(compared: BeforeAfter) -> list[list[dict[str, str]]]:
    """The turns of each question that can be asked again here: conversations that end with the user, without tools."""
    found = [[turn.model_dump() for turn in one.turns] for one in compared.questions]
    return [
        turns
        for turns in found
        if turns and turns[-1]["role"] == "user" and all(turn["role"] in CHAT_ROLES for turn in turns)
    ]


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
