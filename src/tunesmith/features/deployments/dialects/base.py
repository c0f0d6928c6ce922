"""What all dialects share: fields are used or refused by name, never left out in silence."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tunesmith.core.errors import InvalidInput, TunesmithError
from tunesmith.core.inference import Ask, Decoding, Message, Prompt, Reply, Usage
from tunesmith.core.validation import message_of

MAX_STOPS = 16
MAX_NUMBER = 2**31 - 1
"""Of tokens: what engines can count to."""
MAX_CHOICES = 128
"""Answers to one request, all prompts together."""
MAX_MESSAGES = 10_000
Body = dict[str, Any]
Event = tuple[str, Mapping[str, Any]]
"""Its name, empty where the API has none, and its data."""


class Refused(NamedTuple):
    """A field that is known and not offered: taken only with values that change nothing."""

    why: str
    harmless: tuple[Any, ...] = ()


_CACHED = Refused("prompts are cached without being told to.")
OFFERED_ELSEWHERE = {
    "service_tier": Refused("there is one tier.", ("auto", "default")),
    "moderation": Refused("there is no moderation."),
    "prompt_cache_key": _CACHED,
    "prompt_cache_options": _CACHED,
    "prompt_cache_retention": _CACHED,
}
"""Fields of conversations that no model here has a use for."""


class Writer(Protocol):
    """Writes one answer in an API's form: whole, or as the events of a stream."""

    def whole(self, replies: Sequence[Reply], usage: Usage) -> dict[str, Any]:
        """The answers in order: those to the first prompt, then those to the second."""

    def begin(self) -> list[Event]:
        """Before the first part."""

    def part(self, index: int, reply: Reply) -> list[Event]:
        """The next part of answer `index`."""

    def end(self, usage: Usage) -> list[Event]:
        """After the last part."""

    def error(self, error: TunesmithError) -> list[Event]:
        """Something went wrong on the way; nothing follows."""


class Fields(BaseModel):
    """The body of a request. Numbers are numbers, not text that looks like one."""

    model_config = ConfigDict(extra="forbid", strict=True, protected_namespaces=())

    model: str = Field(min_length=1)


class DecodingFields(Fields):
    """How tokens are chosen, as every API of OpenAI's has it and, in the second half, as the engines have it besides."""

    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    stream: bool = False
    stream_options: dict[str, Any] | None = None
    user: str | None = None
    seed: int | None = None
    stop: Any = None
    top_k: int | None = Field(None, ge=1, le=MAX_NUMBER)
    min_p: float | None = Field(None, ge=0, le=1)
    repetition_penalty: float | None = Field(None, gt=0, le=5)

    def decoding(self, max_tokens: int | None, logprobs: int | None) -> Decoding:
        """Raises `InvalidInput` for stop strings that cannot be used."""
        return Decoding(
            max_tokens=max_tokens,
            # A nucleus of nothing holds the likeliest token alone.
            temperature=0.0 if self.top_p == 0 else self.temperature,
            top_p=self.top_p or None,
            top_k=self.top_k,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            seed=None if self.seed is None else self.seed % 2**32,
            stop=_stops(self.stop),
            logprobs=logprobs,
        )


class SamplingFields(DecodingFields):
    """Those that chat and completions have besides."""

    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    logit_bias: dict[str, float] | None = None
    n: int = Field(1, ge=1, le=MAX_CHOICES)

    def decoding(self, max_tokens: int | None, logprobs: int | None) -> Decoding:
        """Raises `InvalidInput` for stop strings or biases that cannot be used."""
        return replace(
            super().decoding(max_tokens, logprobs),
            frequency_penalty=self.frequency_penalty,
            presence_penalty=self.presence_penalty,
            logit_bias=_biases(self.logit_bias),
        )

    def include_usage(self) -> bool:
        """Whether a stream tells its usage."""
        options = dict(self.stream_options or {})
        wanted = options.pop("include_usage", False)
        options.pop("include_obfuscation", None)  # padding against eavesdroppers: there is none to leave out
        if options:
            raise wrong(f"stream_options.{next(iter(options))}", "is not a known field")
        return bool(wanted)


F = TypeVar("F", bound=Fields)


def read(body: Body, kind: type[F], refused: Mapping[str, Refused]) -> F:
    """The fields of a request; null is the same as left out. Raises `InvalidInput`, which names what is not known, not offered
    or not possible."""
    given = {name: value for name, value in body.items() if value is not None}
    for name, field in refused.items():
        if name in given and not any(given[name] == value for value in field.harmless):
            raise InvalidInput(
                f"{name} is not offered here: {field.why}",
                hint="Leave it out.",
                details=[{"loc": name, "message": "not offered"}],
            )
        given.pop(name, None)
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        problems = [
            {"loc": ".".join(map(str, problem["loc"])), "message": message_of(problem)} for problem in error.errors()
        ]
        told = "; ".join(f"{problem['loc']} {problem['message']}" for problem in problems[:5])
        raise InvalidInput(f"{told}.", details=problems) from None


def wrong(place: str, what: str, hint: str = "") -> InvalidInput:
    """`place` says where, `what` goes on from there: `is missing`."""
    return InvalidInput(f"{place} {what}.", hint=hint, details=[{"loc": place, "message": what}])


