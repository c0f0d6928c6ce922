"""`tunesmith datasets …`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tunesmith.cli.output import Output, say, show, size, table, transfer, waiting
from tunesmith.cli.read_options import takes_read_options
from tunesmith.cli.references import DatasetId, DatasetIds
from tunesmith.cli.tokens import tokens_told
from tunesmith.core.errors import InvalidInput, NotFound
from tunesmith.schemas.datasets import DatasetRead, Finding
from tunesmith.schemas.read_options import ReadOptions
from tunesmith.sdk.client import Client

app = typer.Typer(no_args_is_help=True, help="Upload, look at, check and repair files of examples.")

Id = DatasetId


@app.command()
@takes_read_options
def upload(
    files: Annotated[
        list[Path], typer.Argument(help="CSV, TSV, JSON, JSONL, Parquet, XLSX, text, CoNLL, or ZIP of media.")
    ],
    name: Annotated[str | None, typer.Option(help="Its name; the file's when left out.")] = None,
    wait: Annotated[bool, typer.Option(help="Wait until it is read.")] = True,
    *,
    options: ReadOptions,
) -> None:
    """Upload files as datasets."""
    if name and len(files) > 1:
        raise InvalidInput("--name is for one file.", hint="Upload them one by one, or leave --name out.")
    for path in files:
        if not path.is_file():
            raise InvalidInput(f"There is no file {path}.", hint="Check the path.")
    with Client() as client:
        made = [upload_file(client, path, name, options, wait=wait) for path in files]
    rows = [(d.id, d.name, d.status, d.shape, d.num_rows, d.num_errors, d.num_warnings) for d in made]
    show(made, table(("id", "name", "status", "shape", "rows", "errors", "warnings"), rows))
    for dataset in made:
        if not Output.as_json and (dataset.num_errors or dataset.num_warnings):
            say(f"See what is wrong with: tunesmith datasets validate {dataset.id}", "dim")


def upload_file(
    client: Client, path: Path, name: str | None = None, options: ReadOptions | None = None, *, wait: bool = True
) -> DatasetRead:
    """Upload with a bar; with `wait`, another one until it is read."""
    given = options.given() if options else {}
    with transfer(path.name) as sent:
        made = client.datasets.upload(path, name, progress=sent, wait=False, **given)
    if not wait:
        return made
    with waiting(f"reading {path.name}") as done:
        return client.datasets.wait(made.id, progress=done)


@app.command()
@takes_read_options
def fetch(
    url: Annotated[str, typer.Argument(help="Where the file is, http:// or https://; the server fetches it.")],
    name: Annotated[str | None, typer.Option(help="Its name; the file's when left out.")] = None,
    wait: Annotated[bool, typer.Option(help="Wait until it is read.")] = True,
    *,
    options: ReadOptions,
) -> None:
    """Let the server fetch a file from an address and make it a dataset."""
    with Client() as client:
        with waiting("fetching"):
            made = client.datasets.from_url(url, name, wait=False, **options.given())
        if wait:
            with waiting(f"reading {made.file_name}") as done:
                made = client.datasets.wait(made.id, progress=done)
    row = (made.id, made.name, made.status, made.shape, made.num_rows, made.num_errors, made.num_warnings)
    show(made, table(("id", "name", "status", "shape", "rows", "errors", "warnings"), [row]))


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
        say(
            "No such datasets."
            if q or status or tag
            else "No datasets yet. Upload one with: tunesmith datasets upload FILE"
        )
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


@app.command("show-tokens")
def show_tokens(
    dataset_id: Id,
    model: Annotated[str, typer.Option(help="The base model: its tokenizer and chat template are used.")],
    row: Annotated[list[int] | None, typer.Option("--row", min=1, help="A row's number; may be repeated.")] = None,
    max_length: Annotated[int, typer.Option(min=16, help="Tokens after which a row is cut.")] = 1024,
    train_on: Annotated[str, typer.Option(help="completions, or all.")] = "completions",
    system_prompt: Annotated[str | None, typer.Option(help="Put before conversations that have none.")] = None,
    tool_calls: Annotated[
        str, typer.Option(help="template, ready, or text: how function calls are written.")
    ] = "template",
    rewritten_turns: Annotated[
        str, typer.Option(help="split, or skip: what becomes of answers that the template rewrites later on.")
    ] = "split",
) -> None:
    """What the model will see: learned text is green, cut text is red, text that is only read is dim."""
    with Client() as client:
        found = client.datasets.show_tokens(
            dataset_id, model, row or (), max_length=max_length, train_on=train_on, system_prompt=system_prompt,
            tool_calls=tool_calls, rewritten_turns=rewritten_turns,
        )  # fmt: skip
    show(found, tokens_told(found))


@app.command()
def validate(dataset_id: Id) -> None:
    """What is right and wrong with it. Ends with code 1 when there are errors."""
    with Client() as client:
        report = client.datasets.validation(dataset_id)
    rows = [
        (f.level, f.message, _few(f.rows, f.count), _few(f.lines, f.count), _remedy(dataset_id, f))
        for f in report.findings
    ]
    heads = ("level", "finding", "rows", "lines of the file", "what to do")
    show(report, table(heads, rows) if rows else "Nothing is wrong with it.")
    raise typer.Exit(0 if report.valid else 1)


def _few(numbers: list[int], count: int) -> str:
    """The first ones, and how many more there are; `--json` has them all."""
    more = count - 8
    return ", ".join(map(str, numbers[:8])) + (f" and {more:,} more" if numbers and more > 0 else "")


def _remedy(dataset_id: int, finding: Finding) -> str:
    """The hint, and the command that repairs it."""
    if not finding.repair:
        return finding.hint
    value = " first" if finding.repair == "answer_lists" else ""
    command = f"tunesmith datasets repair {dataset_id} --{finding.repair.replace('_', '-')}{value}"
    return f"{finding.hint} Run: {command}"


@app.command()
@takes_read_options
def update(
    dataset_id: Id,
    name: Annotated[str | None, typer.Option(help="Another name.")] = None,
    description: Annotated[str | None, typer.Option(help="Another description.")] = None,
    detect: Annotated[
        list[str] | None,
        typer.Option("--detect", metavar="OPTION", help="Detect this again, such as sheet; may be repeated."),
    ] = None,
    *,
    options: ReadOptions,
) -> None:
    """Change its name, or read its file again in another way: makes a new version, the old one stays."""
    again = [word.strip().lstrip("-").replace("-", "_") for word in detect or ()]
    if wrong := [word for word in again if word not in ReadOptions.model_fields]:
        raise InvalidInput(
            f"There is no option {wrong[0]!r}.", hint=f"Choose of: {', '.join(ReadOptions.model_fields)}."
        )
    changes: dict[str, Any] = {"name": name, "description": description}
    changes = {key: value for key, value in changes.items() if value is not None}
    changes |= {**options.given(), **dict.fromkeys(again)}
    if not changes:
        raise InvalidInput("Nothing is to be changed.", hint="See: tunesmith datasets update --help")
    with Client() as client, waiting("updating"):
        found = client.datasets.update(dataset_id, **changes)
    row = (found.id, found.name, found.status, found.shape, found.num_rows, found.num_errors, found.num_warnings)
    show(found, table(("id", "name", "status", "shape", "rows", "errors", "warnings"), [row]))


@app.command("map")
def map_(
    dataset_id: Id,
    columns: Annotated[
        list[str] | None,
        typer.Argument(metavar="[ROLE=COLUMN]...", help="Which column fills which role, such as answer=reply."),
    ] = None,
    shape: Annotated[
        str | None, typer.Option(help="Row shape, such as question_answer; the present one when left out.")
    ] = None,
) -> None:
    """Say which columns are learned from; makes a new version. Without columns: what is chosen now."""
    with Client() as client:
        found = client.datasets.get(dataset_id)
        if columns or shape:
            mapping = dict(_role(text) for text in columns or ())
            given = {"mapping": mapping} if mapping else {}
            found = client.datasets.update(dataset_id, shape=shape or found.shape, **given)
    rows = [("shape", found.shape or "not known"), *found.mapping.items()]
    show({"shape": found.shape, "mapping": found.mapping}, table(("role", "column"), rows))


def _role(text: str) -> tuple[str, str]:
    role, equals, column = text.partition("=")
    if not equals or not role or not column:
        raise InvalidInput(
            f"{text!r} is not ROLE=COLUMN.", hint="For example: tunesmith datasets map 3 question=ask answer=reply"
        )
    return role, column


@app.command()
def versions(dataset_id: Id) -> None:
    """Its versions, newest first, and what made each."""
    with Client() as client:
        found, current = client.datasets.versions(dataset_id), client.datasets.get(dataset_id).version
    rows = [(v.number, "*" if v.digest == current else "", v.origin, v.num_rows, v.shape, v.digest[:16]) for v in found]
    show(list(found), table(("version", "in use", "made by", "rows", "shape", "digest"), rows))


@app.command()
def restore(dataset_id: Id, version: Annotated[int, typer.Argument(min=1, help="The version's number.")]) -> None:
    """Use an older version again: undoes a repair, an edit or a mapping."""
    with Client() as client:
        chosen = next((v for v in client.datasets.versions(dataset_id) if v.number == version), None)
        if chosen is None:
            raise NotFound(f"Dataset {dataset_id} has no version {version}.", hint="See: tunesmith datasets versions")
        found = client.datasets.restore(dataset_id, chosen.digest)
    show(found, f"Dataset {dataset_id} uses version {version} again.")


@app.command()
def edit(
    dataset_id: Id,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="A cell, as ROW:COLUMN=VALUE; may be repeated.")
    ] = None,
    drop_row: Annotated[list[int] | None, typer.Option("--drop-row", help="A row's number; may be repeated.")] = None,
) -> None:
    """Change cells or delete rows; makes a new version, the old one stays."""
    cells = []
    for text in set_ or ():
        place, equals, value = text.partition("=")
        row, colon, column = place.partition(":")
        if not equals or not colon or not row.isdigit():
            raise InvalidInput(f"--set {text[:80]!r} cannot be read.", hint="Write it as --set 3:answer=forty-two")
        cells.append({"row": int(row), "column": column, "value": value})
    with Client() as client, waiting("editing"):
        found = client.datasets.edit(dataset_id, cells, drop_row or ())
    show(found, f"Dataset {dataset_id} has {found.num_rows} rows in its new version.")


@app.command()
def tag(
    dataset_ids: DatasetIds,
    add: Annotated[list[str] | None, typer.Option("--add", help="A tag to add; may be repeated.")] = None,
    remove: Annotated[list[str] | None, typer.Option("--remove", help="A tag to take away; may be repeated.")] = None,
) -> None:
    """Add tags to datasets, or take them away."""
    if not add and not remove:
        raise InvalidInput("No tag is named.", hint="Use --add TAG or --remove TAG.")
    with Client() as client:
        results = [
            result
            for action, tags in (("tag", add), ("untag", remove))
            if tags
            for result in client.datasets.bulk(action, dataset_ids, tags)
        ]
    failed = [result.error["message"] for result in results if result.error]
    show(results, "\n".join(dict.fromkeys(failed)) or "Done.")
    raise typer.Exit(1 if failed else 0)


@app.command()
def repair(
    dataset_id: Id,
    drop_empty: Annotated[bool, typer.Option("--drop-empty")] = False,
    drop_bad_rows: Annotated[
        bool, typer.Option("--drop-bad-rows", help="All rows that cannot be used for training, empty ones too.")
    ] = False,
    answer_lists: Annotated[
        str | None, typer.Option(help="Of answers that are lists: keep the first, or a row for each.")
    ] = None,
    drop_duplicates: Annotated[bool, typer.Option("--drop-duplicates")] = False,
    strip: Annotated[bool, typer.Option("--strip")] = False,
    fix_encoding: Annotated[bool, typer.Option("--fix-encoding")] = False,
    length_bounds: Annotated[
        bool, typer.Option("--length-bounds", help="Input 10-2048, output 5-1024 characters.")
    ] = False,
) -> None:
    """Make a repaired version; the old one stays."""
    chosen = {
        "drop_empty": drop_empty, "drop_bad_rows": drop_bad_rows, "drop_duplicates": drop_duplicates, "answer_lists": answer_lists, "strip": strip, "fix_encoding": fix_encoding,
        "length_bounds": length_bounds,
    }  # fmt: skip
    if not any(chosen.values()):
        flags = ", ".join("--" + name.replace("_", "-") for name in chosen)
        raise InvalidInput("No repair is chosen.", hint=f"Choose one or more of {flags}.")
    with Client() as client:
        with waiting("repairing"):
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
    with Client() as client, transfer(path.name) as got:
        saved = client.datasets.download(dataset_id, path, format=format, progress=got)
    show({"path": str(saved)}, f"Saved {saved}.")
