"""Server-sent events: parsing, and following a job across broken connections."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import httpx

from tunesmith.core.job_status import JobStatus
from tunesmith.schemas.jobs import ChatAnswer, JobEvent
from tunesmith.sdk.connection import Connection, error_from, json_of

Messages = Sequence[dict[str, str]] | str
"""A conversation, or one question."""
WAIT_S = 1.0
GIVE_UP_S = 120.0
"""How long a server may be away before following ends with an error."""


class Message(NamedTuple):
    """One server-sent event."""

    kind: str
    data: str


def messages(lines: Iterator[str]) -> Iterator[Message]:
    """Events from the lines of a stream; comments are passed over."""
    kind = "message"
    data: list[str] = []
    for line in lines:
        if not line:
            if data:
                yield Message(kind, "\n".join(data))
            kind, data = "message", []
        elif line.startswith("data:"):
            data.append(line[5:].removeprefix(" "))
        elif line.startswith("event:"):
            kind = line[6:].strip()


def follow(connection: Connection, job_id: int, after: int = 0) -> Iterator[JobEvent]:
    """Every event after `after`, once and in order, until the job has ended or is paused; reconnects when the server was away."""
    away_since: float | None = None
    while True:
        try:
            with connection.stream("GET", f"/jobs/{job_id}/stream", params={"after": after}, timeout=30) as answer:
                for message in messages(answer.iter_lines()):
                    away_since = None
                    if message.kind == "error":
                        raise error_from(json.loads(message.data))
                    if message.kind == "end":
                        return
                    told = json.loads(message.data)
                    if "seq" not in told or told["seq"] <= after:
                        continue
                    event = JobEvent.model_validate({"seq": told["seq"], "event": told["event"]})
                    after = event.seq
                    yield event
                    if is_pause(event) and connection.get(f"/jobs/{job_id}")["status"] == JobStatus.PAUSED:
                        return  # not a pause of long ago, told again
        except httpx.TransportError as error:
            away_since = away_since or time.monotonic()
            if time.monotonic() - away_since > GIVE_UP_S:
                raise connection._unreachable(error) from None
        time.sleep(WAIT_S)


def is_pause(event: JobEvent) -> bool:
    """Whether this event says that the job waits for its owner."""
    return event.event.get("type") == "status" and event.event.get("new") == JobStatus.PAUSED


def chat(connection: Connection, path: str, body: dict[str, Any]) -> Iterator[str]:
    """Pieces of the answer as they come."""
    try:
        with connection.stream("POST", path, json=body, timeout=httpx.Timeout(10, read=600)) as answer:
            for message in messages(answer.iter_lines()):
                if message.kind == "error":
                    raise error_from(json.loads(message.data))
                if message.kind != "message" or message.data == "[DONE]":
                    continue
                for choice in json.loads(message.data).get("choices", []):
                    if text := choice.get("delta", {}).get("content"):
                        yield text
    except httpx.TransportError as error:
        raise connection._unreachable(error) from None


def ask(
    connection: Connection, path: str, messages: Messages, options: dict[str, Any], *, stream: bool
) -> Iterator[str] | ChatAnswer:
    """Talk to a model: its answer, or with `stream` the pieces as they come."""
    talk = [{"role": "user", "content": messages}] if isinstance(messages, str) else list(messages)
    body = {**options, "messages": talk}
    if stream:
        return chat(connection, path, {**body, "stream": True})
    answer = connection.request("POST", path, json={**body, "stream": False}, timeout=600)
    return ChatAnswer.model_validate(json_of(answer))
