"""How each engine is asked, and how its answers are read: all three speak OpenAI's form, each in its own way."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from tunesmith.core.errors import InvalidInput, TunesmithError, Unavailable
from tunesmith.core.inference import USUAL, Ask, Prompt, Reply, TemplateLimits, Usage

CHAT, COMPLETIONS, EMBEDDINGS, DETOKENIZE = "/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/detokenize"
UNLIMITED = {
    "llama.cpp": {"top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0},
    "vllm": {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0},
    "transformers": {},
}
"""What switches off the defaults that an engine has of its own, so that all choose tokens in the same way."""
NAMES = {"llama.cpp": {"repetition_penalty": "repeat_penalty"}}
"""Of settings that an engine calls by another name."""
SENT = (
    "max_tokens", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "frequency_penalty", "presence_penalty",
    "logit_bias",
)  # fmt: skip
TOO_LONG = (
    re.compile(r"passed (?P<has>\d+) input tokens.*context length is only (?P<limit>\d+)", re.S),
    re.compile(r"request \((?P<has>\d+) tokens\) exceeds the available context size \((?P<limit>\d+) tokens\)"),
    re.compile(r"input \((?P<has>\d+) tokens\) is too large to process.*batch size: (?P<limit>\d+)"),
    re.compile(
        r"maximum (?:context|model) length (?:is|of) (?P<limit>\d+)(?:.*?(?P<has>\d+) (?:input )?tokens)?", re.S
    ),
)
"""How engines say that a prompt is too long."""
SCHEMA_WORDS = "JSON schema error at"
TEMPLATE_WORDS = ("jinja", "chat template", "chat_template", "raise_exception", "roles must alternate")


def sampled(engine: str, ask: Ask, choice: int) -> dict[str, Any]:
    """The decoding of answer number `choice` to one prompt, in the engine's words."""
    decoding = ask.decoding.completed(UNLIMITED[engine] | USUAL)
    names = NAMES.get(engine, {})
    body = {names.get(name, name): value for name in SENT if (value := getattr(decoding, name)) is not None}
    if decoding.seed is not None:
        body["seed"] = (decoding.seed + choice) % 2**32
    if decoding.stop:
        body["stop"] = list(decoding.stop)
    if ask.stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return body


def chat_body(engine: str, ask: Ask, choice: int, limits: TemplateLimits) -> dict[str, Any]:
    """`limits` are those of the model's chat template."""
    body = sampled(engine, ask, choice)
    body["messages"] = limits.fitted(ask.messages)
    if (logprobs := ask.decoding.logprobs) is not None:
        body |= {"logprobs": True, "top_logprobs": _asked_for(engine, logprobs)}
    if ask.tools:
        body["tools"] = list(ask.tools)
        body["tool_choice"] = ask.tool_choice or "auto"
        if ask.parallel_tool_calls is not None:
            body["parallel_tool_calls"] = ask.parallel_tool_calls
    if ask.response_format:
        body["response_format"] = ask.response_format
    if ask.template_options:
        body["chat_template_kwargs"] = ask.template_options
    return body


def completion_body(engine: str, ask: Ask, prompt: Prompt, choice: int) -> dict[str, Any]:
    body = sampled(engine, ask, choice) | {"prompt": prompt if isinstance(prompt, str) else list(prompt)}
    if (logprobs := ask.decoding.logprobs) is not None:
        body["n_probs" if engine == "llama.cpp" else "logprobs"] = _asked_for(engine, logprobs)
    return body


def _asked_for(engine: str, logprobs: int) -> int:
    """So many likeliest tokens; llama.cpp tells nothing at all of zero."""
    return max(1, logprobs) if engine == "llama.cpp" else logprobs


def embedding_body(inputs: tuple[Prompt, ...]) -> dict[str, Any]:
    told = [each if isinstance(each, str) else list(each) for each in inputs]
    return {"input": told, "encoding_format": "float"}


