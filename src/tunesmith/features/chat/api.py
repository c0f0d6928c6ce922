"""REST routes of chat: an answer in one piece, or streamed as server-sent events in the style of OpenAI."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
from fastapi import APIRouter
from fastapi.responses import StreamingResponse
from pydantic import Field
from starlette.concurrency import run_in_threadpool

from tunesmith.core.errors import TunesmithError, Unavailable
from tunesmith.executors.serving import Endpoint
from tunesmith.features.chat.service import Partner, completion_body, partner, partner_of_job
from tunesmith.http.session import AppState, State
from tunesmith.schemas.jobs import ChatAnswer, ChatRequest

router = APIRouter(tags=["chat"])

TIMEOUT = httpx.Timeout(10, read=600)


class ModelChatRequest(ChatRequest):
    """What to say, and to which model."""

    model: str = Field(max_length=500, examples=["HuggingFaceTB/SmolLM2-135M-Instruct"])
    """A base model's name, or `job:<id>`."""


@router.post("/jobs/{job_id}/chat", response_model=ChatAnswer)
async def chat_with_job(job_id: int, body: ChatRequest, state: State) -> Any:
    """Talk to the model that a finished job made."""

    def find() -> Partner:
        with state.database.unit_of_work(readonly=True) as session:
            return partner_of_job(state.settings, session, job_id)

    return await _answer(state, await run_in_threadpool(find), body)


@router.post("/models/chat", response_model=ChatAnswer)
async def chat_with_model(body: ModelChatRequest, state: State) -> Any:
    """Talk to a base model, or to `job:<id>`."""

    def find() -> Partner:
        with state.database.unit_of_work(readonly=True) as session:
            return partner(state.settings, session, body.model)

    return await _answer(state, await run_in_threadpool(find), body)


async def _answer(state: AppState, who: Partner, body: ChatRequest) -> Any:
    if body.stream:
        return StreamingResponse(
            _stream(state, who, body), media_type="text/event-stream", headers={"Cache-Control": "no-cache"}
        )
    began_s = time.monotonic()
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
        tokens_per_s=usage["completion_tokens"] / max(1e-9, time.monotonic() - began_s),
    )


async def _ask(state: AppState, who: Partner, body: ChatRequest) -> httpx.Response:
    endpoint = await run_in_threadpool(state.serving.ensure, who.base)
    async with _client(endpoint) as client:
        return await client.post("/v1/chat/completions", json=completion_body(who, body) | {"stream": False})


async def _stream(state: AppState, who: Partner, body: ChatRequest) -> AsyncIterator[bytes]:
    """Pass the serving process's events on; what goes wrong on the way is an event as well."""
    try:
        if state.serving.running(who.base) is None:
            yield _event("status", {"status": "loading", "model": who.name})
        endpoint = await run_in_threadpool(state.serving.ensure, who.base)
        asked = completion_body(who, body) | {"stream": True}
        async with _client(endpoint) as client, client.stream("POST", "/v1/chat/completions", json=asked) as answer:
            if answer.status_code != 200:
                await answer.aread()
                raise _told_error(answer)
            async for part in answer.aiter_bytes():
                yield part
    except httpx.TransportError:
        yield _event("error", Unavailable("The model's process ended while it answered.", hint="Try again.").body())
    except TunesmithError as error:
        yield _event("error", error.body())


def _client(endpoint: Endpoint) -> httpx.AsyncClient:
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
