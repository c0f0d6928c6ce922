"""OpenAI's `/v1/completions`: texts that go on, without a chat template."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import Field

from tunesmith.core.errors import TunesmithError
from tunesmith.core.inference import Ask, Reply, Usage
from tunesmith.features.deployments.dialects.base import (
    MAX_CHOICES,
    MAX_NUMBER,
    Body,
    Event,
    Refused,
    SamplingFields,
    checked,
    new_id,
    now,
    prompts,
    read,
    wrong,
)
from tunesmith.http.errors import openai_error

REFUSED = {"suffix": Refused("text is not filled in between.", ("",))}


class CompletionFields(SamplingFields):
    prompt: Any = None
    max_tokens: int | None = Field(None, ge=1, le=MAX_NUMBER)
    logprobs: int | None = Field(None, ge=0, le=20)
    echo: bool = False
    best_of: int | None = None


def parse(body: Body) -> Ask:
    """Raises `InvalidInput`."""
    told = read(body, CompletionFields, REFUSED)
    if told.best_of not in (None, told.n):
        raise wrong("best_of", "must be the same as n", "Answers are not ranked: ask for n, and choose.")
    if told.echo and told.logprobs is not None:
        raise wrong(
            "echo", "cannot be had together with logprobs", "Log-probabilities are told of what is written only."
        )
    if told.echo and told.stream:
        raise wrong("echo", "cannot be had in a stream", "Show the prompt yourself, or leave stream out.")
    return checked(
        Ask(
            model=told.model,
            prompts=prompts(told.prompt, "prompt", MAX_CHOICES),
            decoding=told.decoding(told.max_tokens, told.logprobs),
            n=told.n,
            echo=told.echo,
            stream=told.stream,
            include_usage=told.include_usage(),
            user=told.user or "",
        )
    )


class CompletionWriter:
    """Of one answer. `echoed` are the prompts as text, where they are to be told."""

    def __init__(self, ask: Ask, echoed: Sequence[str] = ()) -> None:
        self._ask, self._echoed = ask, echoed
        self._about = {"id": new_id("cmpl-"), "object": "text_completion", "created": now(), "model": ask.model}
        self._told: dict[int, int] = {}
        """Characters of each answer so far, its own place in the text."""

    def whole(self, replies: Sequence[Reply], usage: Usage) -> dict[str, Any]:
        choices = [self._choice(index, reply) for index, reply in enumerate(replies)]
        for index, choice in enumerate(choices if self._echoed else []):
            choice["text"] = self._echoed[index // self._ask.n] + choice["text"]
        return {**self._about, "choices": choices, "usage": usage.told()}

    def _choice(self, index: int, reply: Reply) -> dict[str, Any]:
        logprobs = None
        if self._ask.decoding.logprobs is not None:
            logprobs = legacy_logprobs(reply.logprobs, self._told.get(index, 0))
            self._told[index] = self._told.get(index, 0) + sum(len(each["token"]) for each in reply.logprobs)
        return {"index": index, "text": reply.text, "logprobs": logprobs, "finish_reason": reply.finish_reason}

    def begin(self) -> list[Event]:
        return []

    def part(self, index: int, reply: Reply) -> list[Event]:
        if not (reply.text or reply.logprobs or reply.finish_reason):
            return []
        return [self._chunk([self._choice(index, reply)])]

    def _chunk(self, choices: list[dict[str, Any]], usage: Usage | None = None) -> Event:
        told: dict[str, Any] = {**self._about, "choices": choices}
        if self._ask.include_usage:
            told["usage"] = usage.told() if usage else None
        return "", told

    def end(self, usage: Usage) -> list[Event]:
        return [self._chunk([], usage)] if self._ask.include_usage else []

    def error(self, error: TunesmithError) -> list[Event]:
        return [("", openai_error(error))]


def legacy_logprobs(tokens: Sequence[dict[str, Any]], offset: int) -> dict[str, list[Any]]:
    """The form that completions have: a list for each thing. `offset` is the first token's place in the text."""
    offsets = []
    for each in tokens:
        offsets.append(offset)
        offset += len(each["token"])
    return {
        "tokens": [each["token"] for each in tokens],
        "token_logprobs": [each["logprob"] for each in tokens],
        "top_logprobs": [{top["token"]: top["logprob"] for top in each["top_logprobs"]} for each in tokens],
        "text_offset": offsets,
    }
