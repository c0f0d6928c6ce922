"""The answers to one request: one for each prompt and each of `n`, computed side by side as far as the deployment has room."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack
from typing import Any, NamedTuple, TypeVar

import httpx

from tunesmith.core.errors import TunesmithError, Unavailable
from tunesmith.core.inference import Ask, EmbeddingAsk, Prompt, Reply, Usage
from tunesmith.executors.serving_process import Endpoint
from tunesmith.features.deployments.engine_dialects import (
    CHAT,
    COMPLETIONS,
    DETOKENIZE,
    EMBEDDINGS,
    chat_body,
    completion_body,
    embedding_body,
    error_of,
    reply_of,
)
from tunesmith.features.deployments.gateway import Build, Call, Gateway
from tunesmith.features.deployments.routing import Variant

T = TypeVar("T")


class Piece(NamedTuple):
    """One answer of a request."""

    number: int
    """Its place among them."""
    choice: int
    """Which of the `n` answers to its prompt."""
    prompt: Prompt | None
    """None for a conversation."""


def pieces_of(ask: Ask) -> list[Piece]:
    """In the order in which they are told."""
    prompts: Sequence[Prompt | None] = ask.prompts or (None,)
    pairs = [(choice, prompt) for prompt in prompts for choice in range(ask.n)]
    return [Piece(number, choice, prompt) for number, (choice, prompt) in enumerate(pairs)]


def _way(ask: Ask, piece: Piece) -> tuple[str, Build]:
    """The engine's endpoint, and what makes its body."""
    prompt = piece.prompt
    if prompt is None:
        return CHAT, lambda endpoint, variant: chat_body(variant.engine, ask, piece.choice, endpoint.limits)
    return COMPLETIONS, lambda _endpoint, variant: completion_body(variant.engine, ask, prompt, piece.choice)


def total(ask: Ask, usages: Sequence[Usage]) -> Usage:
    """Of all answers, in their order: each prompt counts once."""
    whole = Usage()
    for first in range(0, len(usages), ask.n):
        of_prompt = Usage()
        for usage in usages[first : first + ask.n]:
            of_prompt.add(usage)
        whole.prompt_tokens += of_prompt.prompt_tokens
        whole.completion_tokens += of_prompt.completion_tokens
    return whole


async def whole(gateway: Gateway, call: Call, ask: Ask) -> list[Reply]:
    """All answers. The first that fails ends the others. Raises what the engine said in our words, and as `Gateway.post`."""

    async def one(piece: Piece) -> Reply:
        async with gateway.turn(call):
            told = await _post(gateway, call, *_way(ask, piece))
        return finished(ask, reply_of(told, ask.decoding.logprobs))

    return await _together([one(piece) for piece in pieces_of(ask)])


async def _together(works: Sequence[Any]) -> list[Any]:
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()


async def _post(gateway: Gateway, call: Call, path: str, build: Build) -> dict[str, Any]:
    answer = await gateway.post(call, path, build)
    told = _json(answer.content)
    if answer.status_code != 200:
        raise error_of(answer.status_code, told, call.route.name)
    return told


def _json(content: bytes) -> dict[str, Any]:
    try:
        told = json.loads(content)
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}


def finished(ask: Ask, reply: Reply) -> Reply:
    """JSON that was cut, by a stop text or by the engine, is told as cut."""
    if reply.tool_calls and reply.finish_reason == "stop":
        reply.finish_reason = "tool_calls"
    if ask.wants_json and reply.finish_reason == "stop" and not is_json(reply.text):
        reply.finish_reason = "length"
    return reply


def is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


async def vectors(gateway: Gateway, call: Call, ask: EmbeddingAsk) -> tuple[list[list[float]], Usage]:
    """One for each input."""

    def build(_endpoint: Endpoint, _variant: Variant) -> dict[str, Any]:
        return embedding_body(ask.inputs)

    async with gateway.turn(call):
        told = await _post(gateway, call, EMBEDDINGS, build)
    data = sorted(told["data"], key=lambda each: each["index"])
    usage = Usage(int((told.get("usage") or {}).get("prompt_tokens") or 0))
    return [each["embedding"] for each in data], usage


