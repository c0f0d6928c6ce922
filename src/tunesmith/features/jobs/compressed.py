"""What a compression has left, as versions of the registry: one name for each format, such as `support-bot-q4_k_m`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tunesmith.core.errors import DiskFull, TunesmithError
from tunesmith.core.job_status import JobStatus
from tunesmith.features.jobs import files, versions
from tunesmith.features.jobs.lifecycle import Lifecycle
from tunesmith.features.jobs.submission import folder_safe
from tunesmith.features.jobs.tables import JobRow
from tunesmith.features.jobs.versions import Found
from tunesmith.features.registry import service as registry
from tunesmith.features.registry.service import NewVersion
from tunesmith.live.bus import Bus
from tunesmith.recipes.catalog import get_recipe
from tunesmith.recipes.compress.report import entries_of
from tunesmith.settings import Settings
from tunesmith.storage.database import Database, Session

SCORES = {"perplexity": "check_perplexity", "perplexity_ratio": "perplexity_ratio", "tokens_per_s": "tokens_per_s"}
"""What was measured → its name at the version: a perplexity on the check's text is not one on held-out rows."""


def prepare(settings: Settings, database: Database, job_id: int) -> list[Found]:
    """Copy each format into the registry's store, outside of any transaction. Raises `DiskFull` or `OSError` when that may go
    well later."""
    with database.unit_of_work(readonly=True) as session:
        job = Lifecycle(session, Bus()).jobs.find(job_id)
        if job is None or job.status != JobStatus.COMPLETED or get_recipe(job.method).kind != "compression":
            return []
        source = versions.evaluated_version(session, job.model or "")
        plain = source.name if source else folder_safe((job.model or "model").partition("@")[0].rpartition("/")[2])
        described = [
            _described(job, entry, registry.name_for(session, f"{plain}-{entry['format']}", job.owner_id), source)
            for entry in entries_of(files.job_dir(settings, job.id).artifacts)
        ]
    return [_prepared(settings, new) for new in described]


def _described(job: JobRow, entry: dict[str, Any], name: str, source: Any) -> NewVersion:
    kind = "gguf" if entry["file"] else "model"
    lineage = {
        **(source.lineage if source else {}), "job_id": job.id, "job_name": job.name, "method": job.method,
        "base_model": job.model, "compressed_from": f"{source.name}@{source.version}" if source else job.model,
        "format": entry["format"],
    }  # fmt: skip
    return NewVersion(
        name=name, sources={kind: Path(entry["path" if entry["file"] else "folder"])}, kind=kind, job_id=job.id,
        base_model=job.model, lineage=lineage, hyperparameters={"format": entry["format"]},
        metrics={name: entry[score] for score, name in SCORES.items() if entry.get(score) is not None}, tags=[entry["format"]],
        owner_id=job.owner_id, owner=job.owner, visibility=job.visibility,
    )  # fmt: skip


def _prepared(settings: Settings, new: NewVersion) -> Found:
    try:
        return Found(new, registry.prepare(settings, new))
    except DiskFull:
        raise
    except TunesmithError as error:
        return Found(None, None, error)


def register(settings: Settings, session: Session, life: Lifecycle, job: JobRow, found: list[Found]) -> None:
    """A version for each format; a format that cannot be registered is a notice on the job."""
    for one in found:
        versions.register(settings, session, life, job, one)
