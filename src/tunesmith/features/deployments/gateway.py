"""The way of one request to a model and back: which deployment, whose turn, from the cache or computed, and written down."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import time
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, Any, cast

import httpx
from fastapi import Depends
from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter
from starlette.requests import HTTPConnection

from tunesmith.core.acting import Identity
from tunesmith.core.clock import utc_now
from tunesmith.core.errors import InvalidInput, NotFound, TooMany, Unavailable
from tunesmith.core.inference import Ask, EmbeddingAsk, PredictAsk, Usage
from tunesmith.executors.serving_process import Endpoint
from tunesmith.features.deployments.answer_cache import AnswerCache
from tunesmith.features.deployments.dialects.base import system_and
from tunesmith.features.deployments.drift import unknown_share, words_of
from tunesmith.features.deployments.recorder import Recorder
from tunesmith.features.deployments.routing import Route, Routes, Variant
from tunesmith.features.deployments.running import headers, with_adapter

READ_TIMEOUT_S = 600.0
BACK_WITHIN_S = 30.0
"""How long a request waits for a process that is being started."""
LOOK_AGAIN_S = 0.05
TEXT_TOKENS = 16
"""How long a text goes on where nobody says; OpenAI's."""
MAX_RECORDED_CHARS = 200_000

AnyAsk = Ask | EmbeddingAsk | PredictAsk
Build = Callable[[Endpoint, Variant], dict[str, Any]]
"""Makes the body for the engine that answers, but for what names the adapter."""


@dataclass
class Call:
    """One request on its way."""

    path: str
    """Of the public API."""
    ask: AnyAsk
    """With the deployment's own settings where the request has none."""
    route: Route
    variant: Variant
    who: Identity
    session: str
    uid: str = field(default_factory=lambda: f"req-{uuid.uuid4().hex}")
    began_s: float = field(default_factory=time.monotonic)
    first_s: float | None = None
    shadow: bool = False
    body: dict[str, Any] = field(default_factory=dict)
    """As it came; some APIs tell parts of it again."""


