"""`tunesmith chat` and `tunesmith models`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Annotated, cast

import typer

from tunesmith.cli.output import Output, out, say, show, size, table
from tunesmith.schemas.jobs import ChatAnswer
from tunesmith.schemas.models import FoundModel
from tunesmith.sdk.client import Client

models = typer.Typer(no_args_is_help=True, help="Models at hand.")


@models.command("list")
def list_(
    q: Annotated[str | None, typer.Option("--search", "-q", help="Part of name, base model or dataset.")] = None,
    kind: Annotated[str | None, typer.Option(help="base or tuned.")] = None,
) -> None:
    """Base models on this machine, and what jobs have made."""
    with Client() as client:
        found = client.models.list(q=q, kind=kind)
    if not found and not Output.as_json:
        say("No models yet. tunesmith demo brings the starter model; hub names can be trained on directly.")
        return
    rows = [(m.name, m.title, m.kind, m.base_model or m.architecture, size(m.size_bytes)) for m in found]
    show(found, table(("name", "title", "kind", "from", "size"), rows))


@models.command()
def search(
    words: Annotated[str, typer.Argument(help="Part of the name.")] = "",
    provider: Annotated[str | None, typer.Option(help="The organisation, such as Qwen.")] = None,
    licence: Annotated[str | None, typer.Option(help="Such as apache-2.0.")] = None,
    size_: Annotated[
        str | None, typer.Option("--size", help="under-500m, 500m-2b, 2b-5b, 5b-10b or over-10b weights.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=100)] = 20,
) -> None:
    """Models here and on the hub, with the methods that this machine has the memory for."""
    with Client() as client:
        found = client.models.search(words, provider=provider, licence=licence, size=size_, limit=limit)
    rows = [
        (m.name, _weights(m.num_parameters), m.licence, "here" if m.at_hand else "hub", _fits(m)) for m in found.items
    ]
    show(found, table(("name", "weights", "licence", "where", "fits"), rows))
    if found.hub_problem and not Output.as_json:
        say(found.hub_problem)


@models.command("show")
def show_(name: Annotated[str, typer.Argument(help="A base model's name, or job:<id>.")]) -> None:
    """Where a model comes from, its files, and how to use it elsewhere."""
    with Client() as client:
        found = client.models.get(name)
    steps = [f"job {step.job_id} ({step.method}, {step.dataset_name or 'no dataset'})" for step in found.lineage.steps]
    show(found, table(("file", "size", "sha256"), [(f.path, size(f.size_bytes), f.sha256) for f in found.files]))
    if not Output.as_json:
        say(f"From: {' > '.join([found.lineage.root, *steps])}")
        say(f"Use it with: {', '.join(snippet.title for snippet in found.use)} (commands: --json, or its page)")


def _weights(count: int | None) -> str:
    if count is None:
        return ""
    return f"{count / 1e9:.1f}B" if count >= 1e9 else f"{count / 1e6:.0f}M"


def _fits(model: FoundModel) -> str:
    return model.why_not or ", ".join(need.method for need in model.memory if need.fit == "fits") or "too large here"


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
