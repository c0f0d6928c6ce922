"""The rules of datasets."""

from __future__ import annotations

import json
import os
import re
import uuid
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from tunesmith.core.clock import utc_now
from tunesmith.core.errors import Conflict, InUse, InvalidInput
from tunesmith.core.job_dir import fsync_dir
from tunesmith.core.job_spec import DatasetRef
from tunesmith.core.plain_text import CONTROL
from tunesmith.dataprep.shapes import SHAPES
from tunesmith.features.accounts.quotas import check_storage
from tunesmith.features.datasets import files
from tunesmith.features.datasets.chosen_shape import check_reading, find_shape
from tunesmith.features.datasets.repository import SORTS, DatasetRepository, no_upload
from tunesmith.features.datasets.tables import DatasetRow, DatasetVersionRow, UploadRow
from tunesmith.live.bus import Bus
from tunesmith.schemas.common import Page
from tunesmith.schemas.datasets import (
    DatasetRead,
    DatasetStatistics,
    DatasetStatus,
    DatasetUpdate,
    EditRequest,
    RepairRequest,
    UploadCommit,
    ValidationReport,
    VersionRead,
)
from tunesmith.schemas.read_options import FileLayout, ReadOptions
from tunesmith.settings import Settings
from tunesmith.storage.database import after_commit

if TYPE_CHECKING:
    from pathlib import Path

    from tunesmith.storage.database import Session

UPLOADS_KEPT = timedelta(days=7)
"""How long an upload may take, and wait for its commit."""
MAX_TAG_CHARS = 50
SAME_COLUMNS = frozenset({"shape", "mapping", "encoding", "split"})
"""Reading options under which a file keeps its columns, so that a mapping stays."""
REPAIR_NAMES = tuple(name for name in RepairRequest.model_fields if not name.endswith("_chars"))


