"""OpenAI's `/v1/chat/completions`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field

from tunesmith.core.errors import TunesmithError
from tunesmith.core.inference import Ask, Message, Reply, Usage
from tunesmith.features.deployments.dialects.base import (
    MAX_NUMBER,
    OFFERED_ELSEWHERE,
    Body,
    Event,
    Refused,
    SamplingFields,
    call_of,
    checked,
    function_tool,
    json_format,
    new_id,
    now,
    read,
    text_of,
    wrong,
)
from tunesmith.http.errors import openai_error

NOT_STORED = "answers are not stored."
REFUSED = {
    **OFFERED_ELSEWHERE,
    "store": Refused(NOT_STORED, (False,)),
    "metadata": Refused("it belongs to stored answers, and answers are not stored.", ({},)),
    "modalities": Refused("answers are text.", (["text"],)),
    "audio": Refused("answers are text."),
    "prediction": Refused("predicted outputs are not used."),
    "reasoning_effort": Refused("how long a model thinks is up to its template; see chat_template_kwargs."),
    "verbosity": Refused("it cannot be set for these models.", ("medium",)),
    "web_search_options": Refused("there is no web search."),
    "functions": Refused("use tools.", ([],)),
    "function_call": Refused("use tool_choice.", ("none", "auto")),
}
ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool"}
MESSAGE_FIELDS = {"role", "content", "name", "tool_calls", "tool_call_id", "refusal"}
ECHOED = {"audio", "function_call", "annotations", "reasoning_content", "parsed"}
"""What an answer of some server has besides, which programs send back with it; nothing of it goes to the model, so that only an
empty one is taken, thoughts apart: templates drop those of earlier turns."""


class ChatFields(SamplingFields):
    messages: list[Any] = Field(min_length=1)
    max_tokens: int | None = Field(None, ge=1, le=MAX_NUMBER)
    max_completion_tokens: int | None = Field(None, ge=1, le=MAX_NUMBER)
    logprobs: bool = False
    top_logprobs: int | None = Field(None, ge=0, le=20)
    tools: list[Any] = Field(default_factory=list)
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    response_format: dict[str, Any] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    safety_identifier: str | None = None


def parse(body: Body) -> Ask:
    """Raises `InvalidInput`."""
    told = read(body, ChatFields, REFUSED)
    if told.max_tokens and told.max_completion_tokens and told.max_tokens != told.max_completion_tokens:
        raise wrong("max_tokens", "and max_completion_tokens differ", "Give one of the two.")
    if told.top_logprobs is not None and not told.logprobs:
        raise wrong("top_logprobs", "needs logprobs: true")
    tools = tuple(_tool(tool, f"tools.{number}") for number, tool in enumerate(told.tools))
    return checked(
        Ask(
            model=told.model,
            messages=tuple(message_of(each, f"messages.{number}") for number, each in enumerate(told.messages)),
            decoding=told.decoding(
                told.max_completion_tokens or told.max_tokens, (told.top_logprobs or 0) if told.logprobs else None
            ),
            n=told.n,
            tools=() if told.tool_choice == "none" else tools,
            tool_choice=choice_of(told.tool_choice, tools),
            parallel_tool_calls=told.parallel_tool_calls,
            response_format=_format(told.response_format),
            template_options=told.chat_template_kwargs,
            stream=told.stream,
            include_usage=told.include_usage(),
            user=told.user or told.safety_identifier or "",
        )
    )


def message_of(given: Any, place: str) -> Message:
    """One turn. Raises `InvalidInput`."""
    if not isinstance(given, dict):
        raise wrong(place, "must be an object with role and content")
    said = {name: value for name, value in given.items() if value is not None}
    role = said.get("role")
    if role not in ROLES:
        shown = f", not {str(role)[:40]!r}" if role is not None else ""
        raise wrong(f"{place}.role", f"must be one of {', '.join(ROLES)}{shown}")
    for name in said:
        if name in ECHOED and (not said[name] or name == "reasoning_content"):
            continue
        if name not in MESSAGE_FIELDS:
            raise wrong(f"{place}.{name}", "is not a known field")
    made: Message = {"role": ROLES[role], "content": text_of(said.get("content"), f"{place}.content")}
    if said.get("refusal"):
        made["content"] = made["content"] or str(said["refusal"])
    if "name" in said:
        made["name"] = str(said["name"])
    if said.get("tool_calls"):
        made["tool_calls"] = _calls(said["tool_calls"], role, place)
    if role == "tool":
        made["tool_call_id"] = str(said.get("tool_call_id", ""))
    elif role != "assistant" and "content" not in said:
        raise wrong(f"{place}.content", "is missing")
    return made


def _calls(given: Any, role: str, place: str) -> list[dict[str, Any]]:
    if role != "assistant" or not isinstance(given, list):
        raise wrong(f"{place}.tool_calls", "must be a list, of an assistant's turn")
    made = []
    for number, call in enumerate(given):
        here = f"{place}.tool_calls.{number}"
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict):
            raise wrong(f"{here}.function", "is missing")
        made.append(call_of(call.get("id"), function.get("name"), function.get("arguments"), f"{here}.function"))
    return made


def _tool(given: Any, place: str) -> dict[str, Any]:
    function = given.get("function") if isinstance(given, dict) else None
    if not isinstance(function, dict) or given.get("type", "function") != "function":
        raise wrong(place, 'must be {"type": "function", "function": {…}}', "Other kinds of tools are not offered.")
    strict = function.get("strict")
    return function_tool(
        function.get("name"), function.get("description"), function.get("parameters"), strict, f"{place}.function"
    )


def choice_of(given: Any, tools: Sequence[Mapping[str, Any]]) -> Any:
    """What is said of the tools to call: auto, none, required, or the one. Raises `InvalidInput`."""
    if given is None or given in ("auto", "none"):
        return given if tools else None
    if not tools:
        raise wrong("tool_choice", "needs tools")
    names = [tool["function"]["name"] for tool in tools]
    if given == "required":
        return given
    name = (given.get("function") or given).get("name") if isinstance(given, dict) else None
    if name not in names:
        raise wrong("tool_choice", f"must be auto, none, required or one of the tools: {', '.join(names)[:200]}")
    return {"type": "function", "function": {"name": name}}


def _format(given: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    kind = (given or {}).get("type", "text" if given is None else None)
    if kind == "text":
        return None
    if kind == "json_object" and given is not None:
        schema = given.get("schema")  # as some servers have it
        return {"type": "json_object"} if schema is None else json_format(schema, None, "response_format.schema")
    if kind == "json_schema" and given is not None:
        told = given.get("json_schema")
        if not isinstance(told, dict):
            raise wrong("response_format.json_schema", "is missing")
        return json_format(told.get("schema"), told.get("name"), "response_format.json_schema.schema")
    raise wrong("response_format.type", "must be one of text, json_object, json_schema")


class ChatWriter:
    """Of one answer."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._about = {"id": new_id("chatcmpl-"), "created": now(), "model": ask.model}
        self._begun: set[int] = set()

    def whole(self, replies: Sequence[Reply], usage: Usage) -> dict[str, Any]:
        choices = []
        for index, reply in enumerate(replies):
            message: dict[str, Any] = {"role": "assistant", "content": reply.text, "refusal": None}
            if reply.tool_calls:
                calls = [{name: call[name] for name in ("id", "type", "function")} for call in reply.tool_calls]
                message |= {"content": reply.text or None, "tool_calls": calls}
            if reply.reasoning:
                message["reasoning_content"] = reply.reasoning
            choices.append(self._choice(index, {"message": message}, reply))
        return {**self._about, "object": "chat.completion", "choices": choices, "usage": usage.told()}

    def _choice(self, index: int, said: dict[str, Any], reply: Reply) -> dict[str, Any]:
        asked = self._ask.decoding.logprobs is not None
        logprobs = (
            {"content": reply.logprobs, "refusal": None} if asked and (reply.logprobs or "message" in said) else None
        )
        return {"index": index, **said, "logprobs": logprobs, "finish_reason": reply.finish_reason}

    def _chunk(self, choices: list[dict[str, Any]], usage: Usage | None = None) -> Event:
        told: dict[str, Any] = {**self._about, "object": "chat.completion.chunk", "choices": choices}
        if self._ask.include_usage:
            told["usage"] = usage.told() if usage else None
        return "", told

    def begin(self) -> list[Event]:
        return []

    def part(self, index: int, reply: Reply) -> list[Event]:
        events = []
        if index not in self._begun:
            self._begun.add(index)
            events.append(self._chunk([self._choice(index, {"delta": {"role": "assistant", "content": ""}}, Reply())]))
        delta: dict[str, Any] = {}
        if reply.text:
            delta["content"] = reply.text
        if reply.reasoning:
            delta["reasoning_content"] = reply.reasoning
        if reply.tool_calls:
            delta["tool_calls"] = reply.tool_calls
        if delta or reply.logprobs or reply.finish_reason:
            events.append(self._chunk([self._choice(index, {"delta": delta}, reply)]))
        return events

    def end(self, usage: Usage) -> list[Event]:
        return [self._chunk([], usage)] if self._ask.include_usage else []

    def error(self, error: TunesmithError) -> list[Event]:
        return [("", openai_error(error))]
