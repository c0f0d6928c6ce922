"""OpenAI's `/v1/responses`, without a store: each request brings its whole conversation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import Field

from tunesmith.core.errors import TunesmithError
from tunesmith.core.inference import Ask, Message, Reply, Usage
from tunesmith.features.deployments.dialects.base import (
    MAX_NUMBER,
    OFFERED_ELSEWHERE,
    Body,
    DecodingFields,
    Event,
    Refused,
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
from tunesmith.features.deployments.dialects.chat import ROLES, choice_of
from tunesmith.http.errors import openai_error

NOT_STORED = "responses are not stored; send the whole conversation as input."
REFUSED = {
    **OFFERED_ELSEWHERE,
    "store": Refused(NOT_STORED, (False,)),
    "previous_response_id": Refused(NOT_STORED),
    "conversation": Refused(NOT_STORED),
    "prompt": Refused("prompts are not stored; send instructions and input."),
    "background": Refused("responses are not stored, so nobody could fetch one later.", (False,)),
    "background_options": Refused("responses are not stored, so nobody could fetch one later."),
    "context_management": Refused("nothing is left out of a conversation; shorten it yourself."),
    "truncation": Refused("nothing is left out of a conversation; shorten it yourself.", ("disabled",)),
    "reasoning": Refused("how long a model thinks is up to its chat template.", ({},)),
    "max_tool_calls": Refused("there are no tools that run here; functions are called by you."),
    "image": Refused("answers are text."),
    "access_programs": Refused("there are no such programs here."),
}
LOGPROBS = "message.output_text.logprobs"
HARMLESS_INCLUDES = {LOGPROBS, "reasoning.encrypted_content"}
"""Thoughts are in the answer as they are, so there is nothing encrypted to include."""
TEXTS = ("input_text", "output_text", "text")
STREAM_OPTIONS = {"include_obfuscation"}


class ResponseFields(DecodingFields):
    input: Any = None
    instructions: str | None = None
    max_output_tokens: int | None = Field(None, ge=1, le=MAX_NUMBER)
    top_logprobs: int | None = Field(None, ge=0, le=20)
    include: list[str] = Field(default_factory=list)
    tools: list[Any] = Field(default_factory=list)
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    text: dict[str, Any] | None = None
    metadata: dict[str, str] | None = None
    safety_identifier: str | None = None


def parse(body: Body) -> Ask:
    """Raises `InvalidInput`."""
    told = read(body, ResponseFields, REFUSED)
    for name in told.include:
        if name not in HARMLESS_INCLUDES:
            raise wrong("include", f"names {name[:80]!r}, which is not offered here")
    for name in told.stream_options or {}:
        if name not in STREAM_OPTIONS:
            raise wrong(f"stream_options.{name}", "is not a known field")
    wants_logprobs = told.top_logprobs is not None or LOGPROBS in told.include
    tools = tuple(_tool(tool, f"tools.{number}") for number, tool in enumerate(told.tools))
    return checked(
        Ask(
            model=told.model,
            messages=(*_instructed(told.instructions), *_messages(told.input)),
            decoding=told.decoding(told.max_output_tokens, (told.top_logprobs or 0) if wants_logprobs else None),
            tools=() if told.tool_choice == "none" else tools,
            tool_choice=choice_of(told.tool_choice, tools),
            parallel_tool_calls=told.parallel_tool_calls,
            response_format=_format(told.text),
            stream=told.stream,
            user=told.user or told.safety_identifier or "",
        )
    )


def _instructed(instructions: str | None) -> list[Message]:
    return [{"role": "system", "content": instructions}] if instructions else []


def _messages(given: Any) -> list[Message]:
    if isinstance(given, str) and given:
        return [{"role": "user", "content": given}]
    if not isinstance(given, list) or not given:
        raise wrong("input", "is missing" if not given else "must be a text or a list of items")
    made: list[Message] = []
    for number, item in enumerate(given):
        here = f"input.{number}"
        if not isinstance(item, dict):
            raise wrong(here, "must be an object")
        kind = item.get("type", "message")
        if kind == "message":
            if (role := item.get("role")) not in ROLES or role == "tool":
                raise wrong(f"{here}.role", "must be one of system, developer, user, assistant")
            made.append({"role": ROLES[role], "content": text_of(item.get("content"), f"{here}.content", TEXTS)})
        elif kind == "function_call":
            call = call_of(item.get("call_id"), item.get("name"), item.get("arguments"), here)
            if not made or made[-1]["role"] != "assistant":
                made.append({"role": "assistant", "content": ""})
            made[-1].setdefault("tool_calls", []).append(call)
        elif kind == "function_call_output":
            told = text_of(item.get("output"), f"{here}.output", TEXTS)
            made.append({"role": "tool", "content": told, "tool_call_id": str(item.get("call_id", ""))})
        elif kind != "reasoning":  # thoughts of earlier turns are left out, as chat templates do
            hint = NOT_STORED.capitalize() if kind == "item_reference" else ""
            raise wrong(f"{here}.type", f"is {str(kind)[:40]}, which is not offered here", hint)
    return made


def _tool(given: Any, place: str) -> dict[str, Any]:
    if not isinstance(given, dict) or given.get("type") != "function":
        kind = str(given.get("type"))[:40] if isinstance(given, dict) else given
        raise wrong(place, f"is of type {kind!r}, and only functions are offered", "Run other tools yourself.")
    return function_tool(
        given.get("name"), given.get("description"), given.get("parameters"), given.get("strict"), place
    )


def _format(text: dict[str, Any] | None) -> dict[str, Any] | None:
    for name, value in (text or {}).items():
        if name != "format" and not (name == "verbosity" and value in (None, "medium")):
            raise wrong(f"text.{name}", "is not offered here" if name == "verbosity" else "is not a known field")
    told = (text or {}).get("format") or {"type": "text"}
    kind = told.get("type") if isinstance(told, dict) else None
    if kind == "text":
        return None
    if kind == "json_object":
        return {"type": "json_object"}
    if kind == "json_schema":
        return json_format(told.get("schema"), told.get("name"), "text.format.schema")
    raise wrong("text.format.type", "must be one of text, json_object, json_schema")


class ResponseWriter:
    """Of one answer. In a stream each item is opened, grows and is closed before the next one opens."""

    def __init__(self, ask: Ask, body: Body) -> None:
        self._ask, self._body = ask, body
        self._id, self._created = new_id("resp_"), now()
        self._sequence = 0
        self._items: list[dict[str, Any]] = []
        self._open: dict[str, Any] | None = None
        self._open_key: Any = None
        self._reason: str | None = None

    # -- whole --------------------------------------------------------------------------------------------------------

    def whole(self, replies: Sequence[Reply], usage: Usage) -> dict[str, Any]:
        for event in self.part(0, replies[0]):
            del event  # the items are what remains
        self._close()
        return self._response(self._status(), usage)

    def _status(self) -> str:
        return "incomplete" if self._reason == "length" else "completed"

    def _response(self, status: str, usage: Usage | None = None, error: TunesmithError | None = None) -> dict[str, Any]:
        body, decoding = self._body, self._ask.decoding
        told = None
        if usage is not None:
            told = {
                "input_tokens": usage.prompt_tokens,
                "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
                "output_tokens": usage.completion_tokens,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": usage.prompt_tokens + usage.completion_tokens,
            }
        return {
            "id": self._id,
            "object": "response",
            "created_at": self._created,
            "completed_at": now() if status == "completed" else None,
            "status": status,
            "error": {"code": "server_error", "message": error.message} if error else None,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "instructions": body.get("instructions"),
            "max_output_tokens": body.get("max_output_tokens"),
            "metadata": body.get("metadata") or {},
            "model": self._ask.model,
            "output": list(self._items),
            "parallel_tool_calls": body.get("parallel_tool_calls") is not False,
            "previous_response_id": None,
            "reasoning": {"effort": None, "summary": None},
            "store": False,
            "temperature": decoding.temperature,
            "text": body.get("text") or {"format": {"type": "text"}},
            "tool_choice": body.get("tool_choice") or "auto",
            "tools": [{"strict": None, "parameters": None, **tool} for tool in body.get("tools") or []],
            "top_logprobs": body.get("top_logprobs") or 0,
            "top_p": decoding.top_p,
            "truncation": "disabled",
            "usage": told,
            "user": body.get("user"),
        }

    # -- as a stream --------------------------------------------------------------------------------------------------

    def _event(self, kind: str, **told: Any) -> Event:
        event = {"type": kind, "sequence_number": self._sequence, **told}
        self._sequence += 1
        return kind, event

    def begin(self) -> list[Event]:
        kinds = ("response.created", "response.in_progress")
        return [self._event(kind, response=self._response("in_progress")) for kind in kinds]

    def part(self, index: int, reply: Reply) -> list[Event]:
        events: list[Event] = []
        if reply.reasoning:
            events += self._grow_text("reasoning", reply.reasoning, [])
        if reply.text or reply.logprobs:
            events += self._grow_text("message", reply.text, reply.logprobs)
        for call in reply.tool_calls:
            events += self._grow_call(call)
        if reply.finish_reason:
            if not self._items:
                events += self._grow_text("message", "", [])
            self._reason = reply.finish_reason
        return events

    def _grow_text(self, kind: str, text: str, logprobs: list[dict[str, Any]]) -> list[Event]:
        events: list[Event] = []
        if self._open_key != kind:
            item: dict[str, Any] = {"id": new_id("msg_"), "type": "message", "role": "assistant", "content": []}
            if kind == "reasoning":
                item = {"id": new_id("rs_"), "type": "reasoning", "summary": [], "content": []}
            events += self._start(kind, item)
            part: dict[str, Any] = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
            if kind == "reasoning":
                part = {"type": "reasoning_text", "text": ""}
            item["content"].append(part)
            events.append(self._event("response.content_part.added", **self._place(), content_index=0, part=dict(part)))
        assert self._open is not None
        part = self._open["content"][0]
        part["text"] += text
        told = {} if kind == "reasoning" else {"logprobs": logprobs}
        if kind != "reasoning":
            part["logprobs"] += logprobs
        name = "response.reasoning_text.delta" if kind == "reasoning" else "response.output_text.delta"
        return [*events, self._event(name, **self._place(), content_index=0, delta=text, **told)]

    def _grow_call(self, call: dict[str, Any]) -> list[Event]:
        events: list[Event] = []
        function, key = call.get("function") or {}, ("call", call.get("index", 0))
        if self._open_key != key:
            item = {
                "id": new_id("fc_"),
                "type": "function_call",
                "call_id": call.get("id") or new_id("call_"),
                "name": "",
                "arguments": "",
            }
            item["name"] = function.get("name") or ""
            events += self._start(key, item)
        else:
            assert self._open is not None
            self._open["name"] += function.get("name") or ""
        assert self._open is not None
        if more := function.get("arguments"):
            self._open["arguments"] += more
            events.append(self._event("response.function_call_arguments.delta", **self._place(), delta=more))
        return events

    def _place(self) -> dict[str, Any]:
        assert self._open is not None
        return {"item_id": self._open["id"], "output_index": len(self._items) - 1}

    def _start(self, key: Any, item: dict[str, Any]) -> list[Event]:
        events = self._close()
        self._open, self._open_key = item, key
        item["status"] = "in_progress"
        self._items.append(item)
        return [*events, self._event("response.output_item.added", output_index=len(self._items) - 1, item=_copy(item))]

    def _close(self) -> list[Event]:
        item = self._open
        if item is None:
            return []
        place, events = self._place(), []
        if item["type"] == "function_call":
            done = {"name": item["name"], "arguments": item["arguments"]}
            events.append(self._event("response.function_call_arguments.done", **place, **done))
        else:
            part = item["content"][0]
            is_message = item["type"] == "message"
            name, told = ("output_text", {"logprobs": part["logprobs"]}) if is_message else ("reasoning_text", {})
            events.append(self._event(f"response.{name}.done", **place, content_index=0, text=part["text"], **told))
            events.append(self._event("response.content_part.done", **place, content_index=0, part=part))
        item["status"] = self._status()
        events.append(self._event("response.output_item.done", output_index=place["output_index"], item=item))
        self._open = self._open_key = None
        return events

    def end(self, usage: Usage) -> list[Event]:
        events, status = self._close(), self._status()
        return [*events, self._event(f"response.{status}", response=self._response(status, usage))]

    def error(self, error: TunesmithError) -> list[Event]:
        told = openai_error(error)["error"]
        failed = self._response("failed", error=error)
        return [
            self._event("error", code=told["code"], message=told["message"], param=None),
            self._event("response.failed", response=failed),
        ]


def _copy(item: dict[str, Any]) -> dict[str, Any]:
    """As it is now: what is sent must not grow with it."""
    return {name: list(value) if isinstance(value, list) else value for name, value in item.items()}
