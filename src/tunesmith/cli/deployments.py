"""`tunesmith deploy` and `tunesmith deployments`."""

from __future__ import annotations

from typing import Annotated, Any

import typer
import yaml

from tunesmith.cli.output import Output, exact, say, show, table, waiting
from tunesmith.core.errors import InvalidInput
from tunesmith.schemas.deployments import DeploymentRead, VariantStats, suggested_name
from tunesmith.sdk.client import Client

app = typer.Typer(no_args_is_help=True, help="Models in use: local servers, Ollama, LM Studio, the hub, the cloud.")

Name = Annotated[str, typer.Argument(help="The deployment's name or number.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", "-s", metavar="KEY=VALUE", help="A setting of the target; may be repeated.")
]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Until it is ready.")]


def deploy(
    model: Annotated[str, typer.Argument(help="job:7, name@version, name@alias, or a base model.")],
    name: Annotated[
        str | None,
        typer.Option("--name", "-n", help="Name used in API calls; from the model's name when left out."),
    ] = None,
    target: Annotated[
        str, typer.Option("--target", "-t", help="local, ollama, lmstudio, huggingface or cloud.")
    ] = "local",
    settings: Settings = None,
    system_prompt: Annotated[
        str, typer.Option("--system", help="Put before a conversation that has none of its own.")
    ] = "",
    wait: Wait = True,
) -> None:
    """Put a model in use: as an OpenAI-compatible server here, or elsewhere."""
    name = name or suggested_name(model)
    with Client() as client:
        made = client.deployments.create(
            name, model, target=target, settings=values_of(settings), system_prompt=system_prompt
        )
        found = _waited(client, made.id) if wait else made
    show(found, f"{found.name} is {found.status}: {found.address or found.reason}")
    if not Output.as_json and found.status == "ready":
        _say_how(found)


@app.command("list")
def list_(target: Annotated[str | None, typer.Option(help="In this place only.")] = None) -> None:
    """What is deployed where."""
    with Client() as client:
        found = list(client.deployments.list(target=target))
    if not found and not Output.as_json:
        say("Nothing is deployed yet. tunesmith deploy MODEL puts a model in use.")
        return
    rows = [(d.id, d.name, d.target, d.status, d.model, d.address) for d in found]
    show(found, table(("id", "name", "target", "status", "model", "address"), rows))


@app.command("show")
def show_(name: Name) -> None:
    """One deployment: its models, their shares of the traffic, and how they do."""
    with Client() as client:
        found, metrics = client.deployments.get(name), client.deployments.metrics(name)
    if Output.as_json:
        show({"deployment": found.model_dump(mode="json"), "metrics": metrics.model_dump(mode="json")})
        return
    say(f"{found.name} ({found.target}): {found.status} {found.reason}".rstrip())
    say(found.address)
    rows = [
        (r.number, r.model, r.role, f"{r.percent:g} %", r.status, *_numbers(metrics.variants.get(r.number)))
        for r in found.revisions
    ]
    columns = ("revision", "model", "role", "share", "status", "requests", "failed", "p50", "p95", "tokens/s")
    show(found, table(columns, rows))
    for number, compared in metrics.comparisons.items():
        for one in compared:
            say(f"revision {number}, {one.metric}: {one.words}")
    if metrics.drift:
        say(f"inputs: {metrics.drift.words}")


@app.command()
def rollout(
    name: Name,
    model: Annotated[str, typer.Argument(help="The model that is to take over.")],
    strategy: Annotated[str, typer.Option(help="replace, canary, ab or shadow.")] = "replace",
    steps: Annotated[str, typer.Option(help="Shares in per cent, such as 5,25,50.")] = "5,25,50",
    step_s: Annotated[float, typer.Option("--step-s", help="Least time at each step, seconds.")] = 300.0,
    min_requests: Annotated[int, typer.Option(help="Least requests before anything is decided.")] = 50,
    wait: Wait = True,
) -> None:
    """Roll out another model: at once, step by step, against the live one, or as a shadow."""
    try:
        shares = [float(part) for part in steps.split(",")]
    except ValueError:
        raise InvalidInput(f"{steps!r} is no list of shares.", hint="Such as --steps 5,25,50.") from None
    with Client() as client:
        made = client.deployments.roll_out(
            name, model, strategy=strategy, steps=shares, step_s=step_s, min_requests=min_requests
        )
        found = _waited(client, name) if wait else client.deployments.get(name)
    told = next((r for r in found.revisions if r.number == made.number), None)
    show(found, f"{model} is {told.role} with {told.percent:g} %." if told else f"{model} was not taken: see history.")


