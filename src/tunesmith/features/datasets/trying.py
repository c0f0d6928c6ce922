"""What would come of something, before it is done: an upload looked at, repairs tried."""

from __future__ import annotations

import json
from typing import Any

from tunesmith.core.errors import Conflict, TooLarge, Unavailable
from tunesmith.features.datasets import asking, files
from tunesmith.features.datasets.chosen_shape import check_reading
from tunesmith.features.datasets.rows import Reading, read_range
from tunesmith.features.datasets.service import Datasets, check_repairs, upload_path, upload_size
from tunesmith.live.bus import Bus
from tunesmith.schemas.datasets import RepairPreview, RepairRequest, UploadPreview
from tunesmith.schemas.read_options import ReadOptions
from tunesmith.settings import Settings
from tunesmith.storage.database import Database

SAMPLE_ROWS, SHOWN_ROWS, SHOWN_CHARS = 20_000, 20, 500
LOOK_S, TRY_S, WAIT_S = 60.0, 120.0, 60.0
"""Seconds: the longest look at an upload, the longest trial of repairs, the longest wait for one's turn."""


def look(settings: Settings, database: Database, upload_id: str, options: ReadOptions) -> UploadPreview:
    """An upload's first rows and what validation finds in them.

    Raises `Conflict` while bytes are missing, and what is wrong with the file: `BadData`, `UnsupportedFormat`, `TooLarge`.
    """
    check_reading(options)
    with database.unit_of_work(readonly=True) as session:
        upload = Datasets(settings, session, Bus()).rows.upload(upload_id)
    have = upload_size(settings, upload_id)
    if have != upload.size_bytes:
        raise Conflict(f"{have} of {upload.size_bytes} bytes have come.", hint=f"Go on at offset {have}, then look.")
    request: dict[str, Any] = {
        "action": "ingest", "source": str(upload_path(settings, upload_id)), "file_name": upload.name,
        "sample_rows": SAMPLE_ROWS, "options": options.given(),
        "limits": {"max_rows": settings.max_rows, "max_bytes": settings.max_upload_bytes},
    }  # fmt: skip
    try:
        with asking.asked(settings, request, asking.LOOKING, wait_s=WAIT_S, limit_s=LOOK_S) as out:
            about, report, statistics = (
                json.loads((out / f"{name}.json").read_bytes()) for name in ("version", "report", "statistics")
            )
            read_as = Reading(about["shape"], about["mapping"])
            first = read_range(out / "data.parquet", 0, SHOWN_ROWS, SHOWN_CHARS, read_as)
    except TooLarge as error:
        if "seconds" not in error.message:
            raise
        raise TooLarge(
            f"The file is too large to look at within {LOOK_S:g} seconds.",
            hint="Save it as it is: it is read in the background.",
        ) from None
    except Unavailable:
        upload_size(settings, upload_id)  # raises `NotFound` when it was saved or cancelled meanwhile
        raise
    fields = ("type", "format", "encoding", "layout", "shape", "mapping", "columns", "num_rows", "whole")
    told = {field: about[field] for field in fields}
    return UploadPreview(rows=first.rows, talks=first.talks, report=report, statistics=statistics, **told)


def try_repairs(
    settings: Settings, database: Database, dataset_id: int, digest: str | None, repairs: RepairRequest
) -> RepairPreview:
    """What the repairs would change, with some rows before and after. Raises `TooLarge` when that takes too long."""
    check_repairs(repairs)
    with database.unit_of_work(readonly=True) as session:
        version = Datasets(settings, session, Bus()).version(dataset_id, digest).digest
    request = {
        "action": "try_repair",
        "version_dir": str(files.version_dir(settings, dataset_id, version)),
        "repairs": repairs.model_dump(),
    }
    with asking.asked(settings, request, asking.LOOKING, wait_s=WAIT_S, limit_s=TRY_S) as out:
        return RepairPreview.model_validate_json((out / "repairs.json").read_bytes())
