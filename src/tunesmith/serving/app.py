"""The endpoints of a serving process, in the style of OpenAI's. Only who knows the process's token gets in."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
import uuid
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal, NamedTuple

import anyio.to_thread
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import iterate_in_threadpool, run_in_threadpool

from tunesmith.core.errors import InvalidInput, TunesmithError
from tunesmith.core.inference import Prompt
from tunesmith.serving.access import Activity as Activity
from tunesmith.serving.access import OnlyTheServer, invalid_body
from tunesmith.serving.generation import Model, Piece, Sampling


class Turn(BaseModel):
    """One of a conversation; see `core/inference.py`."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str = ""
    name: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None


class Generation(BaseModel):
    """What both ways of asking share. `adapter_path` names the adapter; without it the base answers."""

    model_config = ConfigDict(extra="ignore")

    model: str = "base"
    adapter_path: str | None = None
    max_tokens: int | None = Field(None, ge=1)
    temperature: float = Field(0.7, ge=0)
    top_p: float = Field(0.95, gt=0, le=1)
    top_k: int | None = None
    min_p: float = Field(0.0, ge=0, le=1)
    repetition_penalty: float = Field(1.0, gt=0)
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: dict[int, float] = Field(default_factory=dict)
    response_format: dict[str, Any] | None = None
    seed: int | None = None
    stop: list[str] | str | None = None
    stream: bool = False

    def sampling(self, logprobs: int | None) -> Sampling:
        fields = (
            "max_tokens", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "frequency_penalty",
            "presence_penalty", "logit_bias", "seed",
        )  # fmt: skip
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        told = {field: getattr(self, field) for field in fields}
        return Sampling(stop=tuple(text for text in stop if text), logprobs=logprobs, **told)


class ChatCompletion(Generation):
    """The body of `/v1/chat/completions`."""

    messages: Annotated[list[Turn], Field(min_length=1)]
    logprobs: bool = False
    top_logprobs: int = Field(0, ge=0, le=20)
    tools: list[Any] | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    def check(self) -> None:
        """Raises `InvalidInput` for what this engine cannot do."""
        if self.tools or self.chat_template_kwargs:
            what = "Tools need" if self.tools else "chat_template_kwargs needs"
            raise InvalidInput(f"{what} the engine llama.cpp or vLLM.", hint="Deploy the model with one.")


class TextCompletion(Generation):
    """The body of `/v1/completions`."""

    prompt: str | list[int]
    logprobs: int | None = Field(None, ge=0, le=20)


class Embedding(BaseModel):
    """The body of `/v1/embeddings`."""

    model_config = ConfigDict(extra="ignore")

    input: Annotated[list[str | list[int]], Field(min_length=1, max_length=2048)] | str
    model: str = "base"
    adapter_path: str | None = None


class Tokens(BaseModel):
    """The body of `/detokenize`."""

    tokens: list[int]


class Form(NamedTuple):
    """How an answer is written: as a message, or as text."""

    whole_object: str
    part_object: str
    is_chat: bool

    def whole(self, text: str, logprobs: list[dict[str, Any]]) -> dict[str, Any]:
        said = {"message": {"role": "assistant", "content": text}} if self.is_chat else {"text": text}
        return {"index": 0, **said, "logprobs": {"content": logprobs} if logprobs else None}

    def part(self, piece: Piece) -> dict[str, Any]:
        said: dict[str, Any] = (
            {"delta": {"content": piece.text} if piece.text else {}} if self.is_chat else {"text": piece.text}
        )
        return {"index": 0, **said, **({"logprobs": {"content": piece.logprobs}} if piece.logprobs else {})}


CHAT = Form("chat.completion", "chat.completion.chunk", True)
TEXT = Form("text_completion", "text_completion", False)


def create_serving_app(model: Model, token: str, activity: Activity) -> FastAPI:
    """The application around one loaded model."""

    @contextlib.asynccontextmanager
    async def with_threads(_app: FastAPI) -> AsyncIterator[None]:
        """Each answer that is waited for keeps a thread."""
        anyio.to_thread.current_default_thread_limiter().total_tokens += model.parallel + model.most_waiting
        yield

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, lifespan=with_threads)

    app.add_middleware(OnlyTheServer, token=token)

    @app.exception_handler(TunesmithError)
    def known(_request: Request, error: TunesmithError) -> JSONResponse:
        return JSONResponse(error.body(), status_code=error.status)

    @app.get("/health")
    def health() -> dict[str, Any]:
        return {"status": "ok", "base": model.base_path, "context_tokens": model.context_tokens}

    @app.get("/v1/models")
    def models() -> dict[str, Any]:
        return {"object": "list", "data": [{"id": "base", "object": "model"}]}

    @app.exception_handler(RequestValidationError)
    def invalid(_request: Request, error: RequestValidationError) -> JSONResponse:
        return invalid_body(error)

    _add_answers(app, model, activity)
    return app


