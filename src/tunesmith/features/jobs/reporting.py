"""A job's report: the page that its worker has left, and what was measured of the model since."""

from __future__ import annotations

import contextlib
import os
from typing import Any

from tunesmith.core.errors import NotFound
from tunesmith.features.jobs import files
from tunesmith.features.jobs.repository import JobRepository
from tunesmith.features.registry import service as registry
from tunesmith.features.registry.numbers import read_scores
from tunesmith.recipes.blocks.report import Evaluated, with_evaluations
from tunesmith.settings import Settings
from tunesmith.storage.database import Session

PICTURES = {"confusion": "Right label and answer", "latency": "Time to the first token"}
"""Of an evaluation's pictures those that its table does not show already."""


def page(settings: Settings, session: Session, job_id: int) -> bytes:
    """The HTML page. The file itself stays as it was written. Raises `NotFound` before the job is done."""
    written = files.report(files.job_dir(settings, job_id))
    version = registry.of_job(session, job_id)
    if version is None or not version.scores:
        return written
    found = [_evaluated(settings, session, name, told) for name, told in sorted(version.scores.items())]
    return with_evaluations(written.decode(errors="replace"), found).encode()


def _evaluated(settings: Settings, session: Session, name: str, told: Any) -> Evaluated:
    about = told if isinstance(told, dict) else {}
    job_id, data = about.get("job_id"), about.get("dataset") or {}
    parts = [f"{data['num_rows']} rows of {data['name']}, version {data['digest'][:12]}"] if data else []
    parts += [f"evaluation {job_id}"] if job_id else []
    sentence = f"{', '.join(parts)}." if parts else ""
    return Evaluated(name, sentence[:1].upper() + sentence[1:], read_scores(told), _pictures(settings, session, job_id))


def _pictures(settings: Settings, session: Session, job_id: int | None) -> list[tuple[str, str]]:
    """Those of an evaluation that is still there and may be seen."""
    if job_id is None or JobRepository(session).find(job_id) is None:
        return []
    found = []
    for name, title in PICTURES.items():
        with contextlib.suppress(NotFound):
            with os.fdopen(files.artifact(files.job_dir(settings, job_id), f"evaluation/{name}.svg")) as file:
                _, tag, rest = file.read().partition("<svg")
            found.append((title, tag + rest))
    return found
