"""`tunesmith chat`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Annotated, cast

import typer

from tunesmith.cli.output import Output, out, say, show
from tunesmith.schemas.jobs import ChatAnswer
from tunesmith.sdk.client import Client


def chat(
    model: Annotated[str, typer.Argument(help="A base model's name, or job:<id>.")],
    message: Annotated[
        str | None, typer.Option("--message", "-m", help="Say one thing and end; otherwise a conversation.")
    ] = None,
    system: Annotated[str | None, typer.Option(help="A system message.")] = None,
    temperature: Annotated[float, typer.Option(min=0.0, max=5.0)] = 0.7,
    max_tokens: Annotated[int, typer.Option(min=1)] = 256,
) -> None:
    """Talk to a model. Ctrl-D ends the conversation."""
    said: list[dict[str, str]] = [{"role": "system", "content": system}] if system else []
    with Client() as client:
        if message is not None or Output.as_json:
            said.append({"role": "user", "content": message if message is not None else sys.stdin.read()})
            if Output.as_json:
                answer = client.models.chat(model, said, temperature=temperature, max_tokens=max_tokens)
                show(cast(ChatAnswer, answer))
            else:
                _say(client, model, said, temperature, max_tokens)
            return
        while True:
            try:
                words = out.input("[bold]you:[/] ")
            except EOFError:
                return
            if not words.strip():
                continue
            said.append({"role": "user", "content": words})
            said.append({"role": "assistant", "content": _say(client, model, said, temperature, max_tokens)})


def _say(client: Client, model: str, said: list[dict[str, str]], temperature: float, max_tokens: int) -> str:
    """Print the answer as it comes; returns the whole."""
    text = ""
    pieces = client.models.chat(model, said, stream=True, temperature=temperature, max_tokens=max_tokens)
    for piece in cast(Iterator[str], pieces):
        text += piece
        say(piece, end="")
    say("")
    return text
