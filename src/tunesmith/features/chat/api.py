"""REST routes of chat: an answer in one piece, or streamed as server-sent events in the style of OpenAI; and of ratings."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

import httpx
from fastapi import APIRouter, Path, Query
from fastapi.responses import Response, StreamingResponse
from pydantic import Field
from starlette.concurrency import run_in_threadpool

from tunesmith.core.acting import Scope
from tunesmith.core.errors import TunesmithError, Unavailable
from tunesmith.executors.serving_process import Endpoint
from tunesmith.features.chat import ratings
from tunesmith.features.chat.service import Partner, completion_body, partner, partner_of_job
from tunesmith.http.pagination import Cursor, Limit
from tunesmith.http.policy import declare, needs
from tunesmith.http.session import AppState, DbSession, State
from tunesmith.schemas.common import ErrorBody, Page
from tunesmith.schemas.jobs import ChatAnswer, ChatRequest
from tunesmith.schemas.models import RatingCount, RatingCreate, RatingRead, RatingUpdate, Verdict

router = APIRouter()
talk = APIRouter(tags=["chat"])
rated = APIRouter(prefix="/ratings", tags=["ratings"])

TIMEOUT = httpx.Timeout(10, read=600)


class ModelChatRequest(ChatRequest):
    """What to say, and to which model."""

    model: str = Field(max_length=500, examples=["HuggingFaceTB/SmolLM2-135M-Instruct"])
    """A base model's name, or `job:<id>`."""


@talk.post("/jobs/{job_id}/chat", response_model=ChatAnswer)
@needs(Scope.READ)
async def chat_with_job(job_id: int, body: ChatRequest, state: State) -> Any:
    """Talk to the model that a finished job made."""

    def find() -> Partner:
        with state.database.unit_of_work(readonly=True) as session:
            return partner_of_job(state.settings, session, job_id)

    return await _answer(state, await run_in_threadpool(find), body)


@talk.post("/models/chat", response_model=ChatAnswer)
@needs(Scope.READ)
async def chat_with_model(body: ModelChatRequest, state: State) -> Any:
    """Talk to a base model, or to `job:<id>`."""

    def find() -> Partner:
        with state.database.unit_of_work(readonly=True) as session:
            return partner(state.settings, session, body.model)

    return await _answer(state, await run_in_threadpool(find), body)


async def _answer(state: AppState, who: Partner, body: ChatRequest) -> Any:
    if body.stream:
        return StreamingResponse(
            stream(state, who, body), media_type="text/event-stream", headers={"Cache-Control": "no-cache"}
        )
    try:
        answer = await _ask(state, who, body)
    except httpx.TransportError:
        try:  # it was just ending: the next look starts it anew
            answer = await _ask(state, who, body)
        except httpx.TransportError:
            raise Unavailable("The model's process ended while it answered.", hint="Try again.") from None
    if answer.status_code != 200:
        raise _told_error(answer)
    told = answer.json()
    usage, choice = told["usage"], told["choices"][0]
    return ChatAnswer(
        model=who.name,
        content=choice["message"]["content"],
        finish_reason=choice["finish_reason"] or "stop",
        prompt_tokens=usage["prompt_tokens"],
        completion_tokens=usage["completion_tokens"],
        **told["timings"],
    )


async def _ask(state: AppState, who: Partner, body: ChatRequest) -> httpx.Response:
    endpoint = await run_in_threadpool(state.serving.ensure, who.base)
    async with client_of(endpoint) as client:
        return await client.post("/v1/chat/completions", json=completion_body(who, body) | {"stream": False})


async def stream(state: AppState, who: Partner, body: ChatRequest) -> AsyncIterator[bytes]:
    """Pass the serving process's events on; what goes wrong on the way is an event as well."""
    try:
        if state.serving.running(who.base) is None:
            yield _event("status", {"status": "loading", "model": who.name})
        endpoint = await run_in_threadpool(state.serving.ensure, who.base)
        asked = completion_body(who, body) | {"stream": True}
        async with client_of(endpoint) as client, client.stream("POST", "/v1/chat/completions", json=asked) as answer:
            if answer.status_code != 200:
                await answer.aread()
                raise _told_error(answer)
            async for part in answer.aiter_bytes():
                yield part
    except httpx.TransportError:
        yield _event("error", Unavailable("The model's process ended while it answered.", hint="Try again.").body())
    except TunesmithError as error:
        yield _event("error", error.body())


