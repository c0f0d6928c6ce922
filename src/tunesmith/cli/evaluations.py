"""`tunesmith evaluate` and `tunesmith evaluations`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from tunesmith.cli.jobs import settings_from, watch_job
from tunesmith.cli.output import FAILED, Output, say, show, table
from tunesmith.cli.references import EvaluationId, dataset_number, evaluation_number, job_number
from tunesmith.cli.watch import say_end
from tunesmith.core.errors import InvalidInput
from tunesmith.schemas.evaluations import DifferenceRead, EvaluationDetail, EvaluationRead, ScoreRead
from tunesmith.sdk.client import Client

app = typer.Typer(no_args_is_help=True, help="Scores of models, and how they compare.")

Id = EvaluationId
VOTES = {"a": "a", "b": "b", "t": "tie", "x": "both_bad"}


def evaluate(
    model: Annotated[str, typer.Argument(help="Hub id, local name, job:<id>, or a version of the registry.")],
    dataset: Annotated[
        int | None, typer.Option(parser=dataset_number, help="The rows that its training held out, when left out.")
    ] = None,
    held_out_of: Annotated[
        int | None, typer.Option(parser=job_number, help="Take the rows that this training job held out.")
    ] = None,
    metrics: Annotated[
        list[str] | None, typer.Option("--metrics", help="Chosen by the answers when left out; may be repeated.")
    ] = None,
    benchmarks: Annotated[
        list[str] | None, typer.Option("--benchmarks", help="A task of lm-eval; may be repeated.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="A setting, name=value, such as max_prompts=50.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Made up from model and data when left out.")] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Watch it until it ends, and show the scores.")] = False,
) -> None:
    """Measure a model on rows that it has not learned."""
    fields: dict[str, Any] = {
        "dataset_id": dataset, "held_out_of": held_out_of, "name": name, "metrics": _parts(metrics),
        "benchmarks": _parts(benchmarks), "settings": settings_from(settings or []),
    }  # fmt: skip
    with Client() as client:
        made = client.evaluations.create(model, **{key: value for key, value in fields.items() if value})
        if not watch:
            show(made, f"Evaluation {made.id}: {made.name}. Its scores: tunesmith evaluations show {made.id}")
            return
        last = watch_job(client.jobs.get(made.id))
        if last.get("new") != "completed":
            say_end(last)
            raise typer.Exit(FAILED)
        _show(client.evaluations.get(made.id))


def _parts(given: list[str] | None) -> list[str]:
    """Commas may stand between them as well."""
    return [part for text in given or () for part in text.split(",") if part]


@app.command("list")
def list_(
    model: Annotated[str | None, typer.Option(help="Of this model only.")] = None,
    dataset: Annotated[int | None, typer.Option(parser=dataset_number, help="On this dataset only.")] = None,
) -> None:
    """Evaluations, newest first."""
    with Client() as client:
        found = list(client.evaluations.list(model=model, dataset_id=dataset))
    if not found and not Output.as_json:
        say("No evaluations yet. Measure a model with: tunesmith evaluate job:<id>")
        return
    rows = [(e.id, e.status, e.model, e.dataset_name, e.num_rows, _headline(e)) for e in found]
    show(found, table(("id", "status", "model", "data", "rows", "score"), rows))


@app.command("show")
def show_(
    evaluation_id: Id,
    samples: Annotated[int, typer.Option(min=0, help="So many answers.")] = 0,
    only: Annotated[str | None, typer.Option(help="right or wrong.")] = None,
) -> None:
    """Every score with its interval, and some answers."""
    if only not in (None, "right", "wrong"):
        raise InvalidInput(
            f"{only!r} is neither right nor wrong.", details=[{"loc": "only", "message": "right or wrong"}]
        )
    with Client() as client:
        found = client.evaluations.get(evaluation_id)
        _show(found)
        if samples and not Output.as_json:
            for sample, _ in zip(client.evaluations.samples(evaluation_id, only=only), range(samples), strict=False):
                mark = {True: "right", False: "wrong", None: ""}[sample.right]
                say(
                    f"\nrow {sample.row + 1} {mark}\n  {sample.prompt}\n  expected: {sample.expected}\n  answer:   {sample.answer}"
                )


def _show(found: EvaluationDetail) -> None:
    rows = [
        (s.title, _value(s, s.value), f"{_value(s, s.low)} to {_value(s, s.high)}", s.num_samples) for s in found.scores
    ]
    show(found, table(("score", "value", "95 % interval", "samples"), rows))
    if Output.as_json:
        return
    if not found.scores:
        say(f"Evaluation {found.id} is {found.status}. {found.status_reason}".strip())
    for each in found.skipped:
        say(f"Skipped {each['task']}: {each['why']}")


@app.command()
def compare(
    evaluations: Annotated[
        list[Any],
        typer.Argument(parser=evaluation_number, metavar="EVALUATION...", help="Two or more; each with the first."),
    ],
) -> None:
    """Scores side by side, with a word on whether the differences mean anything."""
    with Client() as client:
        found = client.evaluations.compare(evaluations)
    columns = ["score", *(f"{e.id} {e.model}" for e in found.evaluations), "difference"]
    rows = []
    for score in found.scores:
        values = ["" if one is None else _value(one, one.value) for one in score.scores]
        rows.append((score.title, *values, "; ".join(_words(one) for one in score.differences[1:])))
    show(found, table(columns, rows))


@app.command()
def arena(
    models: Annotated[
        list[str] | None, typer.Argument(help="Two or more models; without them, the ratings so far.")
    ] = None,
    prompt: Annotated[str | None, typer.Option("--prompt", "-p", help="What to ask.")] = None,
    dataset: Annotated[
        int | None, typer.Option(parser=dataset_number, help="Ask the next question of this dataset.")
    ] = None,
) -> None:
    """A blind battle: read both answers, vote, then learn who was who."""
    with Client() as client:
        if not models:
            found = client.evaluations.arena.ratings()
            rows = [
                (r.model, f"{r.rating:.0f}", "" if r.low is None else f"{r.low:.0f} to {r.high:.0f}", r.battles)
                for r in found
            ]
            show(list(found), table(("model", "rating", "95 % interval", "battles"), rows))
            return
        if prompt is None and dataset is None:
            prompt = typer.prompt("Your question")
        battle = client.evaluations.arena.begin(models, prompt, dataset_id=dataset)
        say(f"Question: {battle.prompt}")
        for side in ("a", "b"):
            say(f"\n{side.upper()}: ", end="")
            for piece in client.evaluations.arena.answer(battle.id, side):
                say(piece, end="")
            say("")
        told = ""
        while told not in VOTES:
            told = typer.prompt("\nWhich is better: a, b, t (tie), x (both are bad)").strip().lower()
        voted = client.evaluations.arena.vote(battle.id, VOTES[told])
        show(voted, f"A was {voted.model_a}, B was {voted.model_b}.")


def _headline(found: EvaluationRead) -> str:
    return f"{found.headline.title} {_value(found.headline, found.headline.value)}" if found.headline else ""


def _value(score: ScoreRead, value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value * 100:.1f} %" if score.unit == "share" else f"{value:.4g}{' s' if score.unit == 's' else ''}"


def _words(difference: DifferenceRead | None) -> str:
    if difference is None or difference.value is None:
        return ""
    p_value = f", p={difference.p_value:.3g}" if difference.p_value is not None else ""
    return f"{difference.value:+.4g} {difference.words}{p_value}"
