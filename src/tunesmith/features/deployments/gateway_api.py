"""What programs talk to: `/v1/…` as OpenAI's clients expect it, and `/generate`. Each request goes to one model of one
deployment; the answer passes through as it comes.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from tunesmith.core.acting import Scope, current
from tunesmith.core.errors import BadRequest, InvalidInput, NotFound, TunesmithError, Unavailable
from tunesmith.features.deployments.gateway import Call, Gateway, GatewayState
from tunesmith.http.policy import declare
from tunesmith.schemas.common import ErrorBody
from tunesmith.schemas.deployments import GatewayError, GenerateAnswer, GenerateRequest

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": GatewayError | ErrorBody, "description": "Wrong, or not allowed."}
    for status in (404, 422, "4XX", 503)
}
router = APIRouter(tags=["gateway"], responses=ERRORS)

CHAT, COMPLETIONS, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


@router.get("/v1/models", summary="Deployments as models")
def list_models(gateway: GatewayState) -> dict[str, Any]:
    """Those that answer on this server, in OpenAI's form."""
    data = [
        {"id": route.name, "object": "model", "created": route.created, "owned_by": "tunesmith"}
        for route in gateway.routes.seen(current())
    ]
    return {"object": "list", "data": data}


@router.get("/v1/models/{name}", summary="One deployment as a model")
def get_model(name: str, gateway: GatewayState) -> Any:
    """In OpenAI's form."""
    found = next((model for model in list_models(gateway)["data"] if model["id"] == name), None)
    return found or _problem(_unknown(gateway, name))


@router.post(CHAT, summary="Chat completion", response_class=Response)
async def chat(request: Request, gateway: GatewayState) -> Response:
    """As OpenAI's: streaming, stop, seed, logprobs, `response_format` with a JSON schema, tools. `model` is a deployment's name."""
    return await _answered(request, gateway, CHAT)


@router.post(COMPLETIONS, summary="Text completion", response_class=Response)
async def complete(request: Request, gateway: GatewayState) -> Response:
    """As OpenAI's: `prompt` goes on, without a chat template."""
    return await _answered(request, gateway, COMPLETIONS)


@router.post(EMBEDDINGS, summary="Embeddings", response_class=Response)
async def embed(request: Request, gateway: GatewayState) -> Response:
    """As OpenAI's: one vector for each input, the mean over its tokens."""
    return await _answered(request, gateway, EMBEDDINGS)


@router.post("/generate", summary="Generate text")
async def generate(body: GenerateRequest, gateway: GatewayState) -> GenerateAnswer:
    """A prompt, or a conversation, and the text that follows."""
    if bool(body.prompt) == bool(body.messages):
        raise InvalidInput(
            "Give either a prompt or messages.", details=[{"loc": "prompt", "message": "one of the two"}]
        )
    messages = [message.model_dump() for message in body.messages] or [{"role": "user", "content": body.prompt}]
    asked = body.model_dump(exclude_none=True, exclude={"prompt", "messages"}) | {"messages": messages, "stream": False}
    answer = await _whole(gateway, await gateway.begin(CHAT, asked, current(), ""))
    told = json.loads(bytes(answer.body))
    if answer.status_code != 200:
        raise _error_of(answer.status_code, told)
    usage, choice = told.get("usage", {}), told["choices"][0]
    return GenerateAnswer(
        model=body.model,
        text=choice["message"].get("content") or "",
        finish_reason=choice.get("finish_reason") or "stop",
        prompt_tokens=usage.get("prompt_tokens", 0),
        completion_tokens=usage.get("completion_tokens", 0),
    )


async def _answered(request: Request, gateway: Gateway, path: str) -> Response:
    try:
        body = await _body(request)
        call = await gateway.begin(path, body, current(), request.headers.get("x-session-id", ""))
        if body.get("stream"):
            return await _streamed(request, gateway, call)
        return await _whole(gateway, call)
    except TunesmithError as error:
        return _problem(error)