def client_of(endpoint: Endpoint) -> httpx.AsyncClient:
    """Asks a serving process."""
    headers = {"Authorization": f"Bearer {endpoint.token}"}
    return httpx.AsyncClient(base_url=endpoint.url, headers=headers, timeout=TIMEOUT, trust_env=False)


def _event(kind: str, data: dict[str, Any]) -> bytes:
    return f"event: {kind}\ndata: {json.dumps(data)}\n\n".encode()


def _told_error(answer: httpx.Response) -> TunesmithError:
    """The serving process's error as ours: same status, same words. A defect of its own is not JSON."""
    status, told = answer.status_code, answer.json() if "json" in answer.headers.get("content-type", "") else {}
    error = TunesmithError(str(told.get("message", "The model could not answer.")), hint=str(told.get("hint", "")))
    error.details = list(told.get("details", []))
    error.status = status if 400 <= status < 500 else Unavailable.status
    return error


# -- what people think of answers --------------------------------------------------------------------------------------

RatingId = Annotated[int, Path(ge=1, lt=2**63, description="The rating's number.", examples=[1])]
OfModel = Annotated[str | None, Query(max_length=500, description="Of this model only.")]
OfVerdict = Annotated[Verdict | None, Query(description="Only these.")]
NOT_HERE: dict[int | str, dict[str, Any]] = {404: {"model": ErrorBody, "description": "No such rating."}}
FILE: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/x-ndjson": {}, "text/csv": {}}, "description": "The file."}
}
MEDIA_TYPES = {"jsonl": "application/x-ndjson", "csv": "text/csv; charset=utf-8"}


@rated.post("/", status_code=201, summary="Rate an answer")
def create_rating(body: RatingCreate, session: DbSession, state: State) -> RatingRead:
    """Thumbs up or down for what a model said, with the conversation before it. The model must be one that you may see."""
    return ratings.rate(state.settings, session, body)


@rated.get("/", summary="List ratings")
def list_ratings(
    session: DbSession,
    model: OfModel = None,
    verdict: OfVerdict = None,
    q: Annotated[str | None, Query(max_length=200, description="Part of the answer or the note.")] = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[RatingRead]:
    """Newest first."""
    return ratings.list_ratings(session, model=model, verdict=verdict, text=q, cursor=cursor, limit=limit)


@rated.get("/summary", summary="Ratings counted by model")
def summarise_ratings(session: DbSession, model: OfModel = None) -> list[RatingCount]:
    """Those with the most ratings first."""
    return ratings.counts(session, model)


@rated.get("/export", response_class=Response, responses=FILE, summary="Ratings as a file")
def export_ratings(
    state: State,
    kind: Annotated[Literal["jsonl", "csv"], Query(alias="format", description="JSON Lines is exact.")] = "jsonl",
    model: OfModel = None,
    verdict: OfVerdict = None,
) -> Response:
    """Oldest first. In CSV, cells that would start a formula in a spreadsheet get a quote."""
    headers = {"Content-Disposition": f'attachment; filename="ratings.{kind}"', "X-Content-Type-Options": "nosniff"}
    pieces = ratings.export(state.database, kind, model=model, verdict=verdict)
    return StreamingResponse(pieces, media_type=MEDIA_TYPES[kind], headers=headers)


@rated.get("/{rating_id}", responses=NOT_HERE, summary="One rating")
def get_rating(rating_id: RatingId, session: DbSession) -> RatingRead:
    return ratings.get(session, rating_id)


@rated.patch("/{rating_id}", responses=NOT_HERE, summary="Change a rating")
def change_rating(rating_id: RatingId, body: RatingUpdate, session: DbSession) -> RatingRead:
    return ratings.change(session, rating_id, body)


@rated.delete("/{rating_id}", status_code=204, responses=NOT_HERE, summary="Withdraw a rating")
def delete_rating(rating_id: RatingId, session: DbSession) -> None:
    ratings.withdraw(session, rating_id)


router.include_router(talk)
router.include_router(rated)


declare(router, read=Scope.READ, write=Scope.TRAIN)
