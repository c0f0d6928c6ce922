"""From an uploaded file, or an older version, to a stored version: `data.parquet`, `version.json`, `report.json`, `statistics.json`.
And from two versions to what they share: `report.json`."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field

from tunesmith.core.errors import BadData, InvalidInput, TooLarge
from tunesmith.core.job_dir import new_folder, write_atomic
from tunesmith.dataprep.archive import read_archive
from tunesmith.dataprep.checks import validate
from tunesmith.dataprep.edit import edit
from tunesmith.dataprep.overlap import overlap
from tunesmith.dataprep.profile import statistics
from tunesmith.dataprep.readers import read_tables
from tunesmith.dataprep.repair import repair
from tunesmith.dataprep.shapes import SHAPES, recognise
from tunesmith.dataprep.source import Source, open_source
from tunesmith.dataprep.splits import find_splits, splits_found
from tunesmith.dataprep.tables import FileReading, chosen
from tunesmith.schemas.datasets import (
    EditRequest,
    Finding,
    RepairPreview,
    RepairRequest,
    RepairStep,
    ValidationReport,
)
from tunesmith.schemas.read_options import FileLayout, ReadOptions

ROW_GROUP_ROWS = 8_192
ROW_GROUP_BYTES = 16 * 1024**2
"""Small enough that any row is read in some milliseconds: a group is read from its start."""
BATCH_ROWS = 65_536
TRIED_EXAMPLES = 25
"""Rows shown of each repair that is only tried."""
Progress = Callable[[float, str], None]


class Limits(BaseModel):
    """What a file may have."""

    model_config = ConfigDict(extra="forbid")

    max_rows: int = 50_000_000
    max_bytes: int = 10 * 1024**3
    max_context_tokens: int = 2048
    tokenizer: str | None = None


class Request(BaseModel):
    """What the child process is asked to do."""

    model_config = ConfigDict(extra="forbid")

    action: str
    source: str | None = None
    version_dir: str | None = None
    sample_rows: int | None = None
    """Of the action `ingest`: look at so many rows only, of which none are kept."""
    held_out_dir: str | None = None
    """The version that is compared with `version_dir`; of the action `overlap`."""
    file_name: str = ""
    out_dir: str
    media_dir: str | None = None
    options: ReadOptions = Field(default_factory=ReadOptions)
    repairs: RepairRequest = Field(default_factory=RepairRequest)
    edits: EditRequest = Field(default_factory=EditRequest)
    limits: Limits = Field(default_factory=Limits)


def run(request: Request, progress: Progress) -> None:
    """Carry out one request. `out_dir` appears whole or not at all. Raises `TunesmithError` for bad input."""
    out = Path(request.out_dir)
    out.parent.mkdir(parents=True, exist_ok=True)
    with new_folder(out) as folder:
        if request.action == "ingest":
            _ingest(request, folder, progress)
        elif request.action in ("repair", "remap", "edit"):
            _rework(request, folder, progress)
        elif request.action == "try_repair":
            _try_repair(request, folder)
        elif request.action == "overlap":
            _overlap(request, folder)
        else:
            raise InvalidInput(f"There is no action {request.action!r}.")


def _ingest(request: Request, folder: Path, progress: Progress) -> None:
    options, reading = request.options, FileReading(request.options)
    path = Path(request.source or "")
    if path.stat().st_size > request.limits.max_bytes:
        raise TooLarge(
            f"File exceeds {request.limits.max_bytes // 1024**2}MB limit", hint="Raise TUNESMITH_MAX_UPLOAD_BYTES."
        )
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".work.") as work:
        progress(0.02, "reading")
        source = open_source(path, request.file_name, Path(work), request.limits.max_bytes, options.encoding, options.delimiter)  # fmt: skip
        check_format(source, options)
        if source.nul_lines:
            one = source.num_nuls == 1
            message = f"{source.num_nuls:,} NUL byte{' was' if one else 's were'} taken out of the text, in line {', '.join(map(str, source.nul_lines[:20]))}"
            reading.report("nul_bytes", message, lines=source.nul_lines)
        if source.format == "zip":
            media = Path(request.media_dir or folder / "media")
            kind, tables = read_archive(source.path, media, request.limits.max_bytes, reading, request.sample_rows)
        else:
            kind, tables = "text", read_tables(source, reading)
        sample = Sample(chosen(tables, reading), request.sample_rows or request.limits.max_rows + 1)
        write_tables(iter(sample), folder / "data.parquet", request.limits.max_rows, progress)
        about: dict[str, Any] = {"type": kind, "format": source.format, "encoding": source.encoding}
        if request.sample_rows:
            about["whole"] = sample.whole and (source.format != "zip" or sample.num_rows < request.sample_rows)
        about |= {"reading": options.given(), "json_columns": reading.json_columns}
        findings = [Finding(level="warning", code="encoding", message=w) for w in source.warnings] + reading.findings
        lines = None if options.split is not None else reading.lines
        _describe(request, folder, about, reading.layout, findings, [], progress, lines)


def check_format(source: Source, options: ReadOptions) -> None:
    """Raises `InvalidInput` for options that say nothing of such a file: none is passed over without a word."""
    of_text = source.format in ("csv", "tsv", "json", "jsonl", "text", "conll")
    fits = {
        "sheet": source.format == "xlsx",
        "header_row": source.format in ("csv", "tsv", "xlsx", "json", "jsonl"),
        "delimiter": source.format in ("csv", "tsv"),
        "encoding": of_text,
        "columns": source.format != "zip",
    }
    wrong = [name for name, is_fit in fits.items() if getattr(options, name) is not None and not is_fit]
    if wrong:
        raise InvalidInput(
            f"{wrong[0]} says nothing of a {source.format} file.", hint="Leave it out.",
            details=[{"loc": name, "message": f"says nothing of a {source.format} file"} for name in wrong],
        )  # fmt: skip


def _rework(request: Request, folder: Path, progress: Progress) -> None:
    """A new version of a stored one: repaired, or with another mapping."""
    old_dir = Path(request.version_dir or "")
    old = json.loads((old_dir / "version.json").read_text())
    given = request.options
    shape, mapping = given.shape or old["shape"], given.mapping or old["mapping"]
    steps: list[RepairStep] = []
    frame: pl.DataFrame | None = None
    progress(0.1, "repairing")
    if request.action == "repair":
        frame, steps = repair(old_dir / "data.parquet", shape, mapping, request.repairs)
        if frame.is_empty():
            raise BadData("The repairs would leave no rows.", hint="Choose fewer repairs or wider length bounds.")
    elif request.action == "edit":
        frame, steps = edit(old_dir / "data.parquet", request.edits)
        if frame.is_empty():
            raise BadData("That would leave no rows.", hint="Delete the whole dataset instead.")
    if frame is not None:
        per_group = rows_per_group(int(frame.estimated_size()), frame.height)
        frame.write_parquet(folder / "data.parquet", row_group_size=per_group)
    else:
        (folder / "data.parquet").hardlink_to(old_dir / "data.parquet")
    about = {**{key: old[key] for key in ("type", "format", "encoding")}, "base": old["digest"]}
    chosen_now = {"shape": shape, "mapping": mapping} if request.action == "remap" else {}
    about |= {"reading": old.get("reading", {}) | chosen_now, "json_columns": old.get("json_columns", [])}
    options = ReadOptions(**old.get("reading", {})).model_copy(update={"shape": shape, "mapping": mapping})
    request = request.model_copy(update={"options": options})
    layout = FileLayout(**old.get("layout", {}))
    _describe(request, folder, about, layout, [], steps, progress)


def _try_repair(request: Request, folder: Path) -> None:
    """What the repairs would do, with some rows before and after."""
    old_dir = Path(request.version_dir or "")
    old = json.loads((old_dir / "version.json").read_text())
    data = old_dir / "data.parquet"
    frame, steps = repair(data, old["shape"], old["mapping"], request.repairs, num_examples=TRIED_EXAMPLES)
    tried = RepairPreview(num_rows=frame.height, num_rows_before=old["num_rows"], steps=steps)
    write_atomic(folder / "repairs.json", tried)


def _overlap(request: Request, folder: Path) -> None:
    """What two versions share. Raises `BadData` when they have no column of text in common."""
    ours, theirs = Path(request.version_dir or ""), Path(request.held_out_dir or "")
    about, their_about = (json.loads((version / "version.json").read_text()) for version in (ours, theirs))
    columns = [column for column in about["mapping"].values() if column in their_about["columns"]]
    if not columns:
        raise BadData("The two datasets share no column of text.", hint="Compare datasets of the same shape.")
    findings = overlap(ours / "data.parquet", theirs / "data.parquet", columns)
    write_atomic(folder / "report.json", ValidationReport(valid=True, findings=findings))


class Sample:
    """The first rows of `tables`; once it is iterated, `whole` tells whether there are no more."""

    def __init__(self, tables: Iterator[pa.Table], most: int) -> None:
        self._tables, self._most = tables, most
        self.num_rows, self.whole = 0, True

    def __iter__(self) -> Iterator[pa.Table]:
        for table in self._tables:
            left = self._most - self.num_rows
            if left <= 0 or table.num_rows > left:
                self.whole = False
            if left <= 0:
                break
            part = table if table.num_rows <= left else table.slice(0, left)
            self.num_rows += part.num_rows
            yield part
        if isinstance(self._tables, Generator):
            self._tables.close()  # readers report what they have found when they end


def write_tables(tables: Iterator[pa.Table], path: Path, max_rows: int, progress: Progress) -> None:
    """Store the rows. Raises `TooLarge` beyond `max_rows`, `BadData` when there are none."""
    writer: pq.ParquetWriter | None = None
    total = 0
    try:
        for table in _ahead(tables):
            writer = writer or pq.ParquetWriter(
                path, table.schema, compression="zstd", compression_level=1, use_dictionary=False
            )
            total += table.num_rows
            if total > max_rows:
                raise TooLarge(
                    f"The file has more than {max_rows} rows.", hint="Split it, or raise TUNESMITH_MAX_ROWS."
                )
            writer.write_table(table, row_group_size=rows_per_group(table.nbytes, table.num_rows))
            progress(min(0.5, 0.05 + total / 2_000_000), "reading")
    finally:
        if writer:
            writer.close()
    if total == 0:
        raise BadData("The file has no rows.", hint="Put at least one row below the header.")


def rows_per_group(size_bytes: int, num_rows: int) -> int:
    """Rows of one row group, for rows that take `size_bytes` in memory."""
    return max(64, min(ROW_GROUP_ROWS, ROW_GROUP_BYTES * num_rows // max(1, size_bytes)))


def _ahead(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """The same tables; the next one is read while this one is used."""
    with ThreadPoolExecutor(1) as reader:
        following = reader.submit(next, tables, None)
        while (table := following.result()) is not None:
            following = reader.submit(next, tables, None)
            yield table


def content_digest(data: Path, shape: str, mapping: dict[str, str], reading: dict[str, Any]) -> str:
    """SHA-256 over the column names and types, every row as JSON, and how it is read: equal content, equal name,
    whatever the file's layout. `reading`: what was said of the file, if anything."""
    digest = hashlib.sha256()
    if said := {name: value for name, value in reading.items() if name not in ("shape", "mapping")}:
        digest.update(json.dumps(said, sort_keys=True).encode())
    with pq.ParquetFile(data) as file:
        columns = [[field.name, str(field.type).removeprefix("large_")] for field in file.schema_arrow]
        digest.update(json.dumps([columns, shape, sorted(mapping.items())]).encode())
        for batch in file.iter_batches(batch_size=BATCH_ROWS):
            frame = pl.DataFrame(pl.from_arrow(batch))
            digest.update(frame.write_ndjson().encode())
    return digest.hexdigest()