class Gateway:
    """Found at `request.app.state.gateway`. Lives in the server's event loop."""

    def __init__(self, routes: Routes, recorder: Recorder) -> None:
        self.routes, self.recorder = routes, recorder
        self._clients: dict[str, httpx.AsyncClient] = {}
        self._turns: dict[tuple[int, int], asyncio.Semaphore] = {}
        self._inside: dict[int, int] = defaultdict(int)
        self._limiter = MovingWindowRateLimiter(MemoryStorage())
        self._cache = AnswerCache()
        self._copies: set[asyncio.Task[None]] = set()

    # -- where it goes ------------------------------------------------------------------------------------------------

    async def begin(self, path: str, ask: AnyAsk, who: Identity, session: str, body: dict[str, Any]) -> Call:
        """Waits a while for a model that is just starting. Raises `NotFound`, `TooMany`, `Unavailable`, or `InvalidInput` for
        what the model is not made for."""
        name = ask.model
        route = self.routes.find(name, who)
        if route is None:
            raise self.unknown(name, who)
        self._limit(route, who)
        sticky = session or ask.user or who.credential or uuid.uuid4().hex
        deadline_s = time.monotonic() + BACK_WITHIN_S
        while (variant := route.choose(sticky)) is None:
            _check_not_failed(route)
            if time.monotonic() > deadline_s:
                raise Unavailable(f"{name} is starting.", hint="Try again in a moment.")
            await asyncio.sleep(LOOK_AGAIN_S)
            route = self.routes.by_name.get(name, route)
        check_task(ask, name, variant)
        return Call(path, _completed(ask, route), route, variant, who, session, body=body)

    def copy_of(self, call: Call) -> Call | None:
        """What a shadow is asked besides, of which nobody waits for the answer; None while it is busy, or without one."""
        sticky = call.session or call.ask.user or call.who.credential or call.uid
        variant = call.route.shadow(sticky)
        if variant is None or (variant.about is None) == isinstance(call.ask, PredictAsk):
            return None
        if self._inside[variant.revision_id] >= call.route.settings.max_concurrent:
            return None
        ask = replace(call.ask, stream=False) if isinstance(call.ask, Ask) else call.ask
        return Call(call.path, ask, call.route, variant, call.who, call.session, shadow=True)

    def start(self, work: Any) -> None:
        """Have a copy answered beside the requests."""
        task = asyncio.create_task(work)
        self._copies.add(task)
        task.add_done_callback(self._copies.discard)

    def unknown(self, name: str, who: Identity) -> NotFound:
        names = ", ".join(sorted(route.name for route in self.routes.seen(who))[:10])
        hint = f"There are: {names}." if names else "Nothing is deployed on this server yet."
        return NotFound(f"There is no deployment {name[:80]!r}.", hint=hint)

    def _limit(self, route: Route, who: Identity) -> None:
        per_minute = route.settings.requests_per_minute
        if per_minute and not self._limiter.hit(
            RateLimitItemPerMinute(per_minute), str(route.deployment_id), who.credential or who.name
        ):
            raise TooMany(f"More than {per_minute} requests in a minute to {route.name}.", hint="Wait a little.")

    # -- whose turn ---------------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def admitted(self, call: Call) -> AsyncIterator[None]:
        """Count a request among those inside. Raises `TooMany` when too many wait already."""
        settings, key = call.route.settings, call.variant.revision_id
        if self._inside[key] >= settings.max_concurrent + settings.queue_limit:
            raise TooMany(
                f"{self._inside[key]} requests are being answered or wait for {call.route.name}.",
                hint="Try again in a moment.",
            )
        self._inside[key] += 1
        try:
            yield
        finally:
            self._inside[key] -= 1

    def turn(self, call: Call) -> asyncio.Semaphore:
        """To hold while one of its answers is computed."""
        most, key = call.route.settings.max_concurrent, call.variant.revision_id
        return self._turns.setdefault((key, most), asyncio.Semaphore(most))

    # -- asking -------------------------------------------------------------------------------------------------------

    async def post(self, call: Call, path: str, build: Build) -> httpx.Response:
        """The whole answer. A process that ends before it has answered is asked once more when it is back."""
        return await self._send(call, path, build, stream=False)

    async def open(self, call: Call, path: str, build: Build) -> httpx.Response:
        """The same for a stream: returns when the model has begun to answer."""
        return await self._send(call, path, build, stream=True)

    async def _send(self, call: Call, path: str, build: Build, *, stream: bool) -> httpx.Response:
        for attempt in (1, 2):
            endpoint, variant = await self._endpoint(call)
            body = with_adapter(
                build(endpoint, variant), variant.engine, variant.adapter, variant.adapter_path, variant.num_adapters
            )
            client = self._client(endpoint)
            try:
                request = client.build_request("POST", path, json=body, headers=headers(endpoint))
                return await client.send(request, stream=stream)
            except httpx.TransportError as error:
                await self._lost(call, attempt, error)
        raise Unavailable(f"{call.route.name} does not answer.", hint="Try again in a moment.")

    async def _lost(self, call: Call, attempt: int, error: httpx.TransportError) -> None:
        self.routes.wake()
        if attempt == 2 or isinstance(error, httpx.ReadTimeout):
            raise Unavailable(f"The process of {call.route.name} ended.", hint="Try again in a moment.") from None
        await asyncio.sleep(LOOK_AGAIN_S)

    async def _endpoint(self, call: Call) -> tuple[Endpoint, Variant]:
        """Where the variant answers now; waits while its process is being started. Raises `Unavailable`, and `InvalidInput`
        for what its model cannot be told."""
        deadline_s = time.monotonic() + BACK_WITHIN_S
        while time.monotonic() < deadline_s:
            route = self.routes.by_name.get(call.route.name)
            found = next(
                (v for v in (route.variants if route else ()) if v.revision_id == call.variant.revision_id), None
            )
            if route is None or found is None:
                break
            if found.endpoint is not None:
                check_task(call.ask, call.route.name, found)
                _check_tools(call.ask, found)
                return found.endpoint, found
            _check_not_failed(route)
            self.routes.wake()
            await asyncio.sleep(LOOK_AGAIN_S)
        raise Unavailable(f"{call.route.name} is not running.", hint="Try again in a moment.")

    def _client(self, endpoint: Endpoint) -> httpx.AsyncClient:
        found = self._clients.get(endpoint.url)
        if found is None:
            # llama.cpp closes a connection after a stream without saying so: one that was kept would fail every other time.
            limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
            timeout = httpx.Timeout(READ_TIMEOUT_S, connect=5.0)
            found = httpx.AsyncClient(base_url=endpoint.url, timeout=timeout, limits=limits, trust_env=False)
            self._clients[endpoint.url] = found
        return found

    async def close(self) -> None:
        for task in list(self._copies):
            task.cancel()
        for client in self._clients.values():
            await client.aclose()

    # -- the cache, and writing down ----------------------------------------------------------------------------------

    def kept(self, call: Call) -> bytes | None:
        """The answer to the same request, if it is still fresh."""
        return self._cache.find(_cache_key(call))

    def keep(self, call: Call, answer: bytes) -> None:
        """For the same request to come again, where that may have the same answer."""
        self._cache.keep(_cache_key(call), answer, call.route.settings.cache_s)

    def finish(
        self, call: Call, status: int, usage: Usage | None = None, text: str | None = None, *, cached: bool = False
    ) -> None:
        """Write the request down; `text` is what was answered."""
        now_s, asked = time.monotonic(), call.ask.text
        records = call.route.settings.record_conversations and status == 200
        messages = call.ask.messages if records and isinstance(call.ask, Ask) and call.ask.is_chat else None
        num_inputs = len(call.ask.inputs) if isinstance(call.ask, PredictAsk) else 1
        words = words_of(asked) if call.variant.known_words else []
        self.recorder.add(
            {
                "uid": call.uid, "deployment_id": call.route.deployment_id, "revision_id": call.variant.revision_id,
                "at": utc_now(), "path": call.path, "status": status, "latency_s": now_s - call.began_s,
                "first_token_s": call.first_s - call.began_s if call.first_s else None,
                "prompt_tokens": usage.prompt_tokens if usage else None,
                "completion_tokens": usage.completion_tokens if usage and isinstance(call.ask, Ask) else None,
                "input_chars": len(asked) // num_inputs, "unknown_words": unknown_share(words, call.variant.known_words),
                "cached": cached, "shadow": call.shadow, "caller": call.who.name, "rating": None,
                "messages": list(messages) if messages and len(asked) < MAX_RECORDED_CHARS else None,
                "answer": (text or None) if messages else None,
            }
        )  # fmt: skip