def _add_answers(app: FastAPI, model: Model, activity: Activity) -> None:
    """The endpoints that compute."""

    @app.post("/v1/chat/completions")
    async def chat(body: ChatCompletion, request: Request) -> Any:
        body.check()
        messages = [turn.model_dump(exclude_none=True) for turn in body.messages]
        return await answered(body, messages, body.top_logprobs if body.logprobs else None, CHAT, request)

    @app.post("/v1/completions")
    async def complete(body: TextCompletion, request: Request) -> Any:
        return await answered(body, _prompt(body.prompt), body.logprobs, TEXT, request)

    @app.post("/v1/embeddings")
    async def embed(body: Embedding) -> dict[str, Any]:
        inputs = [body.input] if isinstance(body.input, str) else [_prompt(each) for each in body.input]
        with activity.busy():
            vectors, tokens = await run_in_threadpool(model.embed, inputs, body.adapter_path)
        data = [{"object": "embedding", "index": n, "embedding": vector} for n, vector in enumerate(vectors)]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return {"object": "list", "model": body.model, "data": data, "usage": usage}

    @app.post("/detokenize")
    def detokenize(body: Tokens) -> dict[str, str]:
        known = [token for token in body.tokens if token < len(model.tokenizer)]
        return {"content": model.tokenizer.decode(known)}

    async def answered(body: Generation, asked: Any, logprobs: int | None, form: Form, request: Request) -> Any:
        gone = asyncio.Event()
        sampling = body.sampling(logprobs)
        pieces = await run_in_threadpool(
            model.generate, asked, body.adapter_path, sampling, gone.is_set, body.response_format
        )
        if body.stream:
            stream = _stream(pieces, body.model, form, gone, activity)
            return StreamingResponse(stream, media_type="text/event-stream")
        text, told, last = "", list[dict[str, Any]](), Piece("")
        watcher = asyncio.create_task(_watch(request, gone))
        with activity.busy():
            try:
                async for piece in iterate_in_threadpool(pieces):
                    text, told, last = text + piece.text, told + piece.logprobs, piece
            finally:
                watcher.cancel()
        choice = form.whole(text, told) | {"finish_reason": last.finish_reason}
        return _about(body.model, form.whole_object) | {
            "choices": [choice],
            "usage": _usage(last),
            "timings": _timings(last),
        }


def _prompt(given: str | list[int]) -> Prompt:
    return given if isinstance(given, str) else tuple(given)


async def _watch(request: Request, gone: asyncio.Event) -> None:
    """Set `gone` when the client leaves."""
    while not await request.is_disconnected():
        await asyncio.sleep(0.2)
    gone.set()


async def _stream(pieces: Any, model: str, form: Form, gone: asyncio.Event, activity: Activity) -> AsyncIterator[str]:
    about = _about(model, form.part_object)
    with activity.busy():
        try:
            async for piece in iterate_in_threadpool(pieces):
                choice = form.part(piece) | {"finish_reason": piece.finish_reason}
                chunk = about | {"choices": [choice]}
                if piece.finish_reason:
                    chunk |= {"usage": _usage(piece), "timings": _timings(piece)}
                yield f"data: {json.dumps(chunk)}\n\n"
            yield "data: [DONE]\n\n"
        except TunesmithError as error:
            yield f"event: error\ndata: {json.dumps(error.body())}\n\n"
        finally:
            gone.set()


def _about(model: str, kind: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{uuid.uuid4().hex}", "object": kind, "created": int(time.time()), "model": model}


def _usage(piece: Piece) -> dict[str, int]:
    total = piece.prompt_tokens + piece.completion_tokens
    return {"prompt_tokens": piece.prompt_tokens, "completion_tokens": piece.completion_tokens, "total_tokens": total}


def _timings(piece: Piece) -> dict[str, float | None]:
    return {"time_to_first_token_s": piece.first_token_s, "tokens_per_s": piece.tokens_per_s}