def _describe(
    request: Request,
    folder: Path,
    about: dict[str, Any],
    layout: FileLayout,
    findings: list[Finding],
    steps: list[RepairStep],
    progress: Progress,
    lines: Callable[[Sequence[int]], Sequence[int]] | None = None,
) -> None:
    data = folder / "data.parquet"
    progress(0.55, "recognising")
    with pq.ParquetFile(data) as file:
        names = file.schema_arrow.names
        first = next(file.iter_batches(batch_size=1)).to_pylist()[0]
        num_rows = file.metadata.num_rows
    shape, mapping, missing = _shape(request.options, names, first, about)
    is_whole = request.action == "ingest" and not request.sample_rows
    find_splits(data, names, request.options.split, layout, must=is_whole)
    if layout.split_column:
        findings = [*findings, splits_found(layout)]
    progress(0.6, "profiling")
    limits = request.limits
    with ThreadPoolExecutor(1) as beside:
        digest = beside.submit(content_digest, data, shape, mapping, about["reading"])
        profile = statistics(data)
        progress(0.75, "validating")
        report = validate(
            data,
            shape,
            mapping,
            missing,
            findings,
            max_context_tokens=limits.max_context_tokens,
            tokenizer_path=limits.tokenizer,
            split_column=layout.split_column,
        )
        if lines is not None:
            name_lines(report.findings, lines)
        progress(0.9, "naming")
    version = {
        "digest": digest.result(),
        "num_rows": num_rows,
        "num_columns": len(names),
        "columns": names,
        "size_bytes": data.stat().st_size,
        "shape": shape,
        "mapping": mapping,
        **about,
        "layout": layout.model_dump(),
        "changes": [step.model_dump() for step in steps],
        "num_errors": sum(f.level == "error" for f in report.findings),
        "num_warnings": sum(f.level == "warning" for f in report.findings),
    }
    write_atomic(folder / "report.json", report)
    write_atomic(folder / "statistics.json", json.dumps(profile, default=str))
    write_atomic(folder / "version.json", version)
    progress(1.0, "done")


