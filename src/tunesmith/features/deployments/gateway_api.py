"""What programs talk to: `/v1/…` as OpenAI's clients expect it, and `/generate`. Each request goes to one model of one
deployment; the answer passes through as it comes.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any, NamedTuple

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from tunesmith.core.acting import Scope, current
from tunesmith.core.errors import BadRequest, InvalidInput, NotFound, TunesmithError
from tunesmith.core.inference import Ask, EmbeddingAsk, Reply, Usage
from tunesmith.features.deployments import answers
from tunesmith.features.deployments.dialects import chat as chats
from tunesmith.features.deployments.dialects import completions, embeddings, responses
from tunesmith.features.deployments.dialects.base import Body, Event, Writer
from tunesmith.features.deployments.gateway import Call, Gateway, GatewayState
from tunesmith.http.errors import openai_answer
from tunesmith.http.policy import declare
from tunesmith.schemas.common import ErrorBody
from tunesmith.schemas.deployments import GatewayError, GenerateAnswer, GenerateRequest

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": GatewayError | ErrorBody, "description": "Wrong, or not allowed."}
    for status in (404, 422, "4XX", 503)
}
router = APIRouter(tags=["gateway"], responses=ERRORS)

CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses"
LEFT = 499
"""Status in the records of a caller who went away."""


class Dialect(NamedTuple):
    """One public API for text: how a request is read, who writes its answer, and what ends a stream."""

    parse: Callable[[Body], Ask]
    writer: Callable[[Gateway, Call, Ask], Awaitable[Writer]]
    last: str = ""


async def _completion_writer(gateway: Gateway, call: Call, ask: Ask) -> Writer:
    echoed = await answers.texts_of(gateway, call, ask.prompts) if ask.echo else ()
    return completions.CompletionWriter(ask, echoed)


async def _chat_writer(_gateway: Gateway, _call: Call, ask: Ask) -> Writer:
    return chats.ChatWriter(ask)


async def _response_writer(_gateway: Gateway, call: Call, ask: Ask) -> Writer:
    return responses.ResponseWriter(ask, call.body)


DIALECTS = {
    CHAT: Dialect(chats.parse, _chat_writer, "data: [DONE]\n\n"),
    COMPLETIONS: Dialect(completions.parse, _completion_writer, "data: [DONE]\n\n"),
    RESPONSES: Dialect(responses.parse, _response_writer),
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
    return found or openai_answer(gateway.unknown(name, current()))


@router.post(CHAT, summary="Chat completion", response_class=Response)
async def chat(request: Request, gateway: GatewayState) -> Response:
    """As OpenAI's: streaming, stop, seed, logprobs, `response_format` with a JSON schema, tools. `model` is a deployment's name."""
    return await _answered(request, gateway, CHAT)


@router.post(COMPLETIONS, summary="Text completion", response_class=Response)
async def complete(request: Request, gateway: GatewayState) -> Response:
    """As OpenAI's: `prompt` goes on, without a chat template."""
    return await _answered(request, gateway, COMPLETIONS)


@router.post(RESPONSES, summary="Response", response_class=Response)
async def respond(request: Request, gateway: GatewayState) -> Response:
    """As OpenAI's, without a store: `input` is the whole conversation."""
    return await _answered(request, gateway, RESPONSES)


@router.get(RESPONSES + "/{response_id}", summary="A stored response", response_class=Response)
def get_response(response_id: str) -> Response:
    """There is none: responses are not stored."""
    return openai_answer(NotFound(f"There is no response {response_id[:80]!r}: {responses.NOT_STORED}"))


@router.post(EMBEDDINGS, summary="Embeddings", response_class=Response)
async def embed(request: Request, gateway: GatewayState) -> Response:
    """As OpenAI's: one vector for each input, the mean over its tokens."""
    try:
        body = await _body(request)
        ask = embeddings.parse(body)
        call = await _begun(request, gateway, EMBEDDINGS, ask, body)
        if copy := gateway.copy_of(call):
            gateway.start(_copied(gateway, copy))
        return await _whole(gateway, call)
    except TunesmithError as error:
        return openai_answer(error)


