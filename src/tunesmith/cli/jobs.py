"""`tunesmith jobs …`"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from tunesmith.cli import run_table
from tunesmith.cli.output import FAILED, Output, duration, say, show, table, transfer
from tunesmith.cli.references import JobId, JobIds, dataset_number, job_number
from tunesmith.cli.watch import say_end, watch
from tunesmith.core.errors import InvalidInput
from tunesmith.core.job_status import JobStatus
from tunesmith.core.log_lines import LogFilter
from tunesmith.recipes.catalog import get_recipe
from tunesmith.schemas.before_after import BeforeAfter
from tunesmith.schemas.jobs import JobProgress
from tunesmith.sdk.client import Client
from tunesmith.sdk.jobs import Job

app = typer.Typer(no_args_is_help=True, help="Make, watch and steer training jobs.")

Id = JobId


def settings_from(pairs: list[str]) -> dict[str, Any]:
    """`learning_rate=2e-4` → `{"learning_rate": 0.0002}`; `script=@train.py` is the text of that file.

    Raises `InvalidInput` for what is no pair, is given twice, or names a file that cannot be read as text.
    """
    found: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise InvalidInput(f"{pair!r} is not name=value.", hint="For example: --set learning_rate=2e-4")
        if name in found:
            raise InvalidInput(f"{name} is set twice.", hint="Keep one of the two.")
        found[name] = _file_text(Path(value[1:])) if value.startswith("@") else _value(value)
    return found


def _value(text: str) -> Any:
    """JSON, or else the text itself; so are NaN and infinity, which no server takes."""
    try:
        value = json.loads(text)
        json.dumps(value, allow_nan=False)
    except (ValueError, RecursionError):
        return text
    return value


def _file_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise InvalidInput(f"{path} is not UTF-8 text.") from None


@app.command()
def create(
    model: Annotated[str | None, typer.Option(help="Hub id, local name, or job:<id>.")] = None,
    dataset: Annotated[int | None, typer.Option(parser=dataset_number, help="The dataset's number or name.")] = None,
    method: Annotated[str, typer.Option(help="One of those that tunesmith jobs methods lists.")] = "lora",
    name: Annotated[str | None, typer.Option(help="Made up from model and data when left out.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="A hyperparameter, name=value or name=@file; may be repeated."),
    ] = None,
    skip_bad_rows: Annotated[
        bool, typer.Option("--skip-bad-rows", help="Train without the rows that cannot be used, and name them.")
    ] = False,
    auto: Annotated[bool, typer.Option(help="Choose what is left out, or take the method's defaults.")] = True,
    version: Annotated[str | None, typer.Option("--dataset-version", help="Digest; the newest when left out.")] = None,
    held_out: Annotated[
        int | None, typer.Option("--eval-dataset", parser=dataset_number, help="Held out instead of a share.")
    ] = None,
    tags: Annotated[list[str] | None, typer.Option("--tag", help="May be repeated.")] = None,
    priority: Annotated[str, typer.Option(help="low, normal or high.")] = "normal",
    start: Annotated[str, typer.Option(help="now, manual or off_peak.")] = "now",
    not_before: Annotated[str | None, typer.Option(help="Earliest start: 2026-01-31T22:00:00+01:00.")] = None,
    after: Annotated[int | None, typer.Option(parser=job_number, help="Start when this job has ended.")] = None,
    only_after_success: Annotated[
        bool, typer.Option("--only-after-success", help="And only if it did not fail.")
    ] = False,
    timeout: Annotated[float | None, typer.Option(help="Most seconds that an attempt may take.")] = None,
    gpus: Annotated[int | None, typer.Option(min=0, help="One where there is one, when left out.")] = None,
    cpu_threads: Annotated[int | None, typer.Option(min=1, help="All cores when left out.")] = None,
    memory_bytes: Annotated[int | None, typer.Option(min=1, help="Limit of a custom script.")] = None,
    follow: Annotated[bool, typer.Option("--watch", help="Watch it until it ends.")] = False,
) -> None:
    """Make a training job. What is left out is chosen from model, data and machine."""
    recipe = get_recipe(method)
    needed = {"--model": recipe.needs_model and model is None, "--dataset": recipe.data.is_needed and dataset is None}
    if missing := [flag for flag, is_missing in needed.items() if is_missing]:
        raise InvalidInput(f"Method {method} needs {' and '.join(missing)}.", hint="See: tunesmith jobs create --help")
    resources = {"num_gpus": gpus, "cpu_threads": cpu_threads, "memory_bytes": memory_bytes}
    given = {
        "model": model, "dataset_id": dataset, "name": name or None, "dataset_version": version, "eval_dataset_id": held_out,
        "tags": tags or None, "not_before": not_before, "after_job_id": after, "timeout_s": timeout,
        "resources": {key: value for key, value in resources.items() if value is not None} or None,
    }  # fmt: skip
    fields: dict[str, Any] = {"method": method, "priority": priority, "start": start, "auto": auto}
    fields |= {"after_failure": False} if only_after_success else {}
    fields |= {key: value for key, value in given.items() if value is not None}
    hyperparameters = settings_from(settings or []) | ({"skip_bad_rows": True} if skip_bad_rows else {})
    with Client() as client:
        job = client.jobs.create(**fields, hyperparameters=hyperparameters)
        if not follow:
            show(job.info, f"Job {job.id} is {job.info.status}. Watch it with: tunesmith jobs watch {job.id}")
            return
        finish(job)


def finish(job: Job) -> None:
    """Watch to the end; the exit code says how it went."""
    last = watch_job(job)
    say_end(last)
    raise typer.Exit(FAILED if last.get("new") in ("failed", "cancelled") else 0)


def watch_job(job: Job) -> dict[str, Any]:
    """Watch to the end; returns the last status event."""
    return watch((item.event for item in job.follow()), job.info.name, waiting_for=lambda: job.status().waiting_for)


@app.command("watch")
def watch_(job_id: Id) -> None:
    """A live progress bar until the job ends. Ctrl-C leaves the job running."""
    with Client() as client:
        finish(client.jobs.get(job_id))


@app.command("list")
def list_(
    status: Annotated[
        str | None, typer.Option(help="created, queued, running, paused, completed, failed or cancelled.")
    ] = None,
    q: Annotated[str | None, typer.Option("--search", help="Text in the name.")] = None,
    sort: Annotated[
        str | None,
        typer.Option(help="created, name, or any metric or parameter: metric.eval_loss.best, param.learning_rate."),
    ] = None,
    order: Annotated[
        str | None, typer.Option(help="asc or desc; the best, the newest or the first by name first.")
    ] = None,
    columns: Annotated[
        str | None, typer.Option(help="Metrics and parameters to show, with commas; see: tunesmith jobs columns")
    ] = None,
    group: Annotated[
        str | None, typer.Option(help="A metric or parameter to group by, with the first jobs of each.")
    ] = None,
    where: Annotated[list[str] | None, typer.Option(help="param.lora_r=8; may be repeated.")] = None,
    view: Annotated[str | None, typer.Option(help="The name of a view saved on the page of jobs.")] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Most jobs (all when left out), or most of each group (10, at most 100).")
    ] = None,
) -> None:
    """List jobs, newest first."""
    given = {"status": status, "q": q, "sort": sort, "order": order, "columns": columns, "group": group, "where": where}
    with Client() as client:
        run_table.show_jobs(client, view, {name: value for name, value in given.items() if value}, limit)


@app.command("columns")
def columns_() -> None:
    """Metrics and parameters by which jobs can be sorted, grouped and shown."""
    with Client() as client:
        found = client.jobs.columns()
    show(list(found), table(("name", "kind", "title"), [(one.name, one.kind, one.title) for one in found]))


@app.command("show")
def show_(job_id: Id) -> None:
    """Where a job is, and its settings."""
    with Client() as client:
        job = client.jobs.get(job_id)
        status, compared = job.status(), job.before_after()
    value = {
        **job.info.model_dump(mode="json"),
        "progress": status.model_dump(mode="json"),
        "before_after": compared.model_dump(mode="json"),
    }
    rows: list[tuple[str, Any]] = [
        ("name", job.info.name), ("status", f"{job.info.status} {job.info.status_reason}"), ("model", job.info.model),
        ("method", job.info.method), ("step", f"{status.step} of {status.total_steps}"), ("loss", status.loss),
        *_metric(status), ("elapsed", duration(status.elapsed_s)), ("left", duration(status.remaining_s)),
        ("waiting for", status.waiting_for), ("hint", job.info.hint),
    ]  # fmt: skip
    rows += [(key, setting) for key, setting in job.info.hyperparameters.items() if setting is not None]
    show(value, table(("field", "value"), [row for row in rows if row[1] not in (None, "")]))
    if job.info.status == JobStatus.COMPLETED and not Output.as_json:
        _say_before_after(compared)


def _metric(status: JobProgress) -> list[tuple[str, Any]]:
    """What stands for the job, where that is another number than the loss of its steps."""
    metric = status.metric
    if metric is None or metric.name == "loss":
        return []
    best = "" if metric.best is None or metric.best == metric.last else f" (best {metric.best:.4g})"
    return [(metric.title.lower(), f"{metric.last:.4g}{best}" if metric.last is not None else None)]


def _say_before_after(compared: BeforeAfter) -> None:
    """Questions with the answers of both models."""
    for one in compared.questions:
        say(f"\nRow {one.row} of {compared.dataset}", "bold")
        for turn in one.turns:
            say(f"{turn.role}: {turn.content}")
        for name, side in (("base", one.base), ("tuned", one.tuned)):
            scores = ", ".join(
                f"{title} {value:.4g}"
                for title, value in (("loss", side.loss), ("perplexity", side.perplexity), ("chrF", side.chrf))
                if value is not None
            )
            say(f"{name} ({scores}): {side.answer}{' …' if side.is_cut else ''}")
        say(f"expected: {one.expected}")
    if compared.questions:
        say("\nLoss and perplexity are of the expected answer; chrF compares the answer with it, 0 to 100.", "dim")
    if compared.reason:
        say(f"{compared.reason} {compared.hint}".strip(), "dim")


@app.command()
def methods(name: Annotated[str | None, typer.Argument(help="One method, with each of its settings.")] = None) -> None:
    """Ways to train, and what can be set."""
    with Client() as client:
        found = client.jobs.methods()
    if name is None:
        rows = [(m["name"], m["sentence"], m["why_not"]) for m in found]
        show(list(found), table(("method", "what it is", "why not here"), rows))
        return
    chosen = next((m for m in found if m["name"] == get_recipe(name).name), {})
    settings = [
        (f["name"], "" if f["default"] is None else json.dumps(f["default"]), f["unit"], usual_range(f), f["doc"])
        for f in chosen["fields"]
    ]
    if chosen["guide"] and not Output.as_json:
        say(chosen["guide"])
    show(chosen, table(("setting", "default", "unit", "usual", "meaning"), settings))


def usual_range(field: dict[str, Any]) -> str:
    """`1e-05 to 0.0005`, or what can be chosen."""
    if field["choices"]:
        return ", ".join(field["choices"])
    return "{:g} to {:g}".format(*field["usual"]) if field["usual"] else ""


@app.command()
def diagnose(job_id: Id) -> None:
    """What the curve says, in words."""
    with Client() as client:
        found = client.jobs.get(job_id).status().diagnosis
    rows = [(d.message, d.advice) for d in found]
    show(found, table(("finding", "what to do"), rows) if rows else "There is no curve to judge yet.")


def _steer(name: str, doing: str, method: str) -> None:
    @app.command(name, help=doing)
    def command(job_id: Id) -> None:
        with Client() as client:
            info = getattr(client.jobs.get(job_id), method)()
        show(info, f"Job {job_id} is {info.status}.")


_steer("start", "Queue a job that was only saved.", "start")
_steer("stop", "Cancel a job; its checkpoints stay.", "stop")
_steer("pause", "Write a checkpoint and give the machine back.", "pause")
_steer("resume", "Go on from the last checkpoint.", "resume")
_steer("checkpoint", "Write a checkpoint now and go on.", "checkpoint")


@app.command("set-lr")
def set_lr(job_id: Id, learning_rate: Annotated[float, typer.Argument(min=0.0, max=1.0)]) -> None:
    """Change the learning rate of a running job."""
    with Client() as client:
        info = client.jobs.get(job_id).set_learning_rate(learning_rate)
    show(info, f"Job {job_id} goes on with {learning_rate:g}.")


@app.command()
def logs(
    job_id: Id,
    search: Annotated[str | None, typer.Option(help="Only the lines that hold this text.")] = None,
    level: Annotated[
        LogFilter | None, typer.Option(help="Only lines of at least this level; output: only what the process printed.")
    ] = None,
) -> None:
    """A line for each logged step, evaluation, checkpoint and warning, and what the process printed."""
    with Client() as client:
        job = client.jobs.get(job_id)
        found = (match.line for match in job.search_log(search, level)) if search else None
        text = "\n".join(found) if found is not None else job.logs(level=level)
    show({"text": text}, text)


@app.command()
def compare(
    ids: JobIds,
    everything: Annotated[bool, typer.Option("--all", help="Settings that are the same, too.")] = False,
) -> None:
    """What differs between jobs, and how each came out."""
    with Client() as client:
        found = client.jobs.compare(ids)
    shown = [item for item in [*found.settings, *found.scores] if everything or item.differs]
    rows = [(item.name, *("" if value is None else str(value) for value in item.values)) for item in shown]
    heads = ("", *(f"{each.job.id} {each.job.name}" for each in found.jobs))
    show(found, table(heads, rows) if rows else "These jobs are alike in all settings and scores.")


@app.command()
def queue() -> None:
    """Jobs that wait, in order, and why."""
    with Client() as client:
        found = client.jobs.queue()
    rows = [(item["position"], item["job_id"], item["name"], item["priority"], item["waiting_for"]) for item in found]
    show(list(found), table(("position", "job", "name", "priority", "waiting for"), rows) if rows else "Nothing waits.")


@app.command()
def move(
    job_id: Id,
    to: Annotated[str | None, typer.Option(help="first or last.")] = None,
    before: Annotated[int | None, typer.Option(parser=job_number, help="The job to put it before.")] = None,
) -> None:
    """Move a waiting job in the queue."""
    if (to is None) == (before is None):
        raise InvalidInput("Say where to: one of --to and --before.", hint=f"tunesmith jobs move {job_id} --to first")
    where = {"to": to, "before_job_id": before}
    with Client() as client:
        found = client.jobs.get(job_id).move(**{k: v for k, v in where.items() if v is not None})
    show(found, f"Moved job {job_id}.")


@app.command()
def clone(
    job_id: Id,
    changes: Annotated[
        list[str] | None, typer.Option("--set", help="name=value; hyperparameters.NAME for those.")
    ] = None,
) -> None:
    """Copy a job with some fields changed."""
    fields: dict[str, Any] = {}
    for key, value in settings_from(changes or []).items():
        group, dot, name = key.partition(".")
        if dot and isinstance(fields.setdefault(group, {}), dict):
            fields[group][name] = value
        else:
            fields[key] = value
    with Client() as client:
        made = client.jobs.get(job_id).clone(**fields)
    show(made.info, f"Job {made.id} is {made.info.status}.")


@app.command()
def delete(job_id: Id) -> None:
    """Delete a job with its files."""
    with Client() as client:
        client.jobs.get(job_id).delete()
    show({"deleted": job_id}, f"Deleted job {job_id}.")


@app.command()
def download(
    job_id: Id,
    path: Annotated[
        Path | None, typer.Argument(help="Where to; <output name>.tar.gz when left out or a folder.")
    ] = None,
) -> None:
    """The packed model with report and instructions."""
    with Client() as client:
        job = client.jobs.get(job_id)
        saved = download_job(job, path or Path())
    show({"path": str(saved)}, f"Saved {saved}.")


def download_job(job: Job, path: Path) -> Path:
    """Download with a bar, into `path` when it is a folder; returns the file."""
    target = path / f"{job.info.output_name}.tar.gz" if path.is_dir() else path
    with transfer(target.name) as got:
        return job.download(target, progress=got)
