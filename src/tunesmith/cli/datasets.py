"""`tunesmith datasets …`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from tunesmith.cli.output import Output, err, out, show, size, table
from tunesmith.core.errors import InvalidInput
from tunesmith.sdk.client import Client

app = typer.Typer(no_args_is_help=True, help="Upload, look at, check and repair files of examples.")

Id = Annotated[int, typer.Argument(min=1, help="The dataset's number.")]


@app.command()
def upload(
    files: Annotated[
        list[Path], typer.Argument(help="CSV, TSV, JSON, JSONL, Parquet, XLSX, text, CoNLL, or ZIP of media.")
    ],
    name: Annotated[str | None, typer.Option(help="Its name; the file's when left out.")] = None,
    wait: Annotated[bool, typer.Option(help="Wait until it is read.")] = True,
) -> None:
    """Upload files as datasets."""
    made = []
    with Client() as client:
        for path in files:
            if not path.is_file():
                raise InvalidInput(f"There is no file {path}.", hint="Check the path.")
            made.append(_upload(client, path, name if len(files) == 1 else None, wait=wait))
    rows = [(d.id, d.name, d.status, d.shape, d.num_rows, d.num_errors, d.num_warnings) for d in made]
    show(made, table(("id", "name", "status", "shape", "rows", "errors", "warnings"), rows))
    if not Output.as_json and any(d.num_errors or d.num_warnings for d in made):
        out.print(f"See them with: tunesmith datasets validate {made[0].id}", style="dim")


def _upload(client: Client, path: Path, name: str | None, *, wait: bool) -> Any:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=err, disable=Output.as_json, transient=True) as bar:
        task = bar.add_task(path.name, total=path.stat().st_size)
        return client.datasets.upload(path, name, progress=lambda done, _: bar.update(task, completed=done), wait=wait)


@app.command("list")
def list_(
    q: Annotated[str | None, typer.Option("--search", help="Text in name or description.")] = None,
    status: Annotated[str | None, typer.Option(help="processing, ready or failed.")] = None,
    tag: Annotated[str | None, typer.Option(help="Only with this tag.")] = None,
) -> None:
    """List datasets, newest first."""
    with Client() as client:
        found = list(client.datasets.list(q=q, status=status, tag=tag))
    if not found and not Output.as_json:
        out.print("No datasets yet. Upload one with: tunesmith datasets upload FILE")
        return
    rows = [(d.id, d.name, d.type, d.status, d.shape, d.num_rows, size(d.size_bytes)) for d in found]
    show(found, table(("id", "name", "type", "status", "shape", "rows", "size"), rows))


@app.command("show")
def show_(dataset_id: Id) -> None:
    """Everything about one dataset."""
    with Client() as client:
        found = client.datasets.get(dataset_id)
    show(found, table(("field", "value"), found.model_dump(mode="json").items()))


@app.command()
def preview(
    dataset_id: Id,
    rows: Annotated[int, typer.Option(min=1, max=500)] = 5,
    offset: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """The first rows."""
    with Client() as client:
        found = client.datasets.preview(dataset_id, offset=offset, limit=rows)
    cells = [[row["row"], *(str(row[c])[:200] for c in found.columns)] for row in found.rows]
    show(found, table(("row", *found.columns), cells))


@app.command()
def validate(dataset_id: Id) -> None:
    """What is right and wrong with it. Ends with code 1 when there are errors."""
    with Client() as client:
        report = client.datasets.validation(dataset_id)
    rows = [(f.level, f.message, ", ".join(map(str, f.rows[:8])), f.hint) for f in report.findings]
    show(report, table(("level", "finding", "rows", "what to do"), rows) if rows else "Nothing is wrong with it.")
    raise typer.Exit(0 if report.valid else 1)


@app.command()
def repair(
    dataset_id: Id,
    drop_empty: Annotated[bool, typer.Option("--drop-empty")] = False,
    drop_duplicates: Annotated[bool, typer.Option("--drop-duplicates")] = False,
    strip: Annotated[bool, typer.Option("--strip")] = False,
    fix_encoding: Annotated[bool, typer.Option("--fix-encoding")] = False,
    length_bounds: Annotated[
        bool, typer.Option("--length-bounds", help="Input 10-2048, output 5-1024 characters.")
    ] = False,
) -> None:
    """Make a repaired version; the old one stays."""
    chosen = {
        "drop_empty": drop_empty, "drop_duplicates": drop_duplicates, "strip": strip, "fix_encoding": fix_encoding,
        "length_bounds": length_bounds,
    }  # fmt: skip
    with Client() as client:
        client.datasets.repair(dataset_id, **chosen)
        newest = client.datasets.versions(dataset_id)[0]
    rows = [(s.repair, s.rows_changed, s.rows_dropped) for s in newest.changes]
    show(newest, table(("repair", "rows changed", "rows dropped"), rows))


@app.command()
def delete(dataset_id: Id) -> None:
    """Delete it with its files."""
    with Client() as client:
        client.datasets.delete(dataset_id)
    show({"deleted": dataset_id}, f"Deleted dataset {dataset_id}.")


@app.command()
def download(
    dataset_id: Id,
    path: Annotated[Path, typer.Argument(help="Where to.")],
    format: Annotated[str, typer.Option(help="original, parquet, jsonl or csv.")] = "original",  # noqa: A002
) -> None:
    """The untouched original, or the newest version in another format."""
    with Client() as client:
        client.datasets.download(dataset_id, path, format=format)
    show({"path": str(path)}, f"Saved {path}.")
