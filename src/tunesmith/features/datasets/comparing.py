"""Two versions compared in a child process, while the request that asks for it waits outside of any transaction."""

from __future__ import annotations

import contextlib
import json
import tempfile
import threading
from pathlib import Path

from tunesmith.core.errors import BadData, TooLarge, Unavailable
from tunesmith.core.job_dir import write_atomic
from tunesmith.features.datasets import files
from tunesmith.features.datasets.child import Child
from tunesmith.features.datasets.service import Datasets
from tunesmith.live.bus import Bus
from tunesmith.schemas.datasets import ValidationReport
from tunesmith.settings import Settings
from tunesmith.storage.database import Database

LIMIT_S = 300.0
"""Longest comparison, seconds."""
WAIT_S = 2.0
"""Seconds that a request waits for the comparison of another."""
_ONE_AT_A_TIME = threading.Lock()
"""Each may need `dataset_memory_bytes`."""
_under_way: set[Child] = set()


def stop() -> None:
    """The server ends: so does the comparison, whose request would hold it up."""
    for child in list(_under_way):
        child.kill()


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
    if not _ONE_AT_A_TIME.acquire(timeout=WAIT_S):
        raise Unavailable("Another comparison is under way.", hint="Try again in a moment.")
    try:
        folders = files.version_dir(settings, dataset_id, ours), files.version_dir(settings, other_id, theirs)
        report = _compare(settings, *folders)
    finally:
        _ONE_AT_A_TIME.release()
    with contextlib.suppress(FileNotFoundError):  # the dataset was deleted meanwhile
        write_atomic(kept, report)
    return report


def _compare(settings: Settings, version: Path, held_out: Path) -> ValidationReport:
    with tempfile.TemporaryDirectory(prefix="tunesmith-overlap-") as folder:
        work = Path(folder)
        request = {
            "action": "overlap", "version_dir": str(version), "held_out_dir": str(held_out), "out_dir": str(work / "out"),
        }  # fmt: skip
        child = Child(settings, request, work)
        too_long = threading.Timer(LIMIT_S, child.kill)
        too_long.daemon = True
        too_long.start()
        _under_way.add(child)
        try:
            for _ in child.progress():
                pass
            error = child.end()
        finally:
            child.kill()
            too_long.cancel()
            _under_way.discard(child)
        if error is None:
            return ValidationReport.model_validate(json.loads((work / "out" / "report.json").read_bytes()))
    if error["error"] == BadData().code:
        raise BadData(error["message"], hint=error["hint"])
    if error["error"] == TooLarge().code:
        raise TooLarge(
            "The comparison needs more memory, or more time, than is allowed.",
            hint="Compare smaller datasets, or raise TUNESMITH_DATASET_MEMORY_BYTES.",
        )
    raise Unavailable("The datasets could not be compared.", hint="Try again; the server's log has the details.")
