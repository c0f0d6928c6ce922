"""The rows that a job learns from: one immutable version of a dataset, and what is known of its lengths."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from tunesmith.core.job_spec import DatasetRef
from tunesmith.recipes.plans import Lengths
from tunesmith.recipes.row_check import BadRows, known_bad_rows
from tunesmith.settings import Settings
from tunesmith.storage.database import Session

TOKENS_AROUND = 16
"""What a chat template adds to a row, about."""
MARGIN = 1.5
"""Lengths that were guessed from characters are raised by this, since a row that is cut loses its answer's end."""


class TrainingData(NamedTuple):
    """Where the rows are, and how long."""

    ref: DatasetRef
    lengths: Lengths | None
    bad: BadRows | None = None
    """Rows that cannot be used."""


def find_data(settings: Settings, session: Session, dataset_id: int, digest: str | None) -> TrainingData:
    """The version `digest`, or the newest. Raises `NotFound`, or `Conflict` when it is not ready."""
    from tunesmith.features.datasets import service as datasets

    ref = datasets.training_ref(settings, session, dataset_id, digest)
    ref = ref.model_copy(update={"path": str(Path(ref.path).resolve())})  # the worker runs in a folder of its own
    report = datasets.version_report(settings, session, dataset_id, ref.digest)
    return TrainingData(
        ref, row_lengths(report.lengths), known_bad_rows([finding.model_dump() for finding in report.findings])
    )


def row_lengths(by_role: dict[str, Any]) -> Lengths | None:
    """Tokens in a whole row, from the validation report's lengths by role; an upper bound where roles are added up."""
    roles = [role for role in by_role.values() if isinstance(role, dict) and "tokens" in role]
    if not roles:
        return None
    margin = MARGIN if any(str(role.get("tokens_from", "")).startswith("about") for role in roles) else 1.0

    def total(name: str) -> int:
        return int(sum(role["tokens"].get(name) or 0 for role in roles) * margin) + TOKENS_AROUND

    mean = sum(role["tokens"].get("mean") or 0.0 for role in roles) + TOKENS_AROUND
    return Lengths(median=total("p50"), p99=total("p99"), longest=total("max"), mean=mean)
