"""The way of inputs to a model that does not chat, and of its answers back; written down as every request is."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple

from tunesmith.core.acting import current
from tunesmith.core.errors import TooMany, TunesmithError
from tunesmith.core.inference import PredictAsk
from tunesmith.core.prediction import check_inputs, outputs_of
from tunesmith.features.deployments.gateway import Call, Gateway
from tunesmith.recipes.model_about import ModelAbout

BUSY_S, BUSY_TRIES = 0.5, 60
"""How long and how often a file waits for its turn where too many wait already."""


class Predicted(NamedTuple):
    """The answers to a request."""

    call: Call
    outputs: list[Any]
    """One for each input."""
    cached: bool = False

    @property
    def headers(self) -> dict[str, str]:
        """Of the answer."""
        told = {"X-Request-Id": self.call.uid, "X-Tunesmith-Model": self.call.variant.model}
        return told | ({"X-Cache": "hit"} if self.cached else {})


async def predict(
    gateway: Gateway, path: str, name: str, inputs: Sequence[Any], parameters: Mapping[str, Any], session: str = ""
) -> Predicted:
    """Ask the deployment `name`. Raises as `Gateway.begin`, and what the model says is wrong with the inputs."""
    check_inputs(inputs, parameters)
    call = await gateway.begin(path, PredictAsk(name, tuple(inputs), dict(parameters)), current(), session, {})
    if copy := gateway.copy_of(call):
        gateway.start(_copied(gateway, copy))
    return await _whole(gateway, call)


async def asker(
    gateway: Gateway, path: str, name: str
) -> tuple[ModelAbout, Callable[[Sequence[Any]], Awaitable[list[Any]]]]:
    """Asks one model of the deployment `name` many times, as for the rows of a file: let in once, written down each time. Raises
    as `Gateway.begin`."""
    first = await gateway.begin(path, PredictAsk(name, ()), current(), "", {})
    assert first.variant.about is not None

    async def ask(inputs: Sequence[Any]) -> list[Any]:
        check_inputs(inputs, {})
        call = Call(path, PredictAsk(name, tuple(inputs)), first.route, first.variant, first.who, "")
        for _ in range(BUSY_TRIES):
            try:
                return (await _whole(gateway, call)).outputs
            except TooMany:  # others ask too; a file has time
                await asyncio.sleep(BUSY_S)
        return (await _whole(gateway, call)).outputs

    return first.variant.about, ask


async def _copied(gateway: Gateway, copy: Call) -> None:
    """A shadow's answer: written down, and told to nobody."""
    try:
        await _whole(gateway, copy)
    except TunesmithError:
        return  # written down as well


async def _whole(gateway: Gateway, call: Call) -> Predicted:
    if (kept := gateway.kept(call)) is not None:
        gateway.finish(call, 200, cached=True)
        return Predicted(call, json.loads(kept), cached=True)
    async with gateway.admitted(call):
        try:
            async with gateway.turn(call):
                outputs = await computed(gateway, call)
        except TunesmithError as error:
            gateway.finish(call, 400 if error.status == 422 else error.status)
            raise
    gateway.finish(call, 200)
    gateway.keep(call, json.dumps(outputs).encode())
    return Predicted(call, outputs)


async def computed(gateway: Gateway, call: Call) -> list[Any]:
    """One computation of the process. Raises what it says in our words."""
    ask = call.ask
    assert isinstance(ask, PredictAsk)
    body = {"inputs": list(ask.inputs), "parameters": dict(ask.parameters)}
    answer = await gateway.post(call, "/predict", lambda _endpoint, _variant: body)
    return outputs_of(answer.status_code, answer.content)