def name_lines(findings: list[Finding], lines: Callable[[Sequence[int]], Sequence[int]]) -> None:
    """Put beside the rows that findings name the lines of the file where they begin, unless these are the same numbers."""
    numbers = sorted({row for finding in findings if not finding.lines for row in finding.rows})
    if not numbers:
        return
    found = dict(zip(numbers, lines(numbers), strict=False))
    if all(row == line for row, line in found.items()):
        return
    for finding in findings:
        if not finding.lines:
            finding.lines = [found[row] for row in finding.rows if row in found]


def _shape(
    request: ReadOptions, names: list[str], first: dict[str, Any], about: dict[str, Any]
) -> tuple[str, dict[str, str], list[str]]:
    """What the user said, else what is recognised."""
    if request.shape:
        if request.shape not in SHAPES:
            raise InvalidInput(f"There is no row shape {request.shape!r}.", hint=f"Choose one of: {', '.join(SHAPES)}.")
        shape = SHAPES[request.shape]
        mapping = request.mapping or recognise(names, first).mapping
        for role, column in mapping.items():
            if role not in shape.roles:
                raise InvalidInput(
                    f"Shape {shape.name} has no role {role!r}.", hint=f"Its roles are: {', '.join(shape.roles) or 'none'}.",
                    details=[{"loc": f"mapping.{role}", "message": "unknown role"}],
                )  # fmt: skip
            if column not in names:
                raise InvalidInput(
                    f"There is no column {column[:80]!r}.", hint=f"The columns are: {', '.join(names[:20])}.",
                    details=[{"loc": f"mapping.{role}", "message": "unknown column"}],
                )  # fmt: skip
        if about["type"] in ("text", "tabular"):
            about["type"] = "tabular" if shape.name == "tabular" else "text"
        return shape.name, mapping, [role for role in shape.required if role not in mapping]
    if about["type"] in ("image", "audio", "video"):
        return about["type"], {role: role for role in ("media", "label") if role in names}, []
    found = recognise(names, first)
    about["type"] = "tabular" if found.shape == "tabular" else "text"
    return found.shape, found.mapping, found.missing
