"""`tunesmith predict`."""

from __future__ import annotations

import csv
import json
import re
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from tunesmith.cli.deployments import values_of
from tunesmith.cli.output import show, table, waiting
from tunesmith.core.errors import InvalidInput
from tunesmith.core.tasks import TASKS
from tunesmith.sdk.client import Client
from tunesmith.sdk.deployments import Deployments
from tunesmith.sdk.jobs import Jobs

JOB = re.compile(r"job:([1-9][0-9]{0,18})")
MOST_LABELS = 5
"""Shown for one input."""


def predict(
    model: Annotated[str, typer.Argument(help="job:7, or a deployment's name or number.")],
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[INPUT]...", help='Texts, or JSON such as \'{"age": 30}\'; "-" reads one from standard input.'
        ),
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help="A CSV file with a row of names; each row is an input.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Where the file goes with the answers.")] = None,
    column: Annotated[str | None, typer.Option(help="The file's column with the inputs, where it has several.")] = None,
    parameters: Annotated[
        list[str] | None, typer.Option("--set", "-s", metavar="KEY=VALUE", help="Such as top_k=3; may be repeated.")
    ] = None,
) -> None:
    """Ask a model that does not chat: classify texts, rows of a table and so on."""
    if bool(inputs) == (file is not None):
        raise InvalidInput(
            "Give either inputs or --file.", hint='Such as: tunesmith predict job:7 "Where is my parcel?"'
        )
    if file is not None and parameters:
        raise InvalidInput("--set is for inputs, and a file takes none.", hint="Leave it out.")
    with Client() as client:
        asked, name = _who(client, model)
        if file is not None:
            target = out or file.with_name(f"{file.stem}-predictions.csv")
            with waiting(f"asking about the rows of {file.name}"):
                asked.predict_file(name, file, target, column=column)
            _say_file(target)
            return
        values = [_value(sys.stdin.read() if text == "-" else text) for text in inputs or ()]
        answer = asked.predict(name, values, **values_of(parameters))
    rows = [(_short(given), _told(answer.task, output)) for given, output in zip(values, answer.outputs, strict=True)]
    show(answer, table(("input", "answer"), rows))


def _who(client: Client, model: str) -> tuple[Jobs | Deployments, Any]:
    if job := JOB.fullmatch(model):
        return client.jobs, int(job[1])
    return client.deployments, model


def _value(text: str) -> Any:
    """JSON objects and lists as such; all else is text."""
    if text.lstrip()[:1] in ("{", "["):
        try:
            return json.loads(text)
        except ValueError:
            return text
    return text


def _say_file(target: Path) -> None:
    failed = total = 0
    with target.open(newline="", encoding="utf-8") as opened:
        rows = csv.reader(opened)
        place = len(next(rows)) - 1  # the errors stand last
        for row in rows:
            total += 1
            failed += len(row) > place and bool(row[place])
    told = {"file": str(target), "num_rows": total, "num_errors": failed}
    show(
        told,
        f"{target}: {total - failed:,} of {total:,} rows have an answer"
        + (f", {failed:,} an error." if failed else "."),
    )


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _told(task: str, output: Any) -> str:
    """An answer in words."""
    answered = TASKS[task].answered if task in TASKS else ""
    if answered == "labels":
        more = f", and {len(output) - MOST_LABELS} more" if len(output) > MOST_LABELS else ""
        cut = " (the input was cut)" if any(one.get("cut") for one in output) else ""
        return ", ".join(f"{one['label']} {one['score']:.1%}" for one in output[:MOST_LABELS]) + more + cut
    if answered == "value":
        bounds = f" ({output['low']:g} to {output['high']:g})" if output.get("low") is not None else ""
        return f"{output['value']:g}{bounds}"
    if answered == "spans":
        return ", ".join(f"{span['text']}: {span['label']}" for span in output) or "none"
    if answered == "vector":
        return f"{len(output)} numbers: {', '.join(f'{number:.4g}' for number in output[:4])}, ..."
    return output if isinstance(output, str) else json.dumps(output, ensure_ascii=False)
