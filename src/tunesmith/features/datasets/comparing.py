"""Two versions compared."""

from __future__ import annotations

import contextlib
import json

from tunesmith.core.errors import TooLarge
from tunesmith.core.job_dir import write_atomic
from tunesmith.features.datasets import asking, files
from tunesmith.features.datasets.service import Datasets
from tunesmith.live.bus import Bus
from tunesmith.schemas.datasets import ValidationReport
from tunesmith.settings import Settings
from tunesmith.storage.database import Database

LIMIT_S = 300.0
"""Longest comparison, seconds."""
WAIT_S = 2.0
"""Seconds that a request waits for the comparison of another."""


def overlap(
    settings: Settings, database: Database, dataset_id: int, digest: str | None, other_id: int
) -> ValidationReport:
    """Rows of `other_id`'s newest version that this version has too. Versions never change, so the answer is kept.

    Raises `BadData` when they share no text column, `TooLarge` when it takes too much time or memory, `Unavailable` when
    another comparison is under way or the child ends in an unknown way.
    """
    with database.unit_of_work(readonly=True) as session:
        datasets = Datasets(settings, session, Bus())
        ours, theirs = datasets.version(dataset_id, digest).digest, datasets.version(other_id, None).digest
    kept = files.dataset_dir(settings, dataset_id) / f"overlap-{ours[:32]}-{theirs[:32]}.json"
    with contextlib.suppress(FileNotFoundError):
        return ValidationReport.model_validate_json(kept.read_bytes())
    request = {
        "action": "overlap",
        "version_dir": str(files.version_dir(settings, dataset_id, ours)),
        "held_out_dir": str(files.version_dir(settings, other_id, theirs)),
    }
    try:
        with asking.asked(settings, request, asking.COMPARING, wait_s=WAIT_S, limit_s=LIMIT_S) as out:
            report = ValidationReport.model_validate(json.loads((out / "report.json").read_bytes()))
    except TooLarge:
        raise TooLarge(
            "The comparison needs more memory, or more time, than is allowed.",
            hint="Compare smaller datasets, or raise TUNESMITH_DATASET_MEMORY_BYTES.",
        ) from None
    with contextlib.suppress(FileNotFoundError):  # the dataset was deleted meanwhile
        write_atomic(kept, report)
    return report