async def _body(request: Request) -> dict[str, Any]:
    """Raises `BadRequest` for what is no JSON object."""
    try:
        body = json.loads(await request.body())
    except (ValueError, RecursionError):
        raise BadRequest("The request is not JSON.") from None
    if not isinstance(body, dict):
        raise BadRequest("The request is not a JSON object.")
    return body


async def _whole(gateway: Gateway, call: Call) -> Response:
    """One answer in one piece; asked again where the process had just ended."""
    headers = {"X-Request-Id": call.uid, "X-Tunesmith-Model": call.variant.model}
    if (kept := gateway.kept(call)) is not None:
        gateway.finish(call, 200, kept, cached=True)
        return Response(kept, media_type="application/json", headers={**headers, "X-Cache": "hit"})
    async with gateway.turn(call):
        try:
            answer = await gateway.ask(call)
        except TunesmithError as error:
            gateway.finish(call, error.status, b"")
            raise
        gateway.finish(call, answer.status_code, answer.content)
    if answer.status_code != 200:
        return _restated(answer.status_code, answer.content)
    return Response(answer.content, 200, headers, "application/json")


async def _streamed(request: Request, gateway: Gateway, call: Call) -> Response:
    """Headers come when the model has begun, so that what goes wrong before has a status of its own."""
    async with contextlib.AsyncExitStack() as held:
        await held.enter_async_context(gateway.turn(call))
        try:
            upstream = await gateway.open(call)
        except TunesmithError as error:
            gateway.finish(call, error.status, b"")
            raise
        held.push_async_callback(upstream.aclose)
        if upstream.status_code != 200:
            content = await upstream.aread()
            gateway.finish(call, upstream.status_code, content)
            return _restated(upstream.status_code, content)
        headers = {"X-Request-Id": call.uid, "X-Tunesmith-Model": call.variant.model, "Cache-Control": "no-cache"}
        stream = _passed_on(gateway, call, upstream, held.pop_all())
        return StreamingResponse(stream, media_type="text/event-stream", headers=headers)


async def _passed_on(
    gateway: Gateway, call: Call, upstream: httpx.Response, held: contextlib.AsyncExitStack
) -> AsyncIterator[bytes]:
    """The model's events as they come. A process that dies on the way ends the stream with an event that says so."""
    status, told = 499, bytearray()  # until the end is reached, it is the caller who left
    try:
        async for part in upstream.aiter_raw():
            call.first_s = call.first_s or time.monotonic()
            told += part
            yield part
        status = 200
    except httpx.HTTPError:
        status = 503
        gateway.routes.wake()
        error = Unavailable("The model's process ended while it answered.", hint="Try again.")
        yield f"data: {json.dumps(openai_error(error))}\n\ndata: [DONE]\n\n".encode()
    finally:
        await held.aclose()
        gateway.finish(call, status, bytes(told), streamed=True)


def openai_error(error: TunesmithError) -> dict[str, Any]:
    """As OpenAI's clients read it, with our own words beside."""
    kind = TYPES.get(error.status, "invalid_request_error" if error.status < 500 else "server_error")
    message = f"{error.message} {error.hint}".strip()
    return {"error": {"message": message, "type": kind, "code": error.code, "param": None, "details": error.details}}


def _restated(status: int, content: bytes) -> JSONResponse:
    """What an engine says is wrong, in the one form of this server."""
    try:
        told = json.loads(content)
    except ValueError:
        told = {}
    return _problem(_error_of(status, told if isinstance(told, dict) else {}))


def _problem(error: TunesmithError) -> JSONResponse:
    status = 400 if error.status == 422 else error.status
    headers = {"Retry-After": "1"} if status in (429, 503) else None
    return JSONResponse(openai_error(error), status_code=status, headers=headers)


def _unknown(gateway: Gateway, name: str) -> NotFound:
    return gateway.unknown(name, current())


def _error_of(status: int, told: dict[str, Any]) -> TunesmithError:
    said = told.get("error")
    message = said.get("message") if isinstance(said, dict) else told.get("message")
    error = TunesmithError(str(message or "The model could not answer."), hint=str(told.get("hint", "")))
    error.status = status if 400 <= status < 500 else Unavailable.status
    return error


declare(router, read=Scope.READ, write=Scope.READ)