def _stops(given: Any) -> tuple[str, ...] | None:
    """Raises `InvalidInput`."""
    if given is None:
        return None
    found = [given] if isinstance(given, str) else given
    if not isinstance(found, list) or not all(isinstance(text, str) for text in found) or len(found) > MAX_STOPS:
        raise wrong("stop", f"must be a text or a list of at most {MAX_STOPS} texts")
    return tuple(text for text in found if text)


def _biases(given: Mapping[str, float] | None) -> dict[str, float] | None:
    for token, bias in (given or {}).items():
        if not (token.isascii() and token.isdigit()):
            raise wrong("logit_bias", f"must have numbers of tokens as names, not {token[:40]!r}")
        if not -100 <= bias <= 100:
            raise wrong(f"logit_bias.{token}", "must be from -100 to 100")
    return dict(given) if given else None


def prompts(given: Any, place: str, most: int) -> tuple[Prompt, ...]:
    """A text, a list of texts, a list of tokens, or a list of such lists. Raises `InvalidInput`."""
    shape = f"must be a text, a list of texts, a list of tokens or a list of such lists, at most {most}"
    if isinstance(given, str):
        found: list[Any] = [given]
    elif isinstance(given, list) and given and all(_is_token(each) for each in given):
        found = [given]
    elif isinstance(given, list) and given:
        found = given
    else:
        raise wrong(place, "is missing" if given is None else shape)
    if len(found) > most:
        raise wrong(place, shape)
    made: list[Prompt] = []
    for number, each in enumerate(found):
        here = place if len(found) == 1 else f"{place}.{number}"
        if isinstance(each, str):
            made.append(each)
        elif isinstance(each, list) and all(_is_token(token) for token in each):
            made.append(tuple(each))
        else:
            raise wrong(here, "must be a text or a list of tokens")
        if not each:
            raise wrong(here, "is empty")
    return tuple(made)


def _is_token(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31


def text_of(content: Any, place: str, kinds: Sequence[str] = ("text",)) -> str:
    """A message's content as text: its parts of these `kinds`, joined. Raises `InvalidInput` for images and the like."""
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        raise wrong(place, "must be a text or a list of parts")
    texts = []
    for number, part in enumerate(content):
        here = f"{place}.{number}"
        if isinstance(part, str):
            texts.append(part)
            continue
        if not isinstance(part, dict) or not isinstance(kind := part.get("type"), str):
            raise wrong(here, "must be an object with a type")
        if kind == "refusal":
            texts.append(str(part.get("refusal") or ""))
            continue
        if kind not in kinds:
            raise wrong(here, f"has type {kind[:40]}, and this deployment reads text only", "Send its text instead.")
        if not isinstance(part.get("text"), str):
            raise wrong(f"{here}.text", "must be text")
        texts.append(part["text"])
    return "".join(texts)


def function_tool(name: Any, description: Any, parameters: Any, strict: Any, place: str) -> dict[str, Any]:
    """A tool in the form of chat completions. Raises `InvalidInput`."""
    if not isinstance(name, str) or not name:
        raise wrong(f"{place}.name", "is missing")
    if parameters is not None and not isinstance(parameters, dict):
        raise wrong(f"{place}.parameters", "must be a JSON schema")
    told = {"description": description, "parameters": parameters, "strict": strict}
    return {"type": "function", "function": {"name": name, **{k: v for k, v in told.items() if v is not None}}}


def json_format(schema: Any, name: Any, place: str) -> dict[str, Any]:
    """A `response_format` in the form of chat completions. Raises `InvalidInput`."""
    if not isinstance(schema, dict):
        raise wrong(place, "must be a JSON schema")
    return {"type": "json_schema", "json_schema": {"name": str(name or "answer"), "schema": schema, "strict": True}}


def checked(ask: Ask) -> Ask:
    """Raises `InvalidInput` for what no engine can do."""
    if max(1, len(ask.prompts)) * ask.n > MAX_CHOICES:
        raise wrong("n", f"times the number of prompts must be at most {MAX_CHOICES}")
    if ask.is_chat and not any(message["role"] != "assistant" or message["content"] for message in ask.messages):
        raise wrong("messages", "has nothing to answer")
    if ask.is_chat and len(ask.messages) > MAX_MESSAGES:
        raise wrong("messages", f"must have at most {MAX_MESSAGES} turns")
    has_called = False
    for number, message in enumerate(ask.messages):
        if message["role"] == "tool" and not has_called:
            raise wrong(f"messages.{number}", "answers a tool that no turn before it has called")
        has_called = has_called or bool(message.get("tool_calls"))
    return ask


def new_id(prefix: str) -> str:
    return f"{prefix}{uuid.uuid4().hex}"


def now() -> int:
    """Seconds since 1970."""
    return int(time.time())


def call_of(identity: Any, name: Any, arguments: Any, place: str) -> dict[str, Any]:
    """A tool call in the form of chat completions. Raises `InvalidInput`."""
    if not isinstance(name, str) or not name:
        raise wrong(f"{place}.name", "is missing")
    if not isinstance(arguments, str):
        raise wrong(f"{place}.arguments", "must be JSON as text")
    return {"id": str(identity or ""), "type": "function", "function": {"name": name, "arguments": arguments}}


def system_and(messages: Sequence[Message], prompt: str) -> tuple[Message, ...]:
    """`messages` with `prompt` before them, if they have no system message of their own."""
    if not prompt or (messages and messages[0]["role"] == "system"):
        return tuple(messages)
    return ({"role": "system", "content": prompt}, *messages)
