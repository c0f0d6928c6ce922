"""What a language model is asked, and what it answers, whichever public API and whichever engine: one form for all.

A public API is read into an `Ask`, an engine is sent what the `Ask` says in its own words, and its answer comes back as `Reply`s,
from which the public API's form is written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

Message = dict[str, Any]
"""`role` (system, user, assistant, tool) and `content` (text, empty rather than null); a turn that calls tools has `tool_calls`
in OpenAI's form with `arguments` as JSON text, a tool's answer `tool_call_id`; `name` where one was given."""
Prompt = str | tuple[int, ...]
"""Text, or the model's own tokens."""


@dataclass(frozen=True)
class Decoding:
    """How the next token is chosen. None: not said."""

    max_tokens: int | None = None
    """None after all defaults: as many as the context has room for."""
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logit_bias: Mapping[str, float] | None = None
    """Token's number as text → what is added to its logit."""
    seed: int | None = None
    stop: Sequence[str] | None = None
    logprobs: int | None = None
    """Tell each token's log-probability and those of this many likeliest; None: do not."""

    def completed(self, defaults: Mapping[str, Any]) -> Decoding:
        """With `defaults` where nothing was said."""
        said = {each.name: getattr(self, each.name) for each in fields(self)}
        given = {name: value for name, value in defaults.items() if name in said and value not in (None, [])}
        return replace(self, **{name: value for name, value in given.items() if said[name] is None})


USUAL = {"temperature": 0.7, "top_p": 0.95}
"""Where neither a request nor its deployment says anything: those of the playground, with every engine."""


@dataclass(frozen=True)
class Ask:
    """One request: a conversation, or texts that go on; each is answered `n` times."""

    model: str
    messages: tuple[Message, ...] = ()
    prompts: tuple[Prompt, ...] = ()
    """In place of messages."""
    decoding: Decoding = field(default_factory=Decoding)
    n: int = 1
    tools: tuple[Mapping[str, Any], ...] = ()
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    response_format: Mapping[str, Any] | None = None
    """`{"type": "json_object"}` or `{"type": "json_schema", "json_schema": {…}}`; None for text."""
    template_options: Mapping[str, Any] | None = None
    """Variables for the chat template."""
    echo: bool = False
    stream: bool = False
    include_usage: bool = False
    """In a stream; a whole answer always tells it."""
    user: str = ""
    """Who asks, to stay with one model."""

    @property
    def is_chat(self) -> bool:
        return not self.prompts

    @property
    def wants_json(self) -> bool:
        return self.response_format is not None

    @property
    def text(self) -> str:
        """What is asked: the last message, or the first prompt."""
        if self.messages:
            return str(self.messages[-1]["content"])
        return "\n".join(prompt for prompt in self.prompts if isinstance(prompt, str))


@dataclass(frozen=True)
class EmbeddingAsk:
    """Texts to be made vectors."""

    model: str
    inputs: tuple[Prompt, ...]
    as_base64: bool = False
    user: str = ""

    @property
    def text(self) -> str:
        return "\n".join(each for each in self.inputs if isinstance(each, str))


@dataclass(frozen=True)
class PredictAsk:
    """Inputs for a model that does not chat; see `core/tasks.py` for their form."""

    model: str
    inputs: tuple[Any, ...]
    parameters: Mapping[str, Any] = field(default_factory=dict)
    user: str = ""

    @property
    def text(self) -> str:
        """The inputs that are texts."""
        return "\n".join(each for each in self.inputs if isinstance(each, str))


@dataclass
class Usage:
    """Tokens that were read and written."""

    prompt_tokens: int = 0
    completion_tokens: int = 0

    def add(self, other: Usage) -> None:
        """Of another answer to the same prompt: what was read counts once."""
        self.prompt_tokens = max(self.prompt_tokens, other.prompt_tokens)
        self.completion_tokens += other.completion_tokens

    def told(self) -> dict[str, int]:
        """In OpenAI's form."""
        total = self.prompt_tokens + self.completion_tokens
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": total,
        }


@dataclass
class Reply:
    """An answer, or a part of one as it comes."""

    text: str = ""
    reasoning: str = ""
    tool_calls: list[dict[str, Any]] = field(default_factory=list)
    """In OpenAI's form; parts of one call share its `index`."""
    logprobs: list[dict[str, Any]] = field(default_factory=list)
    """`{token, logprob, bytes, top_logprobs}` for each token."""
    finish_reason: str | None = None
    """`stop`, `length` or `tool_calls`; None while more is to come."""
    usage: Usage | None = None

    def add(self, part: Reply) -> None:
        """Take the next part in."""
        self.text += part.text
        self.reasoning += part.reasoning
        self.logprobs += part.logprobs
        self.finish_reason = part.finish_reason or self.finish_reason
        self.usage = part.usage or self.usage
        for call in part.tool_calls:
            known = next((each for each in self.tool_calls if each["index"] == call.get("index", 0)), None)
            function = call.get("function") or {}
            if known is None:
                known = {
                    "index": call.get("index", 0),
                    "id": "",
                    "type": "function",
                    "function": {"name": "", "arguments": ""},
                }
                self.tool_calls.append(known)
            known["id"] = call.get("id") or known["id"]
            known["function"]["name"] += function.get("name") or ""
            known["function"]["arguments"] += function.get("arguments") or ""


def without_empty_turns(messages: Sequence[Message]) -> list[Message]:
    """What a stopped or empty answer leaves in a conversation is left out: assistant turns that say and call nothing."""
    return [
        message
        for message in messages
        if message["role"] != "assistant" or message["content"].strip() or message.get("tool_calls")
    ]


@dataclass(frozen=True)
class TemplateLimits:
    """What a model's chat template does not take."""

    takes_turns: bool = False
    """It insists on user and assistant by turns."""
    no_system: bool = False
    """It has no place for a system message."""

    def fitted(self, messages: Sequence[Message]) -> list[Message]:
        """The same conversation as the template takes it: without empty answers, a system message at the start of the first
        question, neighbors of one role as one turn, a blank line between what is joined."""
        told = without_empty_turns(messages)
        if self.no_system:
            lead = next((number for number, message in enumerate(told) if message["role"] != "system"), len(told))
            if lead < len(told) and told[lead]["role"] == "user":
                texts = [message["content"] for message in told[: lead + 1]]
                told[: lead + 1] = [told[lead] | {"content": "\n\n".join(filter(None, texts))}]
        return _joined(told) if self.takes_turns else told


NO_LIMITS = TemplateLimits()


def found_limits(refuses: Callable[[list[Message]], bool]) -> TemplateLimits:
    """Tries a template: `refuses` says of a conversation whether it does."""
    question, system = {"role": "user", "content": "x"}, {"role": "system", "content": "x"}
    if refuses([question]):
        return NO_LIMITS
    return TemplateLimits(takes_turns=refuses([question, question]), no_system=refuses([system, question]))


def _joined(messages: Sequence[Message]) -> list[Message]:
    """Neighbors of one role as one turn. Calls and answers of tools stay as they are."""
    made: list[Message] = []
    for message in messages:
        last = made[-1] if made else None
        plain = message["role"] != "tool" and not message.get("tool_calls")
        if last and plain and last["role"] == message["role"] and not last.get("tool_calls"):
            made[-1] = last | {"content": "\n\n".join(filter(None, (last["content"], message["content"])))}
        else:
            made.append(message)
    return made