def reply_of(told: Mapping[str, Any], logprobs: int | None) -> Reply:
    """An engine's answer, or a part of a stream, with so many likeliest tokens at each place."""
    choices = told.get("choices") or [{}]
    choice = choices[0]
    said = choice.get("message") or choice.get("delta") or {}
    text = choice.get("text") if "text" in choice else said.get("content")
    calls = [{"index": number, **call} for number, call in enumerate(said.get("tool_calls") or [])]
    return Reply(
        text=text or "",
        reasoning=said.get("reasoning_content") or said.get("reasoning") or "",
        tool_calls=calls,
        logprobs=[] if logprobs is None else _logprobs(choice.get("logprobs") or {}, logprobs),
        finish_reason=choice.get("finish_reason"),
        usage=_usage(told.get("usage")),
    )


def _usage(told: Mapping[str, Any] | None) -> Usage | None:
    return Usage(int(told.get("prompt_tokens") or 0), int(told.get("completion_tokens") or 0)) if told else None


def _logprobs(told: Mapping[str, Any], top: int) -> list[dict[str, Any]]:
    """From the form of chat completions, or from that of completions, which vLLM has for those."""
    if told.get("content"):
        return [
            _about(each) | {"top_logprobs": [_about(other) for other in (each.get("top_logprobs") or [])[:top]]}
            for each in told["content"]
        ]
    likeliest = told.get("top_logprobs") or [None] * len(told.get("tokens") or [])
    made = []
    for token, logprob, others in zip(
        told.get("tokens") or [], told.get("token_logprobs") or [], likeliest, strict=True
    ):
        ordered = sorted((others or {}).items(), key=lambda pair: -pair[1])[:top]
        top_logprobs = [_about({"token": name, "logprob": value}) for name, value in ordered]
        made.append(_about({"token": token, "logprob": logprob}) | {"top_logprobs": top_logprobs})
    return made


def _about(told: Mapping[str, Any]) -> dict[str, Any]:
    token = str(told.get("token", ""))
    return {"token": token, "logprob": told.get("logprob"), "bytes": told.get("bytes") or list(token.encode())}


def error_of(status: int, told: Mapping[str, Any], name: str) -> TunesmithError:
    """What an engine says is wrong, in our words where the caller can fix it. `name` is the deployment's."""
    said = told.get("error")
    message = str((said.get("message") if isinstance(said, dict) else told.get("message")) or "")
    for pattern in TOO_LONG:
        if found := pattern.search(message):
            has = f"The prompt has {found['has']} tokens" if found["has"] else "The prompt is too long"
            return InvalidInput(
                f"{has}; {name} takes at most {found['limit']} tokens.",
                hint="Shorten it, or deploy the model with more context_tokens.",
                details=[{"loc": "messages", "message": "too long", "limit": int(found["limit"])}],
            )
    if SCHEMA_WORDS in message:
        why = message.partition(SCHEMA_WORDS)[2].strip(" :#").partition("\n")[0][:300]
        return InvalidInput(
            "The JSON schema cannot be used.",
            hint=why,
            details=[{"loc": "response_format", "message": "cannot be used"}],
        )
    if any(word in message.lower() for word in TEMPLATE_WORDS) and "hint" not in told:
        return InvalidInput(
            f"The model's chat template refuses the conversation: {_reason(message)}",
            hint="Leave out the system message, or let user and assistant take turns.",
            details=[{"loc": "messages", "message": "refused"}],
        )
    error = TunesmithError(message or "The model could not answer.", hint=str(told.get("hint", "")))
    error.details = list(told.get("details") or [])
    error.status = status if 400 <= status < 500 else Unavailable.status
    return error


def _reason(message: str) -> str:
    """The last line that is no place in a template."""
    lines = [line.strip() for line in message.splitlines() if line.strip() and "^" not in line]
    return (lines[-1] if lines else message)[:300]