@router.post("/generate", summary="Generate text")
async def generate(body: GenerateRequest, gateway: GatewayState) -> GenerateAnswer:
    """A prompt, or a conversation, and the text that follows."""
    if bool(body.prompt) == bool(body.messages):
        raise InvalidInput(
            "Give either a prompt or messages.", details=[{"loc": "prompt", "message": "one of the two"}]
        )
    messages = [message.model_dump() for message in body.messages] or [{"role": "user", "content": body.prompt}]
    said = body.model_dump(exclude_none=True, include={"model", "max_tokens", "seed"}) | {"stop": body.stop or None}
    ask = chats.parse(said | {"messages": messages})
    ask = replace(ask, decoding=replace(ask.decoding, temperature=body.temperature))
    call = await gateway.begin(CHAT, ask, current(), "", said)
    if copy := gateway.copy_of(call):
        gateway.start(_copied(gateway, copy))
    told = json.loads(bytes((await _whole(gateway, call)).body))
    usage, choice = told["usage"], told["choices"][0]
    return GenerateAnswer(
        model=body.model,
        text=choice["message"]["content"] or "",
        finish_reason=choice["finish_reason"] or "stop",
        prompt_tokens=usage["prompt_tokens"],
        completion_tokens=usage["completion_tokens"],
    )


async def answered_at(name: str, request: Request, gateway: Gateway) -> Response:
    """A chat with the deployment `name`, whatever the request says."""
    return await _answered(request, gateway, CHAT, name)


async def text_after(gateway: Gateway, ask: Ask) -> tuple[str, dict[str, str]]:
    """How the one prompt of `ask` goes on, and the headers of the answer."""
    call = await gateway.begin(COMPLETIONS, ask, current(), "", {})
    if copy := gateway.copy_of(call):
        gateway.start(_copied(gateway, copy))
    answer = await _whole(gateway, call)
    told = {name: value for name, value in answer.headers.items() if name.startswith("x-")}
    return str(json.loads(bytes(answer.body))["choices"][0]["text"]), told


async def _answered(request: Request, gateway: Gateway, path: str, name: str = "") -> Response:
    try:
        body = await _body(request, name)
        ask = DIALECTS[path].parse(body)
        call = await _begun(request, gateway, path, ask, body)
        if copy := gateway.copy_of(call):
            gateway.start(_copied(gateway, copy))
        return await _streamed(gateway, call) if ask.stream else await _whole(gateway, call)
    except TunesmithError as error:
        return openai_answer(error)


async def _body(request: Request, name: str = "") -> Body:
    """With `name` as its model, where one is given. Raises `BadRequest` for what is no JSON object, and `InvalidInput` for one
    that names no model."""
    try:
        body = json.loads(await request.body())
        json.dumps(body, allow_nan=False, ensure_ascii=False).encode()  # engines take neither NaN nor half characters
    except (ValueError, RecursionError):
        raise BadRequest("The request is not JSON.") from None
    if not isinstance(body, dict):
        raise BadRequest("The request is not a JSON object.")
    body |= {"model": name} if name else {}
    if not isinstance(body.get("model"), str) or not body["model"]:
        hint = "GET /v1/models lists them."
        raise InvalidInput("Say which model: the name of a deployment.", hint=hint, details=[{"loc": "model"}])
    return body


async def _begun(request: Request, gateway: Gateway, path: str, ask: Ask | EmbeddingAsk, body: Body) -> Call:
    return await gateway.begin(path, ask, current(), request.headers.get("x-session-id", ""), body)


async def _copied(gateway: Gateway, copy: Call) -> None:
    """A shadow's answer: written down, and told to nobody."""
    try:
        await _whole(gateway, copy)
    except TunesmithError:
        return  # written down as well