@app.command()
def promote(name: Name) -> None:
    """Make the candidate live now."""
    with Client() as client:
        made = client.deployments.promote(name)
    show(made, f"{made.model} is live.")


@app.command()
def rollback(name: Name) -> None:
    """Take back the candidate, or go back to the model before."""
    with Client() as client:
        made = client.deployments.roll_back(name)
        found = client.deployments.get(name)
    show(made, f"{made.model} is {made.role}; live: {found.model}.")


@app.command()
def undeploy(name: Name) -> None:
    """Take the model away; name, settings and history stay."""
    with Client() as client:
        found = client.deployments.undeploy(name)
    show(found, f"{found.name} is stopped.")


@app.command()
def start(name: Name, wait: Wait = True) -> None:
    """Deploy again what was undeployed."""
    with Client() as client:
        found = client.deployments.start(name)
        found = _waited(client, found.id) if wait else found
    show(found, f"{found.name} is {found.status}.")


@app.command()
def delete(name: Name) -> None:
    """Forget a deployment that was undeployed, with its history."""
    with Client() as client:
        client.deployments.delete(name)
    show({"deleted": name}, f"{name} is forgotten.")


@app.command()
def history(name: Name) -> None:
    """What happened to it, newest first."""
    with Client() as client:
        found = list(client.deployments.history(name))
    rows = [(exact(e.at), e.kind, e.message, e.by) for e in found]
    show(found, table(("when", "what", "", "by"), rows))


@app.command()
def targets() -> None:
    """Where models can be deployed to, and why not."""
    with Client() as client:
        found = client.deployments.targets()
    rows = [(t.name, t.title, t.why_not or t.sentence, ", ".join(t.settings.get("properties", {}))) for t in found]
    show(found, table(("target", "", "", "settings"), rows))


@app.command("dataset")
def dataset(
    name: Name,
    called: Annotated[str, typer.Argument(metavar="DATASET", help="Name of the new dataset.")],
    rating: Annotated[str, typer.Option(help="up: only liked answers; any: all but disliked ones.")] = "up",
) -> None:
    """Make a dataset of recorded conversations, for the next training."""
    with Client() as client:
        made = client.deployments.to_dataset(name, called, rating=rating)
    show(made, f"dataset {made.id}: {made.name}")


def values_of(settings: list[str] | None) -> dict[str, Any]:
    """`KEY=VALUE` each, values as in YAML, `a.b=1` for what lies deeper. Raises `InvalidInput`."""
    found: dict[str, Any] = {}
    for text in settings or ():
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise InvalidInput(f"{text!r} is no setting.", hint="Write --set max_concurrent=8.")
        place = found
        *parents, last = key.split(".")
        for parent in parents:
            place = place.setdefault(parent, {})
        try:
            place[last] = yaml.safe_load(value)
        except yaml.YAMLError:
            place[last] = value
    return found


def _waited(client: Client, name: int | str) -> DeploymentRead:
    with waiting("getting ready") as bar:
        return client.deployments.wait(name, progress=lambda _found: bar(0.0))


def _numbers(stats: VariantStats | None) -> tuple[Any, ...]:
    if stats is None:
        return ("", "", "", "", "")
    times = [f"{value:.2f} s" if value is not None else "" for value in (stats.p50_latency_s, stats.p95_latency_s)]
    return (stats.requests, stats.errors, *times, f"{stats.tokens_per_s:.0f}" if stats.tokens_per_s else "")


def _say_how(found: DeploymentRead) -> None:
    live = next((r for r in found.revisions if r.role == "live"), None)
    if found.target == "local":
        say(
            f'  OpenAI(base_url="{found.address}", api_key="…").chat.completions.create(model="{found.name}", messages=[…])'
        )
    elif live and live.result.get("instructions"):
        say(str(live.result["instructions"]))
