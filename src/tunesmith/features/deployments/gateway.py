"""The way of one request to a model and back: which deployment, whose turn, from the cache or computed, and written down."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import re
import time
import uuid
from collections import OrderedDict, defaultdict
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
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
from tunesmith.executors.serving_process import Endpoint
from tunesmith.features.deployments.drift import unknown_share, words_of
from tunesmith.features.deployments.recorder import Recorder
from tunesmith.features.deployments.routing import Route, Routes, Variant
from tunesmith.features.deployments.running import headers, with_adapter

READ_TIMEOUT_S = 600.0
BACK_WITHIN_S = 30.0
"""How long a request waits for a process that is being started."""
LOOK_AGAIN_S = 0.05
CACHE_BYTES = 64 * 1024**2
"""Of all kept answers together."""
MAX_KEPT_BYTES = 1024**2
"""Of one kept answer."""
MAX_RECORDED_CHARS = 200_000
SAMPLING = ("temperature", "top_p", "top_k", "max_tokens", "seed", "stop")
COUNTS = re.compile(rb'"(prompt_tokens|completion_tokens|prompt_n|cache_n|predicted_n)":\s*(\d+)')
TAIL_BYTES = 8192
"""The end of an answer, in which its counts stand."""
CHAT = "/v1/chat/completions"


@dataclass
class Call:
    """One request on its way."""

    path: str
    body: dict[str, Any]
    """As the engine is asked, but for what names the adapter."""
    route: Route
    variant: Variant
    who: Identity
    session: str
    uid: str = field(default_factory=lambda: f"req-{uuid.uuid4().hex}")
    began_s: float = field(default_factory=time.monotonic)
    first_s: float | None = None
    shadow: bool = False
    text: str = ""
    """What is asked: the last message, the prompt or the input."""


class Gateway:
    """Found at `request.app.state.gateway`. Lives in the server's event loop."""

    def __init__(self, routes: Routes, recorder: Recorder) -> None:
        self.routes, self.recorder = routes, recorder
        self._clients: dict[str, httpx.AsyncClient] = {}
        self._turns: dict[tuple[int, int], asyncio.Semaphore] = {}
        self._inside: dict[int, int] = defaultdict(int)
        self._limiter = MovingWindowRateLimiter(MemoryStorage())
        self._kept: OrderedDict[str, tuple[float, bytes]] = OrderedDict()
        self._kept_bytes = 0
        self._shadows: set[asyncio.Task[None]] = set()

    # -- where it goes ------------------------------------------------------------------------------------------------

    async def begin(self, path: str, body: dict[str, Any], who: Identity, session: str) -> Call:
        """Waits a while for a model that is just starting. Raises `NotFound`, `InvalidInput`, `TooMany` or `Unavailable`."""
        name = body.get("model")
        if not isinstance(name, str) or not name:
            raise InvalidInput("Say which model: the name of a deployment.", hint="GET /v1/models lists them.")
        route = self.routes.find(name, who)
        if route is None:
            raise self.unknown(name, who)
        self._limit(route, who)
        sticky = session or str(body.get("user") or "") or who.credential or uuid.uuid4().hex
        deadline_s = time.monotonic() + BACK_WITHIN_S
        while (variant := route.choose(sticky)) is None:
            _check_not_failed(route)
            if time.monotonic() > deadline_s:
                raise Unavailable(f"{name} is starting.", hint="Try again in a moment.")
            await asyncio.sleep(LOOK_AGAIN_S)
            route = self.routes.by_name.get(name, route)
        asked = _completed(path, body, route)
        call = Call(path, asked, route, variant, who, session, text=_asked(path, asked))
        if copy := route.shadow(sticky):
            self._send_copy(call, copy)
        return call

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

    def _send_copy(self, call: Call, variant: Variant) -> None:
        """To a shadow, whose answer nobody waits for; left out while it is busy."""
        if self._inside[variant.revision_id] >= call.route.settings.max_concurrent:
            return
        body = {key: value for key, value in call.body.items() if key != "stream_options"} | {"stream": False}
        copy = Call(call.path, body, call.route, variant, call.who, call.session, shadow=True, text=call.text)

        async def send() -> None:
            try:
                async with self.turn(copy):
                    answer = await self.ask(copy)
                self.finish(copy, answer.status_code, answer.content)
            except (Unavailable, TooMany) as error:
                self.finish(copy, error.status, b"")

        task = asyncio.create_task(send())
        self._shadows.add(task)
        task.add_done_callback(self._shadows.discard)

    # -- whose turn ---------------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def turn(self, call: Call) -> AsyncIterator[None]:
        """Wait until the model has room. Raises `TooMany` when too many wait already."""
        settings, key = call.route.settings, call.variant.revision_id
        if self._inside[key] >= settings.max_concurrent + settings.queue_limit:
            raise TooMany(
                f"{self._inside[key]} requests are being answered or wait for {call.route.name}.",
                hint="Try again in a moment.",
            )
        turns = self._turns.setdefault((key, settings.max_concurrent), asyncio.Semaphore(settings.max_concurrent))
        self._inside[key] += 1
        try:
            async with turns:
                yield
        finally:
            self._inside[key] -= 1

    # -- asking -------------------------------------------------------------------------------------------------------

    async def ask(self, call: Call) -> httpx.Response:
        """The whole answer. A process that ends before it has answered is asked once more when it is back."""
        for attempt in (1, 2):
            endpoint, variant = await self._endpoint(call)
            try:
                return await self._client(endpoint).post(
                    call.path, json=self._body(call, variant), headers=headers(endpoint)
                )
            except httpx.TransportError as error:
                await self._lost(call, attempt, error)
        raise Unavailable(f"{call.route.name} does not answer.", hint="Try again in a moment.")

    async def open(self, call: Call) -> httpx.Response:
        """The same for a stream: returns when the model has begun to answer."""
        for attempt in (1, 2):
            endpoint, variant = await self._endpoint(call)
            client = self._client(endpoint)
            request = client.build_request("POST", call.path, json=self._body(call, variant), headers=headers(endpoint))
            try:
                return await client.send(request, stream=True)
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
        for tools that its model cannot be told of."""
        deadline_s = time.monotonic() + BACK_WITHIN_S
        while time.monotonic() < deadline_s:
            route = self.routes.by_name.get(call.route.name)
            found = next(
                (v for v in (route.variants if route else ()) if v.revision_id == call.variant.revision_id), None
            )
            if route is None or found is None:
                break
            if found.endpoint is not None:
                if call.body.get("tools") and not found.endpoint.tools:
                    raise InvalidInput(
                        f"The chat template of {found.model} has no place for tools.",
                        hint="Leave them out, or deploy a model that was trained to call tools.",
                    )
                return found.endpoint, found
            _check_not_failed(route)
            self.routes.wake()
            await asyncio.sleep(LOOK_AGAIN_S)
        raise Unavailable(f"{call.route.name} is not running.", hint="Try again in a moment.")

    def _body(self, call: Call, variant: Variant) -> dict[str, Any]:
        return with_adapter(call.body, variant.engine, variant.adapter, variant.adapter_path, variant.num_adapters)

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
        for task in list(self._shadows):
            task.cancel()
        for client in self._clients.values():
            await client.aclose()

    # -- the cache ----------------------------------------------------------------------------------------------------

    def kept(self, call: Call) -> bytes | None:
        """The answer to the same request, if it is still fresh."""
        found = self._kept.get(key) if (key := _cache_key(call)) else None
        return found[1] if found and found[0] > time.monotonic() else None

    def _keep(self, call: Call, answer: bytes) -> None:
        key = _cache_key(call)
        if key is None or len(answer) > MAX_KEPT_BYTES:
            return
        if old := self._kept.pop(key, None):
            self._kept_bytes -= len(old[1])
        self._kept[key] = (time.monotonic() + call.route.settings.cache_s, answer)
        self._kept_bytes += len(answer)
        while self._kept_bytes > CACHE_BYTES:
            _, (_until, oldest) = self._kept.popitem(last=False)
            self._kept_bytes -= len(oldest)

    # -- writing down -------------------------------------------------------------------------------------------------

    def finish(self, call: Call, status: int, answer: bytes, *, streamed: bool = False, cached: bool = False) -> None:
        """Write the request down; an answer that may be asked for again is kept."""
        now_s = time.monotonic()
        if status == 200 and not streamed and not cached:
            self._keep(call, answer)
        counts = {name.decode(): int(number) for name, number in COUNTS.findall(answer[-TAIL_BYTES:])}
        prompt = counts.get("prompt_tokens", counts.get("prompt_n", 0) + counts.get("cache_n", 0) or None)
        records = call.route.settings.record_conversations and call.path == CHAT and status == 200
        words = words_of(call.text) if call.variant.known_words else []
        self.recorder.add(
            {
                "uid": call.uid, "deployment_id": call.route.deployment_id, "revision_id": call.variant.revision_id,
                "at": utc_now(), "path": call.path, "status": status, "latency_s": now_s - call.began_s,
                "first_token_s": call.first_s - call.began_s if call.first_s else None, "prompt_tokens": prompt,
                "completion_tokens": counts.get("completion_tokens", counts.get("predicted_n")),
                "input_chars": len(call.text), "unknown_words": unknown_share(words, call.variant.known_words),
                "cached": cached, "shadow": call.shadow, "caller": call.who.name, "rating": None,
                "messages": call.body.get("messages") if records and len(call.text) < MAX_RECORDED_CHARS else None,
                "answer": _text_of(answer, streamed=streamed) if records else None,
            }
        )  # fmt: skip


def _check_not_failed(route: Route) -> None:
    """Raises `Unavailable` with the reason, for those too who have been waiting."""
    if route.failed:
        hint = "Roll out another model, or mend the cause and deploy it again."
        raise Unavailable(f"{route.name} has failed: {route.failed}", hint=hint)


def _completed(path: str, body: dict[str, Any], route: Route) -> dict[str, Any]:
    """With the deployment's own settings where the request has none. Raises `InvalidInput`."""
    asked = dict(body)
    if path == "/v1/embeddings":
        return asked
    asked |= {
        name: value for name, value in route.sampling.items() if asked.get(name) is None and value not in (None, [])
    }
    if "repetition_penalty" in asked and "repeat_penalty" not in asked:
        asked["repeat_penalty"] = asked["repetition_penalty"]
    if path != CHAT:
        return asked
    messages = asked.get("messages")
    if not isinstance(messages, list) or not messages or not all(isinstance(m, dict) for m in messages):
        raise InvalidInput("messages must be a list of objects with role and content.")
    if route.system_prompt and messages[0].get("role") != "system":
        asked["messages"] = [{"role": "system", "content": route.system_prompt}, *messages]
    return asked


