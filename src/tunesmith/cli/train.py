"""`tunesmith train --config job.yaml`: through the server when one answers, else right here."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from tunesmith.cli.config import TrainConfig, read_config
from tunesmith.cli.jobs import finish
from tunesmith.cli.local import prepare, run, sized_name
from tunesmith.cli.output import FAILED, Output, out, show
from tunesmith.cli.watch import say_end, watch
from tunesmith.core.errors import InvalidInput, NotFound
from tunesmith.recipes.catalog import get_recipe
from tunesmith.sdk.client import Client
from tunesmith.sdk.connection import ServerUnreachable


def train(
    config: Annotated[Path, typer.Option("--config", "-c", help="YAML; docs/training-config.md has every key.")],
    local: Annotated[bool, typer.Option("--local", help="Train here even when a server answers.")] = False,
    output: Annotated[Path | None, typer.Option(help="Folder for a run without a server.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the output folder.")] = False,
) -> None:
    """Train from a configuration file."""
    settings = read_config(config)
    if not (local or resume):
        client = Client()
        try:
            client.system.health()
        except ServerUnreachable:
            if not Output.as_json:
                out.print("No server answers, so the training runs right here.", style="dim")
        else:
            _on_server(client, settings)
            return
    _here(settings, config, output, resume=resume)


def _on_server(client: Client, config: TrainConfig) -> None:
    data = config.training_data
    if data.path is not None:
        if not data.path.is_file():
            raise InvalidInput(
                f"There is no file {data.path}.", details=[{"loc": "training_data.path", "message": "no such file"}]
            )
        dataset_id = client.datasets.upload(data.path).id
    else:
        dataset_id = _find_dataset(client, data.dataset)
    if data.shape or data.mapping:
        client.datasets.update(dataset_id, **{k: v for k, v in (("shape", data.shape), ("mapping", data.mapping)) if v})
        client.datasets.wait(dataset_id)
    fields: dict[str, Any] = {"method": config.method, "model": config.model.name, "dataset_id": dataset_id}
    fields |= {k: v for k, v in (("name", config.name), ("dataset_version", data.version)) if v}
    job = client.jobs.create(**fields, hyperparameters=config.settings())
    if not Output.as_json:
        out.print(f"Job {job.id}: {job.info.name}", markup=False)
    try:
        finish(job)
    finally:
        if config.deployment.download and job.refresh().status == "completed":
            job.download(config.deployment.download)


def _find_dataset(client: Client, wanted: int | str | None) -> int:
    if isinstance(wanted, int):
        return wanted
    if wanted is None:
        raise InvalidInput("training_data names no data.", hint="Give it a path, or a dataset of the server.")
    for dataset in client.datasets.list(q=wanted):
        if dataset.name == wanted:
            return dataset.id
    raise NotFound(f"The server has no dataset named {wanted!r}.", hint="List them with: tunesmith datasets list")


def _here(config: TrainConfig, config_path: Path, output: Path | None, *, resume: bool) -> None:
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", sized_name(config, config_path))
    folder = output or config.deployment.output or Path("tunesmith-output") / name
    job_dir, attempt = prepare(config, folder, resume=resume)
    last = watch(run(job_dir, attempt), config.name or folder.name)
    say_end(last)
    if last.get("new") == "completed":
        model = job_dir.artifacts / get_recipe(config.method).produces
        report = job_dir.artifacts / "report" / "report.html"
        show({"model": str(model), "report": str(report)}, f"The model is in {model}\nThe report is {report}")
        return
    if last.get("new") == "paused" and not Output.as_json:
        out.print(
            f"Paused. Go on with: tunesmith train --config {config_path} --output {folder} --resume", markup=False
        )
        return
    raise typer.Exit(FAILED)
