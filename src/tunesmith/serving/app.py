"""The endpoints of a serving process, in the style of OpenAI's. Only who knows the process's token gets in."""

from __future__ import annotations

import asyncio
import hmac
import json
import time
import uuid
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import iterate_in_threadpool, run_in_threadpool

from tunesmith.core.errors import TunesmithError
from tunesmith.serving.generation import Model, Piece, Sampling


class Message(BaseModel):
    role: Literal["system", "user", "assistant"]
    content: str


class Completion(BaseModel):
    """The body of `/v1/chat/completions`. `adapter_path` names the adapter; without it the base answers."""

    model_config = ConfigDict(extra="ignore")

    messages: Annotated[list[Message], Field(min_length=1)]
    model: str = "base"
    adapter_path: str | None = None
    max_tokens: int = Field(256, ge=1)
    temperature: float = Field(0.7, ge=0)
    top_p: float = Field(0.95, gt=0, le=1)
    top_k: int | None = None
    repetition_penalty: float = Field(1.0, gt=0)
    seed: int | None = None
    stop: list[str] = Field(default_factory=list)
    stream: bool = False

    def sampling(self) -> Sampling:
        fields = ("max_tokens", "temperature", "top_p", "top_k", "repetition_penalty", "seed")
        return Sampling(stop=tuple(s for s in self.stop if s), **{f: getattr(self, f) for f in fields})


class Activity:
    """When somebody last asked for something."""

    def __init__(self) -> None:
        self.last_s = time.monotonic()
        self.active = 0

    def idle_s(self) -> float:
        return 0.0 if self.active else time.monotonic() - self.last_s


def create_serving_app(model: Model, token: str, activity: Activity) -> FastAPI:
    """The application around one loaded model."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @app.middleware("http")
    async def only_the_server(request: Request, call_next: Any) -> Any:
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if not hmac.compare_digest(given.encode(), token.encode()):
            return JSONResponse({"error": "permission_denied", "message": "Wrong token."}, status_code=401)
        return await call_next(request)

    @app.exception_handler(TunesmithError)
    def known(_request: Request, error: TunesmithError) -> JSONResponse:
        return JSONResponse(error.body(), status_code=error.status)

    @app.get("/health")
    def health() -> dict[str, Any]:
        return {"status": "ok", "base": model.base_path, "context_tokens": model.context_tokens}

    @app.get("/v1/models")
    def models() -> dict[str, Any]:
        return {"object": "list", "data": [{"id": "base", "object": "model"}]}

    @app.post("/v1/chat/completions")
    async def chat(body: Completion, request: Request) -> Any:
        gone = asyncio.Event()
        messages = [message.model_dump() for message in body.messages]
        pieces = await run_in_threadpool(model.generate, messages, body.adapter_path, body.sampling(), gone.is_set)
        if body.stream:
            return StreamingResponse(_stream(pieces, body.model, gone, activity), media_type="text/event-stream")
        text, last = "", Piece("")
        watcher = asyncio.create_task(_watch(request, gone))
        activity.active += 1
        try:
            async for piece in iterate_in_threadpool(pieces):
                text, last = text + piece.text, piece
        finally:
            activity.active -= 1
            activity.last_s = time.monotonic()
            watcher.cancel()
        return _whole(body.model, text, last)

    return app


async def _watch(request: Request, gone: asyncio.Event) -> None:
    """Set `gone` when the client leaves."""
    while not await request.is_disconnected():
        await asyncio.sleep(0.2)
    gone.set()


async def _stream(pieces: Any, model: str, gone: asyncio.Event, activity: Activity) -> AsyncIterator[str]:
    answer_id, created = f"chatcmpl-{uuid.uuid4().hex}", int(time.time())
    activity.active += 1
    try:
        async for piece in iterate_in_threadpool(pieces):
            delta = {"content": piece.text} if piece.text else {}
            choice = {"index": 0, "delta": delta, "finish_reason": piece.finish_reason}
            chunk: dict[str, Any] = {
                "id": answer_id,
                "object": "chat.completion.chunk",
                "created": created,
                "model": model,
                "choices": [choice],
            }
            if piece.finish_reason:
                chunk |= {"usage": _usage(piece), "timings": _timings(piece)}
            yield f"data: {json.dumps(chunk)}\n\n"
        yield "data: [DONE]\n\n"
    except TunesmithError as error:
        yield f"event: error\ndata: {json.dumps(error.body())}\n\n"
    finally:
        gone.set()
        activity.active -= 1
        activity.last_s = time.monotonic()


def _usage(piece: Piece) -> dict[str, int]:
    total = piece.prompt_tokens + piece.completion_tokens
    return {"prompt_tokens": piece.prompt_tokens, "completion_tokens": piece.completion_tokens, "total_tokens": total}


def _timings(piece: Piece) -> dict[str, float | None]:
    return {"time_to_first_token_s": piece.first_token_s, "tokens_per_s": piece.tokens_per_s}


def _whole(model: str, text: str, last: Piece) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    return {
        "id": f"chatcmpl-{uuid.uuid4().hex}", "object": "chat.completion", "created": int(time.time()), "model": model,
        "choices": [{"index": 0, "message": message, "finish_reason": last.finish_reason}], "usage": _usage(last),
        "timings": _timings(last),
    }  # fmt: skip