class Datasets:
    """Datasets within one unit of work."""

    def __init__(self, settings: Settings, session: Session, bus: Bus) -> None:
        self.settings, self.session, self.bus = settings, session, bus
        self.rows = DatasetRepository(session)

    # -- making -----------------------------------------------------------------------------------------------------

    def create(
        self,
        received: files.Received,
        file_name: str,
        name: str | None = None,
        description: str = "",
        *,
        tags: Iterable[str] = (),
        options: ReadOptions | None = None,
    ) -> DatasetRow:
        """A dataset from a received file; its processing begins once this is committed. Raises `QuotaExceeded`, and
        `InvalidInput` for options that cannot be."""
        options = options or ReadOptions()
        check_reading(options)
        check_storage(self.settings, self.session, received.size_bytes)
        shown = plain_name(file_name)
        wanted = (
            plain_name(name)
            if name
            else re.sub(r"(\.(gz|zst|csv|tsv|jsonl?|parquet|xlsx|txt|zip|conll))+$", "", shown, flags=re.I)
        )
        now = utc_now()
        row = DatasetRow(
            name=self._free_name(wanted or "dataset"), description=description[:10_000], tags=clean_tags(tags), num_rows=0,
            status=DatasetStatus.PROCESSING, progress=0.0, file_name=shown, size_bytes=received.size_bytes,
            sha256=received.sha256, task={"action": "ingest", "options": options.given()},
            created_at=now, updated_at=now,
        )  # fmt: skip
        self.rows.add(row)
        files.take(self.settings, row.id, received)
        self._changed(row)
        return row

    def _free_name(self, wanted: str) -> str:
        wanted = wanted[:200]
        taken = self.rows.names_like(wanted)
        number, name = 1, wanted
        while name in taken:
            number += 1
            name = f"{wanted} ({number})"
        return name

    def _changed(self, row: DatasetRow) -> None:
        row.updated_at = utc_now()
        message = {"dataset_id": row.id, "status": row.status, "progress": row.progress}
        after_commit(self.session, lambda: self.bus.publish("datasets", message))

    # -- reading ----------------------------------------------------------------------------------------------------

    def read(self, rows: Sequence[DatasetRow]) -> list[DatasetRead]:
        """The wire form of each."""
        versions = self.rows.newest_versions(rows)
        return [self._read_one(row, versions[row.id].about if row.id in versions else {}) for row in rows]

    def page(
        self,
        *,
        kind: str | None = None,
        status: str | None = None,
        tag: str | None = None,
        text: str | None = None,
        sort: str = "created",
        order: str | None = None,
        cursor: int | None = None,
        limit: int = 50,
    ) -> Page[DatasetRead]:
        """One page of a list; names come in alphabetical order and all else the greatest first, unless `order` says asc
        or desc. Raises `BadRequest` when the cursor's dataset is gone."""
        query = self.rows.filtered(kind=kind, status=status, tag=tag, text=text)
        descending = (order or ("asc" if sort == "name" else "desc")) == "desc"
        rows, following = self.rows.page(query, cursor=cursor, limit=limit, by=SORTS[sort], descending=descending)
        return Page(items=self.read(rows), next_cursor=following, total=self.rows.count(query))

    def _read_one(self, row: DatasetRow, about: dict[str, Any]) -> DatasetRead:
        fields = ("id", "name", "description", "tags", "owner", "visibility", "type", "status", "progress", "error", "file_name", "size_bytes", "sha256",
                  "version", "created_at", "updated_at")  # fmt: skip
        return DatasetRead(
            **{field: getattr(row, field) for field in fields},
            format=about.get("format"), encoding=about.get("encoding"), shape=about.get("shape"), mapping=about.get("mapping", {}),
            reading=ReadOptions(**about.get("reading", {})), layout=FileLayout(**about.get("layout", {})), num_rows=about.get("num_rows"),
            num_columns=about.get("num_columns"), columns=about.get("columns", []), num_errors=about.get("num_errors", 0),
            num_warnings=about.get("num_warnings", 0),
        )  # fmt: skip

    def version(self, dataset_id: int, digest: str | None) -> DatasetVersionRow:
        """That version, or the newest. Raises `NotFound`, or `Conflict` when none is ready yet."""
        row = self.rows.get(dataset_id)
        if digest is None and row.version is None:
            if row.status == DatasetStatus.FAILED:
                raise Conflict(f"Dataset {dataset_id} could not be read.", hint=(row.error or {}).get("message", ""))
            raise Conflict(
                f"Dataset {dataset_id} is still being processed.", hint="Try again when its status is ready."
            )
        return self.rows.version(dataset_id, digest or str(row.version))

    def _stored(self, dataset_id: int, digest: str | None, file: str) -> Any:
        version = self.version(dataset_id, digest)
        return json.loads((files.version_dir(self.settings, dataset_id, version.digest) / file).read_bytes())

    def validation(self, dataset_id: int, digest: str | None) -> ValidationReport:
        return ValidationReport.model_validate(self._stored(dataset_id, digest, "report.json"))

    def statistics(self, dataset_id: int, digest: str | None) -> DatasetStatistics:
        return DatasetStatistics.model_validate(self._stored(dataset_id, digest, "statistics.json"))

    def data(self, dataset_id: int, digest: str | None) -> Path:
        """The file that holds the rows of that version, or of the newest. Raises like `version`."""
        version = self.version(dataset_id, digest)
        return files.version_dir(self.settings, dataset_id, version.digest) / "data.parquet"

    def version_reads(self, dataset_id: int) -> list[VersionRead]:
        self.rows.get(dataset_id)
        return [version_read(row) for row in self.rows.versions(dataset_id)]

    # -- changing ---------------------------------------------------------------------------------------------------

    def update(self, dataset_id: int, changes: DatasetUpdate) -> DatasetRow:
        """Edit; another shape or mapping makes a new version of this one, any other reading option one of the original file."""
        row = self.rows.get(dataset_id, for_update=True)
        if changes.name is not None and plain_name(changes.name) != row.name:
            wanted = plain_name(changes.name)
            if not wanted:
                raise InvalidInput("The name is empty.", details=[{"loc": "name", "message": "empty"}])
            if wanted in self.rows.names_like(wanted):
                raise Conflict(f"The dataset name {wanted!r} is taken.", hint="Choose another name.")
            row.name = wanted
        if changes.description is not None:
            row.description = changes.description
        if changes.tags is not None:
            row.tags = clean_tags(changes.tags)
        if changes.visibility is not None:
            row.visibility = changes.visibility
        if changes.model_fields_set & set(ReadOptions.model_fields) - {"shape", "mapping"}:
            self._read_again(row, changes)
        elif changes.shape is not None or changes.mapping is not None:
            base = self.version(dataset_id, None)
            self._check_mapping(base.about, changes)
            shape = changes.shape or base.about["shape"]
            given = ReadOptions(shape=shape, mapping=changes.mapping).given()
            self._schedule(row, {"action": "remap", "options": given, "base": base.digest})
        self._changed(row)
        return row

    def _read_again(self, row: DatasetRow, changes: DatasetUpdate) -> None:
        """The original with other options; those that are not among `changes` stay, null goes back to what is detected."""
        tried = (row.error or {}).get("options", {})
        before = self.rows.version(row.id, row.version).about.get("reading", {}) if row.version else tried
        changed = {name: getattr(changes, name) for name in changes.model_fields_set & set(ReadOptions.model_fields)}
        if not set(changed) <= SAME_COLUMNS:
            before = {name: value for name, value in before.items() if name not in ("shape", "mapping")}
        options = ReadOptions(**{**before, **changed})
        check_reading(options)
        self._schedule(row, {"action": "ingest", "options": options.given(), "again": True})

    def _check_mapping(self, about: dict[str, Any], changes: DatasetUpdate) -> None:
        shape = find_shape(changes.shape or about["shape"])
        problems = [
            {
                "loc": f"mapping.{role}",
                "message": "unknown role" if role not in shape.roles else f"no column {column[:80]!r}",
            }
            for role, column in (changes.mapping or {}).items()
            if role not in shape.roles or column not in about["columns"]
        ]
        if problems:
            roles = ", ".join(shape.roles) or "none"
            raise InvalidInput(
                f"The mapping does not fit shape {shape.name}.",
                hint=f"Roles: {roles}. Columns: {', '.join(about['columns'][:20])}.", details=problems,
            )  # fmt: skip

    def repair(self, dataset_id: int, digest: str | None, request: RepairRequest) -> DatasetRow:
        """Make a new version with the chosen repairs."""
        row = self.rows.get(dataset_id, for_update=True)
        base = self.version(dataset_id, digest)
        check_repairs(request)
        self._schedule(row, {"action": "repair", "repairs": request.model_dump(), "base": base.digest})
        self._changed(row)
        return row

    def edit(self, dataset_id: int, digest: str | None, request: EditRequest) -> DatasetRow:
        """Make a new version with some cells changed and some rows gone."""
        row = self.rows.get(dataset_id, for_update=True)
        base = self.version(dataset_id, digest)
        if not request.cells and not request.drop_rows:
            raise InvalidInput("There is nothing to change.", hint="Name some cells or some rows.")
        about = base.about
        problems = [
            {"loc": f"cells.{n}", "message": f"row {cell.row}, column {cell.column[:80]!r} is not there"}
            for n, cell in enumerate(request.cells)
            if cell.row > about["num_rows"] or cell.column not in about["columns"]
        ]
        problems += [
            {"loc": f"drop_rows.{n}", "message": f"row {number} is not there"}
            for n, number in enumerate(request.drop_rows)
            if number > about["num_rows"]
        ]
        if problems:
            raise InvalidInput(
                f"{len(problems)} of the changes are of cells or rows that are not there.",
                hint=f"Version {base.number} has rows 1 to {about['num_rows']} and the columns {', '.join(about['columns'][:20])}.",
                details=problems[:100],
            )
        self._schedule(row, {"action": "edit", "edits": request.model_dump(), "base": base.digest})
        self._changed(row)
        return row

    def restore(self, dataset_id: int, digest: str) -> DatasetRow:
        """Show an older version again; the newer ones stay. Undoes repairs, edits and mappings."""
        row = self.rows.get(dataset_id, for_update=True)
        version = self.rows.version(dataset_id, digest)
        if row.task is not None:
            raise Conflict(f"Dataset {row.id} is being processed.", hint="Try again when its status is ready.")
        row.version, row.type, row.num_rows = digest, version.about["type"], version.about["num_rows"]
        row.error = None
        self._changed(row)
        return row

    def retag(self, dataset_id: int, *, add: Iterable[str] = (), remove: Iterable[str] = ()) -> DatasetRow:
        row = self.rows.get(dataset_id, for_update=True)
        row.tags = clean_tags((set(row.tags) | set(clean_tags(add))) - set(clean_tags(remove)))
        self._changed(row)
        return row

    def _schedule(self, row: DatasetRow, task: dict[str, Any]) -> None:
        if row.task is not None:
            raise Conflict(f"Dataset {row.id} is being processed already.", hint="Try again when its status is ready.")
        row.task, row.status, row.progress, row.error, row.worker_id = task, DatasetStatus.PROCESSING, 0.0, None, None

    def delete(self, dataset_id: int, users: Callable[[Session, int], list[str]]) -> None:
        """Remove it and its files. Raises `InUse` while `users` names something that needs it."""
        row = self.rows.get(dataset_id, for_update=True)
        in_use = users(self.session, dataset_id)
        if in_use:
            raise InUse(f"Dataset {dataset_id} is used by {', '.join(in_use)}.", hint="Stop or finish that first.")
        self.session.delete(row)
        after_commit(self.session, lambda: files.remove(self.settings, dataset_id))
        after_commit(
            self.session, lambda: self.bus.publish("datasets", {"dataset_id": dataset_id, "status": "deleted"})
        )

    # -- what processing brings -------------------------------------------------------------------------------------

    def processed(self, row: DatasetRow, about: dict[str, Any], origin: str) -> None:
        """A version is in its place on disk: show it. The same content again is the same version."""
        known = {version.digest: version for version in self.rows.versions(row.id)}
        if about["digest"] not in known:
            number = max((version.number for version in known.values()), default=0) + 1
            self.session.add(
                DatasetVersionRow(
                    dataset_id=row.id,
                    digest=about["digest"],
                    number=number,
                    origin=origin,
                    about=about,
                    created_at=utc_now(),
                )
            )
        row.version, row.type, row.status, row.progress = about["digest"], about["type"], DatasetStatus.READY, 1.0
        row.num_rows = about["num_rows"]
        row.task = row.worker_id = row.error = None
        self._changed(row)

    def failed(self, row: DatasetRow, error: dict[str, Any]) -> None:
        """Processing ended badly. A dataset that has a version keeps it and stays ready, with the error shown; where it has none,
        the error keeps the options that were tried."""
        tried = {} if row.version else (row.task or {}).get("options") or {}
        row.error, row.task, row.worker_id = {**error, **({"options": tried} if tried else {})}, None, None
        row.status = DatasetStatus.READY if row.version else DatasetStatus.FAILED
        self._changed(row)

    # -- resumable uploads ------------------------------------------------------------------------------------------

    def begin_upload(self, name: str, size_bytes: int) -> UploadRow:
        check_storage(self.settings, self.session, size_bytes)
        files.check_size(self.settings, size_bytes)
        files.refuse_when_disk_is_low(self.settings)
        for old in self.rows.uploads_before(utc_now() - UPLOADS_KEPT):
            self.drop_upload(old.id)
        row = UploadRow(
            id=str(uuid.uuid4()), name=plain_name(name) or "upload", size_bytes=size_bytes, created_at=utc_now()
        )
        upload_path(self.settings, row.id).touch(mode=0o600)
        fsync_dir(self.settings.uploads_dir)
        self.session.add(row)
        return row

    def drop_upload(self, upload_id: str) -> None:
        """Forget an upload and its bytes."""
        path = upload_path(self.settings, self.rows.upload(upload_id).id)
        self.rows.forget_upload(upload_id)
        after_commit(self.session, lambda: path.unlink(missing_ok=True))

    def take_upload(self, upload_id: str, received: files.Received, commit: UploadCommit) -> DatasetRow:
        """A dataset from an upload that `whole_upload` has found good."""
        name = self.rows.upload(upload_id).name
        self.rows.forget_upload(upload_id)  # first, so that a quota does not count its bytes twice
        row = self.create(
            received,
            name,
            commit.name,
            commit.description,
            tags=commit.tags,
            options=ReadOptions(**commit.given()),
        )
        after_commit(self.session, lambda: received.path.unlink(missing_ok=True))
        return row