def _asked(path: str, body: dict[str, Any]) -> str:
    told = body["messages"][-1].get("content") if path == CHAT else body.get("prompt", body.get("input"))
    return told if isinstance(told, str) else json.dumps(told) if told is not None else ""


def _cache_key(call: Call) -> str | None:
    """None for what may not be kept: an answer by chance, a stream, or where it is switched off."""
    settings, body = call.route.settings, call.body
    is_fixed = body.get("temperature") == 0 or body.get("seed") is not None or call.path == "/v1/embeddings"
    if not settings.cache_s or not is_fixed or body.get("stream") or call.shadow:
        return None
    told = json.dumps([call.path, call.variant.revision_id, body], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()


def _text_of(answer: bytes, *, streamed: bool) -> str | None:
    """What the model said, in one piece."""
    try:
        if not streamed:
            return cast("str | None", json.loads(answer)["choices"][0]["message"].get("content"))
        parts = []
        for line in answer.split(b"\n"):
            if line.startswith(b"data: {") and (choices := json.loads(line[6:]).get("choices")):
                parts.append(choices[0].get("delta", {}).get("content") or "")
        return "".join(parts)
    except (ValueError, KeyError, IndexError):
        return None


def get_gateway(connection: HTTPConnection) -> Gateway:
    return cast(Gateway, connection.app.state.gateway)


GatewayState = Annotated[Gateway, Depends(get_gateway)]