async def texts_of(gateway: Gateway, call: Call, prompts: Sequence[Prompt]) -> list[str]:
    """Prompts as text: those that came as tokens are put into words by the engine."""

    async def text(prompt: Prompt) -> str:
        if isinstance(prompt, str):
            return prompt
        told = await _post(gateway, call, DETOKENIZE, lambda _endpoint, _variant: {"tokens": list(prompt)})
        return str(told.get("content", told.get("prompt", "")))  # vLLM has the second name

    return await _together([text(prompt) for prompt in prompts])


# -- streams -----------------------------------------------------------------------------------------------------------


async def opened(gateway: Gateway, call: Call, ask: Ask) -> AsyncGenerator[tuple[int, Reply]]:
    """Returns when the model has begun the first answer, so that what goes wrong before has a status of its own. The parts
    come with the number of their answer."""
    first, *others = pieces_of(ask)
    async with AsyncExitStack() as held:
        await held.enter_async_context(gateway.turn(call))
        upstream = await _open(gateway, call, ask, first)
        held.push_async_callback(upstream.aclose)
        streams = [_parts(call, ask, first, upstream, held.pop_all())]
    return merged([*streams, *(_later(gateway, call, ask, piece) for piece in others)])


async def _later(gateway: Gateway, call: Call, ask: Ask, piece: Piece) -> AsyncGenerator[tuple[int, Reply]]:
    async with gateway.turn(call):
        upstream = await _open(gateway, call, ask, piece)
        held = AsyncExitStack()
        held.push_async_callback(upstream.aclose)
        async for part in _parts(call, ask, piece, upstream, held):
            yield part


async def _open(gateway: Gateway, call: Call, ask: Ask, piece: Piece) -> httpx.Response:
    upstream = await gateway.open(call, *_way(ask, piece))
    if upstream.status_code != 200:
        content = await upstream.aread()
        await upstream.aclose()
        raise error_of(upstream.status_code, _json(content), call.route.name)
    return upstream


async def _parts(
    call: Call, ask: Ask, piece: Piece, upstream: httpx.Response, held: AsyncExitStack
) -> AsyncGenerator[tuple[int, Reply]]:
    """The model's events as they come; the last part says why it ended. Raises `Unavailable` when its process dies on the
    way, and what the engine says in the middle of it."""
    so_far, text, end = Reply(), [""], Reply()
    async with held:
        try:
            async for line in upstream.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                told = _json(line[6:].encode())
                if "error" in told:
                    raise error_of(503, told, call.route.name)
                call.first_s = call.first_s or time.monotonic()
                part = reply_of(told, ask.decoding.logprobs)
                end.usage = part.usage or end.usage
                if part.finish_reason:
                    end.finish_reason, part.finish_reason = part.finish_reason, None
                so_far.tool_calls += part.tool_calls
                text.append(part.text if ask.wants_json else "")
                part.usage = None
                if part.text or part.reasoning or part.tool_calls or part.logprobs:
                    yield piece.number, part
        except httpx.HTTPError:
            raise _died() from None
    if end.finish_reason is None:
        raise _died()
    so_far.text, so_far.finish_reason = "".join(text), end.finish_reason
    yield piece.number, Reply(finish_reason=finished(ask, so_far).finish_reason, usage=end.usage)


def _died() -> TunesmithError:
    return Unavailable("The model's process ended while it answered.", hint="Try again.")


async def merged(sources: Sequence[AsyncGenerator[T]]) -> AsyncGenerator[T]:
    """What any of them has, as soon as it is there. The first that fails ends all."""
    waiting: dict[asyncio.Future[T], AsyncGenerator[T]] = {
        asyncio.ensure_future(anext(source)): source for source in sources
    }
    try:
        while waiting:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                source = waiting.pop(task)
                try:
                    item = task.result()
                except StopAsyncIteration:
                    continue
                waiting[asyncio.ensure_future(anext(source))] = source
                yield item
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        for source in sources:
            await source.aclose()