def check_repairs(request: RepairRequest) -> None:
    """Raises `InvalidInput` when nothing is chosen or bounds cross."""
    if not any(getattr(request, name) for name in REPAIR_NAMES):
        raise InvalidInput(
            "No repair is chosen.",
            hint=f"Set some of {', '.join(REPAIR_NAMES)}.",
        )
    if request.min_input_chars > request.max_input_chars or request.min_output_chars > request.max_output_chars:
        raise InvalidInput(
            "A least length is above its greatest length.",
            details=[{"loc": "min_input_chars", "message": "too large"}],
        )


def clean_tags(tags: Iterable[str]) -> list[str]:
    return sorted({tag.strip()[:MAX_TAG_CHARS].strip() for tag in tags if tag.strip()})


def whole_upload(settings: Settings, upload: UploadRow, sha256: str | None) -> files.Received:
    """The file, whole and as promised. Raises `Conflict` when bytes are missing, `InvalidInput` when they differ.

    Reads all of it, so no transaction should be open.
    """
    received = upload_size(settings, upload.id)
    if received != upload.size_bytes:
        raise Conflict(
            f"{received} of {upload.size_bytes} bytes have come.",
            hint=f"Go on at offset {received}, then commit again.",
        )
    path = upload_path(settings, upload.id)
    digest = files.hash_file(path)
    if sha256 is not None and sha256 != digest:
        raise InvalidInput(
            "The bytes that came have another SHA-256.",
            hint="Begin the upload again.",
            details=[{"loc": "sha256", "message": digest}],
        )
    return files.Received(path, received, digest)