def _check_not_failed(route: Route) -> None:
    """Raises `Unavailable` with the reason, for those too who have been waiting."""
    if route.failed:
        hint = "Roll out another model, or fix the cause and deploy it again."
        raise Unavailable(f"{route.name} has failed: {route.failed}", hint=hint)


def check_task(ask: AnyAsk, name: str, variant: Variant) -> None:
    """Raises `InvalidInput` for a chat with a model that does not chat, and for inputs to one that does."""
    predicts = isinstance(ask, PredictAsk)
    if variant.about is not None and not predicts:
        raise InvalidInput(
            f"{name} is for {variant.about.title.lower()} and does not chat.",
            hint=f"Send its inputs to /models/{name}, or to the deployment's predict in /api/v1.",
            details=[{"loc": "model", "message": "does not chat"}],
        )
    if variant.about is None and predicts:
        raise InvalidInput(
            f"{name} is a chat model.",
            hint="Ask it at /v1/chat/completions.",
            details=[{"loc": "model", "message": "is asked to chat"}],
        )


def _check_tools(ask: AnyAsk, variant: Variant) -> None:
    """Raises `InvalidInput` where the engine or the model's chat template has no place for tools."""
    if not isinstance(ask, Ask) or variant.endpoint is None:
        return
    if ask.tools and variant.engine == "transformers":
        raise InvalidInput("Tools need the engine llama.cpp or vLLM.", hint="Deploy the model with one.")
    called = any(message.get("tool_calls") for message in ask.messages)
    if (ask.tools or called) and not variant.endpoint.tools:
        raise InvalidInput(
            f"The chat template of {variant.model} has no place for tools.",
            hint="Leave them out, or deploy a model that was trained to call tools.",
            details=[{"loc": "tools" if ask.tools else "messages", "message": "no place for tools"}],
        )


def _completed(ask: AnyAsk, route: Route) -> AnyAsk:
    """With the deployment's own settings where the request has none."""
    if not isinstance(ask, Ask):
        return ask
    messages = system_and(ask.messages, route.system_prompt) if ask.is_chat else ()
    decoding = ask.decoding.completed(route.sampling)
    if not ask.is_chat:
        decoding = decoding.completed({"max_tokens": TEXT_TOKENS})
    return replace(ask, decoding=decoding, messages=messages)


def _cache_key(call: Call) -> str | None:
    """None for what may not be kept: an answer by chance, a stream, or where it is switched off."""
    ask = call.ask
    is_fixed = not isinstance(ask, Ask) or ask.decoding.temperature == 0 or ask.decoding.seed is not None
    streams = isinstance(ask, Ask) and ask.stream
    if not call.route.settings.cache_s or not is_fixed or streams or call.shadow:
        return None
    told = json.dumps([call.path, call.variant.revision_id, asdict(ask), call.body], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()


def get_gateway(connection: HTTPConnection) -> Gateway:
    return cast(Gateway, connection.app.state.gateway)


GatewayState = Annotated[Gateway, Depends(get_gateway)]
