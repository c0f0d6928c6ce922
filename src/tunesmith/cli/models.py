"""`tunesmith models`: what is here, what the hub has, what fits, what to take, and fetching it."""

from __future__ import annotations

from typing import Annotated, get_args

import typer

from tunesmith.cli.output import Output, duration, say, show, size, table, transfer
from tunesmith.cli.references import download_number
from tunesmith.schemas.models import FoundModel, ModelCheck, Purpose, UseCase
from tunesmith.sdk.client import Client

CATEGORIES, USE_CASES = ", ".join(get_args(Purpose)), ", ".join(get_args(UseCase))
FITS = {"fits": "fits", "tight": "tight", "too_large": "too large", "unavailable": "cannot run here"}

models = typer.Typer(no_args_is_help=True, help="Models at hand.")


@models.command("list")
def list_(
    q: Annotated[str | None, typer.Option("--search", "-q", help="Part of name, base model or dataset.")] = None,
    kind: Annotated[str | None, typer.Option(help="base or tuned.")] = None,
    category: Annotated[str | None, typer.Option(help=f"One of {CATEGORIES}.")] = None,
    provider: Annotated[str | None, typer.Option(help="The organisation, such as Qwen.")] = None,
) -> None:
    """Base models on this machine, and what jobs have made."""
    with Client() as client:
        found = client.models.list(q=q, kind=kind, category=category, provider=provider)
    if not found and not Output.as_json:
        if q or kind or category or provider:
            say("No model fits; without options all are listed.")
        else:
            say("No models yet. tunesmith demo brings the starter model; hub names can be trained on directly.")
        return
    rows = [
        (m.name, m.title, m.quantisation or m.kind, m.base_model or m.architecture, size(m.size_bytes)) for m in found
    ]
    show(found, table(("name", "title", "kind", "from", "size"), rows))


@models.command()
def search(
    words: Annotated[str, typer.Argument(help="Part of the name.")] = "",
    category: Annotated[str | None, typer.Option(help=f"One of {CATEGORIES}, or the hub's own word.")] = None,
    provider: Annotated[str | None, typer.Option(help="The organisation, such as Qwen.")] = None,
    licence: Annotated[str | None, typer.Option(help="Such as apache-2.0.")] = None,
    size_: Annotated[
        str | None, typer.Option("--size", help="under-500m, 500m-2b, 2b-5b, 5b-10b or over-10b weights.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=100)] = 20,
) -> None:
    """Models here and on the hub, with the methods that this machine has the memory for."""
    with Client() as client:
        found = client.models.search(
            words, category=category, provider=provider, licence=licence, size=size_, limit=limit
        )
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


@models.command()
def check(
    name: Annotated[str, typer.Argument(help="A hub id, a local name, or job:<id>.")],
    parts: Annotated[bool, typer.Option("--parts", help="Every term of the sums.")] = False,
) -> None:
    """Whether a model is here, reachable, gated, licensed, and fits this machine, with the arithmetic. Fetches nothing."""
    with Client() as client:
        found = client.models.check(name)
    rows = [(use.title, size(use.memory_bytes), size(use.available_bytes), FITS[use.fit]) for use in found.uses]
    show(found, found.verdict)
    if Output.as_json:
        return
    say("")
    for line in _facts(found):
        say(line)
    if rows:
        say("")
        show(found, table(("to", "takes", "of", ""), rows))
    for use in found.uses if parts else ():
        say(f"\n{use.sentence}")
        show(found, table(("part", "bytes", "reckoned"), [(p.title, f"{p.bytes:,}", p.sum) for p in use.parts]))


def _facts(found: ModelCheck) -> list[str]:
    gated = {None: "not known", False: "no", True: "yes, terms have to be accepted on the hub"}[found.gated]
    where = f"here ({found.source})" if found.is_at_hand else "not here"
    if found.download_bytes:
        where += f"; {size(found.download_bytes)} to fetch, {size(found.disk_free_bytes)} of disk free"
    weights = f"{found.num_parameters:,}" if found.num_parameters else "not known"
    return [
        f"Where:    {where}",
        f"Hub:      {found.hub_sentence}",
        f"Gated:    {gated}; HF_TOKEN is {'set' if found.has_token else 'not set'}",
        f"Weights:  {weights}{f' ({found.architecture})' if found.architecture else ''}",
        f"Licence:  {found.licence.title}. {found.licence.sentence}",
    ]


@models.command()
def download(
    name: Annotated[str, typer.Argument(help="A hub id, such as Qwen/Qwen3-0.6B.")],
    revision: Annotated[str | None, typer.Option(help="A branch, tag or commit.")] = None,
    file: Annotated[str | None, typer.Option(help="One GGUF file, where there are many.")] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until it is there.")] = True,
) -> None:
    """Let the server fetch a model from the hub. Goes on where it stopped, however it was stopped; Ctrl-C only stops watching."""
    with Client() as client, transfer(name) as told:
        found = client.models.download(
            name, revision=revision, file=file, wait=wait, progress=lambda one: told(one.bytes_done, one.bytes_total)
        )
    what = f"{size(found.bytes_total)} in {found.files_total} files"
    done = f"{name} is here: {what}, each compared with the hub's digest." if found.status == "completed" else (
        f"Download {found.id} of {name} is {found.status}: {what}."
    )  # fmt: skip
    show(found, done)


@models.command()
def downloads(
    cancel: Annotated[
        int | None, typer.Option(parser=download_number, help="Cancel the one of this number, or of this model.")
    ] = None,
) -> None:
    """Downloads from the hub, newest first."""
    with Client() as client:
        if cancel is not None:
            client.models.cancel_download(cancel)
        found = list(client.models.downloads())
    rows = [
        (one.id, one.name, one.status, f"{one.share:.0%}", size(one.bytes_total),
         duration(one.remaining_s) or one.note or (one.error or {}).get("message", "")) for one in found
    ]  # fmt: skip
    show(found, table(("id", "name", "status", "done", "size", "left"), rows) if found else "No downloads yet.")


@models.command()
def recommend(
    use_case: Annotated[str, typer.Argument(help=f"One of {USE_CASES}.")] = "chat",
    commercial: Annotated[bool, typer.Option("--commercial", help="Only what may be used commercially.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=50)] = 5,
) -> None:
    """Which model to take: what fits this machine, best first, each with a reason."""
    with Client() as client:
        found = client.models.recommend(use_case, commercial=commercial, limit=limit)
    rows = [
        (m.name, _weights(m.num_parameters), m.licence.key, "here" if m.is_at_hand else "hub", m.reason)
        for m in found.items
    ]
    nothing = "Nothing on the list fits this machine for that."
    show(found, table(("name", "weights", "licence", "where", "why"), rows) if rows else nothing)
    if Output.as_json:
        return
    if found.left_out:
        say(f"{found.left_out} more on the list are too large for this machine.")
    if found.hub_problem:
        say(found.hub_problem)


@models.command()
def collect(
    name: Annotated[str, typer.Argument(help="A hub id, a local name, or job:<id>.")],
    note: Annotated[str, typer.Option(help="Why this one.")] = "",
) -> None:
    """Put a model into the collection, to find it again."""
    with Client() as client:
        found = client.models.collect(name, note)
    show(found, f"{found.name} is in the collection.")


@models.command()
def collection() -> None:
    """The collection."""
    with Client() as client:
        found = list(client.models.collection())
    rows = [(one.id, one.name, "here" if one.at_hand else "hub", one.note) for one in found]
    show(
        found,
        table(("id", "name", "where", "note"), rows) if rows else "Your collection is empty: tunesmith models collect.",
    )