def upload_size(settings: Settings, upload_id: str) -> int:
    """Bytes that have come. Raises `NotFound`."""
    try:
        return int(upload_path(settings, upload_id).stat().st_size)
    except FileNotFoundError:
        raise no_upload() from None


def upload_path(settings: Settings, upload_id: str) -> Path:
    """Raises `NotFound` for what is no upload id, so that no text of a request becomes a path."""
    try:
        return settings.uploads_dir / f"{uuid.UUID(upload_id)}.resumable"
    except ValueError:
        raise no_upload() from None


def plain_name(text: str) -> str:
    """A name for people: no folders, no control characters, at most 200 characters."""
    base = re.split(r"[/\\]", text)[-1]
    return CONTROL.sub("", base).strip()[:200]


def version_read(row: DatasetVersionRow) -> VersionRead:
    about = row.about
    fields = ("num_rows", "num_columns", "size_bytes", "shape", "mapping", "changes")
    return VersionRead(
        digest=row.digest,
        number=row.number,
        created_at=row.created_at,
        origin=row.origin,
        base=about.get("base"),
        **{f: about[f] for f in fields},
    )  # type: ignore[arg-type]


# -- for the jobs feature ---------------------------------------------------------------------------------------------


def training_ref(settings: Settings, session: Session, dataset_id: int, digest: str | None) -> DatasetRef:
    """What a job is told of the rows it learns from. Raises `NotFound`, or `Conflict` when none are ready."""
    datasets = Datasets(settings, session, Bus())
    row = datasets.rows.get(dataset_id)
    version = datasets.version(dataset_id, digest)
    about, layout = version.about, FileLayout(**version.about.get("layout", {}))
    missing = [role for role in SHAPES[about["shape"]].required if role not in about["mapping"]]
    if missing:
        raise Conflict(
            f"Dataset {dataset_id} is missing its required {missing[0]!r} column.",
            hint=f"Say which column holds it: PATCH /datasets/{dataset_id} with a mapping. Columns: {', '.join(about['columns'][:20])}.",
        )
    path = files.version_dir(settings, dataset_id, version.digest) / "data.parquet"
    return DatasetRef(
        name=row.name, path=os.fspath(path), digest=version.digest, shape=about["shape"], mapping=about["mapping"],
        num_rows=about["num_rows"], split_column=layout.split_column, num_held_out=layout.num_held_out,
    )  # fmt: skip


def version_report(settings: Settings, session: Session, dataset_id: int, digest: str) -> ValidationReport:
    """What validation found in a version: bad rows, and lengths by role."""
    return Datasets(settings, session, Bus()).validation(dataset_id, digest)
