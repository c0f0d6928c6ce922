"""`tunesmith train --config job.yaml`: through the server when one answers, else right here."""

from __future__ import annotations

import contextlib
import re
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from tunesmith.cli.config import DataSection, TrainConfig, read_config
from tunesmith.cli.datasets import upload_file
from tunesmith.cli.jobs import download_job, watch_job
from tunesmith.cli.local import is_first, num_ranks, prepare, run, sized_name
from tunesmith.cli.output import FAILED, Output, say, show, waiting
from tunesmith.cli.references import dataset_number, job_number
from tunesmith.cli.watch import say_end, watch
from tunesmith.core.errors import InvalidInput
from tunesmith.core.job_status import JobStatus
from tunesmith.recipes.catalog import get_recipe
from tunesmith.schemas.read_options import ReadOptions
from tunesmith.sdk.client import Client
from tunesmith.sdk.connection import ServerUnreachable


def train(
    config: Annotated[Path, typer.Option("--config", "-c", help="YAML; docs/training-config.md has every key.")],
    local: Annotated[bool, typer.Option("--local", help="Train here even when a server answers.")] = False,
    output: Annotated[Path | None, typer.Option(help="Folder for a run without a server.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the output folder.")] = False,
    skip_bad_rows: Annotated[
        bool, typer.Option("--skip-bad-rows", help="Train without the rows that cannot be used, and name them.")
    ] = False,
) -> None:
    """Train from a configuration file."""
    if not is_first():
        return
    settings = read_config(config)
    if skip_bad_rows:
        settings.set("skip_bad_rows", True)
    if not (num_ranks() or local or resume):
        with Client() as client:
            if _answers(client):
                _on_server(client, settings)
                return
        if not Output.as_json:
            say("No server answers, so the training runs right here.", "dim")
    _here(settings, config, output, resume=resume)


def _answers(client: Client) -> bool:
    try:
        client.system.health()
    except ServerUnreachable:
        return False
    return True


def _on_server(client: Client, config: TrainConfig) -> None:
    job = client.jobs.create(**_request(client, config))
    if job.info.status == JobStatus.CREATED:
        show(job.info, f"Job {job.id} is saved. Start it with: tunesmith jobs start {job.id}")
        return
    if not Output.as_json:
        say(f"Job {job.id}: {job.info.name}")
    last = watch_job(job)
    say_end(last)
    if last.get("new") in ("failed", "cancelled"):
        raise typer.Exit(FAILED)
    if last.get("new") == "completed" and config.deployment.download:
        saved = download_job(job, config.deployment.download)
        show({"path": str(saved)}, f"Saved {saved}.")


def _request(client: Client, config: TrainConfig) -> dict[str, Any]:
    """The job as the API takes it; its data is uploaded or found first."""
    given: dict[str, Any] = {"name": config.name, "tags": config.tags}
    if config.model:
        given["model"] = config.model.name
    if data := config.training_data:
        held_out = data.validation_dataset
        given |= {"dataset_version": data.version, "eval_dataset_id": held_out and dataset_number(held_out)}
        given["dataset_id"] = _dataset(client, data)
    if config.resources:
        given["resources"] = config.resources.model_dump(exclude_none=True)
    given |= config.schedule.model_dump(mode="json", exclude_unset=True)
    if given.get("after_job_id") is not None:
        given["after_job_id"] = job_number(given["after_job_id"])
    fields = {name: value for name, value in given.items() if value not in (None, [])}
    return {"method": config.method, "auto": config.auto, **fields, "hyperparameters": config.settings()}


def _dataset(client: Client, data: DataSection) -> int:
    """The number of the dataset to train on: uploaded, or found, and mapped as the file says."""
    options = ReadOptions(**data.given())
    if data.path is not None:
        if not data.path.is_file():
            details = [{"loc": "training_data.path", "message": "no such file"}]
            raise InvalidInput(f"There is no file {data.path}.", details=details)
        return upload_file(client, data.path, options=options).id
    if data.dataset is None:
        raise InvalidInput("training_data names no data.", hint="Give it a path, or a dataset of the server.")
    dataset_id = dataset_number(data.dataset)
    now = client.datasets.get(dataset_id).reading.given()
    if changes := {name: value for name, value in options.given().items() if now.get(name) != value}:
        with waiting("reading the data as said"):
            client.datasets.update(dataset_id, **changes)
    return dataset_id


def _here(config: TrainConfig, config_path: Path, output: Path | None, *, resume: bool) -> None:
    name = re.sub(r"[^\w.-]+", "-", sized_name(config, config_path)).strip(".-") or "run"
    folder = output or config.deployment.output or Path("tunesmith-output") / name
    with waiting("reading the data"):
        job_dir, attempt = prepare(config, folder, resume=resume)
    with contextlib.closing(run(job_dir, attempt)) as events:
        last = watch(events, config.name or folder.name)
    say_end(last)
    if last.get("new") == "completed":
        model = job_dir.artifacts / get_recipe(config.method).produces
        report = job_dir.artifacts / "report" / "report.html"
        show({"model": str(model), "report": str(report)}, f"The model is in {model}\nThe report is {report}")
        return
    if last.get("new") == "paused":
        again = shlex.join(["tunesmith", "train", "--config", str(config_path), "--output", str(folder), "--resume"])
        show({"paused": str(folder), "resume": again}, f"Go on with: {again}")
        return
    raise typer.Exit(FAILED)