async def _whole(gateway: Gateway, call: Call) -> Response:
    """One answer in one piece; asked again where the process had just ended."""
    headers = {"X-Request-Id": call.uid, "X-Tunesmith-Model": call.variant.model}
    if (kept := gateway.kept(call)) is not None:
        told = json.loads(kept)
        gateway.finish(call, 200, Usage(*told["usage"]), told["answer"], cached=True)
        return JSONResponse(told["body"], 200, {**headers, "X-Cache": "hit"})
    async with gateway.admitted(call):
        try:
            body, usage, text = await _computed(gateway, call)
        except TunesmithError as error:
            gateway.finish(call, 400 if error.status == 422 else error.status)
            raise
    gateway.finish(call, 200, usage, text)
    record = {"body": body, "answer": text, "usage": [usage.prompt_tokens, usage.completion_tokens]}
    gateway.keep(call, json.dumps(record).encode())
    return JSONResponse(body, 200, headers)


async def _computed(gateway: Gateway, call: Call) -> tuple[dict[str, Any], Usage, str | None]:
    """The body, its usage, and the first answer's text."""
    ask = call.ask
    if isinstance(ask, EmbeddingAsk):
        vectors, usage = await answers.vectors(gateway, call, ask)
        return embeddings.render(ask, vectors, usage.prompt_tokens), usage, None
    assert isinstance(ask, Ask)
    replies = await answers.whole(gateway, call, ask)
    writer = await DIALECTS[call.path].writer(gateway, call, ask)
    usage = answers.total(ask, [reply.usage or Usage() for reply in replies])
    text = replies[0].text
    return writer.whole(replies, usage), usage, text


async def _streamed(gateway: Gateway, call: Call) -> Response:
    """Headers come when the model has begun, so that what goes wrong before has a status of its own."""
    ask = call.ask
    assert isinstance(ask, Ask)
    async with AsyncExitStack() as held:
        await held.enter_async_context(gateway.admitted(call))
        try:
            writer = await DIALECTS[call.path].writer(gateway, call, ask)
            parts = await answers.opened(gateway, call, ask)
        except TunesmithError as error:
            gateway.finish(call, 400 if error.status == 422 else error.status)
            raise
        release = held.pop_all()
    headers = {"X-Request-Id": call.uid, "X-Tunesmith-Model": call.variant.model, "Cache-Control": "no-cache"}
    stream = _events(gateway, call, ask, writer, parts, release)
    return StreamingResponse(stream, media_type="text/event-stream", headers=headers)


async def _events(
    gateway: Gateway,
    call: Call,
    ask: Ask,
    writer: Writer,
    parts: AsyncGenerator[tuple[int, Reply]],
    release: AsyncExitStack,
) -> AsyncIterator[str]:
    """The answers as they come. What goes wrong on the way ends the stream with an event that says so."""
    status, last = LEFT, DIALECTS[call.path].last  # until the end is reached, it is the caller who left
    usages, text = [Usage() for _ in answers.pieces_of(ask)], list[str]()
    try:
        if told := _written(writer.begin()):
            yield told
        async for index, part in parts:
            usages[index] = part.usage or usages[index]
            text.append(part.text if index == 0 else "")
            if told := _written(writer.part(index, part)):
                yield told
        status = 200
        yield _written(writer.end(answers.total(ask, usages))) + last
    except TunesmithError as error:
        status = error.status
        gateway.routes.wake()
        yield _written(writer.error(error)) + last
    finally:
        gateway.finish(call, status, answers.total(ask, usages), "".join(text))
        await release.aclose()
        await parts.aclose()  # the last: in a task that is being cancelled, nothing comes after what waits


def _written(events: Iterable[Event]) -> str:
    """As server-sent events."""
    return "".join((f"event: {name}\n" if name else "") + f"data: {json.dumps(told)}\n\n" for name, told in events)


declare(router, read=Scope.READ, write=Scope.READ)
