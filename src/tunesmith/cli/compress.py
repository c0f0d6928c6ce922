"""`tunesmith compress MODEL`"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from tunesmith.cli.jobs import finish, settings_from
from tunesmith.cli.output import show
from tunesmith.cli.references import dataset_number
from tunesmith.core.errors import InvalidInput
from tunesmith.sdk.client import Client


def compress(
    model: Annotated[
        str, typer.Argument(help="Hub id, local name, job:<id>, or a registered model: support-bot@1.2.0.")
    ],
    formats: Annotated[str, typer.Option(help="Separated by commas; docs/compression.md has all.")] = "q8_0,q4_k_m",
    dataset: Annotated[
        int | None,
        typer.Option(parser=dataset_number, help="Its rows are the text of the check, and of the calibration."),
    ] = None,
    merge: Annotated[bool, typer.Option(help="Merge an adapter into its base model.")] = True,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Another setting, name=value; may be repeated.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="The job's name.")] = None,
    follow: Annotated[bool, typer.Option("--watch", help="Watch it until it ends.")] = False,
) -> None:
    """Make a model smaller: a job that leaves each format, compared with the source."""
    given: dict[str, Any] = settings_from(settings or [])
    given["formats"] = [part.strip().lower() for part in formats.split(",") if part.strip()]
    given |= {} if merge else {"merge": False}
    if not given["formats"]:
        raise InvalidInput("No format is named.", hint="For example: --formats q8_0,q4_k_m")
    fields = {"model": model, "dataset_id": dataset, "name": name}
    with Client() as client:
        wanted = {key: value for key, value in fields.items() if value is not None}
        job = client.jobs.create(method="compress", hyperparameters=given, **wanted)
        if not follow:
            show(job.info, f"Job {job.id} is {job.info.status}. Watch it with: tunesmith jobs watch {job.id}")
            return
        finish(job)
