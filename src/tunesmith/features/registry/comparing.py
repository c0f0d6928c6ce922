"""Versions against each other: side by side, and each against the one before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tunesmith.core.errors import InvalidInput
from tunesmith.features.registry import listing
from tunesmith.features.registry.numbers import higher_is_better, numbers
from tunesmith.features.registry.repository import VersionRepository
from tunesmith.features.registry.service import find_version
from tunesmith.features.registry.tables import VersionRow
from tunesmith.schemas.common import Page
from tunesmith.schemas.registry import ChangelogEntry, Difference, VersionComparison
from tunesmith.storage.database import Session

MOST = 6
LINEAGE = (
    "method", "job_id", "job_name", "base_model", "base_revision", "dataset_name", "dataset_id", "dataset_digest", "code_version",
    "parent_version",
)  # fmt: skip
TOLD = ("method", "base_model", "base_revision", "dataset_name", "dataset_digest", "code_version")
"""Parts of the lineage that a changelog tells when they change."""


def compare(session: Session, refs: Sequence[str]) -> VersionComparison:
    """Two to six versions side by side, of one name or of several. Raises `NotFound`, `InvalidInput`."""
    if not 2 <= len(refs) <= MOST:
        raise InvalidInput(
            f"Between 2 and {MOST} versions can be compared, not {len(refs)}.",
            details=[{"loc": "refs", "message": f"2 to {MOST}"}],
        )
    rows = [find_version(session, ref) for ref in refs]
    return VersionComparison(
        versions=listing.read_all(session, rows),
        metrics=metric_differences(rows),
        hyperparameters=differences([_flat(row.hyperparameters) for row in rows]),
        lineage=differences([{name: row.lineage.get(name) for name in LINEAGE} for row in rows]),
        architecture=differences([_about(row) for row in rows]),
        files=differences([{name: about["sha256"] for name, about in row.files.items()} for row in rows]),
    )


def diff(session: Session, old: str, new: str) -> VersionComparison:
    """What changed from one version to another: only what differs. Raises `NotFound`, `InvalidInput`."""
    found = compare(session, [old, new])
    parts = ("metrics", "hyperparameters", "lineage", "architecture", "files")
    return found.model_copy(update={part: [item for item in getattr(found, part) if item.differs] for part in parts})


def changelog(session: Session, name: str, *, cursor: int | None, limit: int) -> Page[ChangelogEntry]:
    """What each version changed against the one before, the highest first. Raises `NotFound`."""
    listing.named(session, name)
    versions = VersionRepository(session)
    rows, after = versions.page_of(name, cursor=cursor, limit=limit)
    befores = [*rows[1:], versions.before(rows[-1])] if rows else []
    read = listing.read_all(session, rows)
    items = []
    for row, before, shown in zip(rows, befores, read, strict=True):
        pair = [before, row] if before else []
        items.append(
            ChangelogEntry(
                version=row.version,
                ref=shown.ref,
                before=before.version if before else None,
                created_at=row.created_at,
                owner=row.owner,
                stage=shown.stage,
                aliases=shown.aliases,
                notes=row.notes,
                metrics=[item for item in metric_differences(pair) if item.delta is not None],
                changes=[item for item in differences([_told(each) for each in pair]) if item.differs],
            )
        )
    return Page(items=items, next_cursor=after)


def metric_differences(rows: Sequence[VersionRow]) -> list[Difference]:
    """Every number of any of them; scores of an evaluation under their short names only."""
    found = [{name: value for name, value in numbers(row).items() if "/" not in name} for row in rows]
    return [_with_best(item, rows) for item in differences(found)]


def differences(parts: Sequence[dict[str, Any]]) -> list[Difference]:
    """One entry for each field that any has, by name."""
    names = sorted({name for part in parts for name in part})
    found = []
    for name in names:
        values = [part.get(name) for part in parts]
        found.append(Difference(field=name, values=values, differs=any(value != values[0] for value in values)))
    return found


def _with_best(item: Difference, rows: Sequence[VersionRow]) -> Difference:
    known = {place: value for place, value in enumerate(item.values) if value is not None}
    higher = next((h for row in rows if (h := higher_is_better(item.field, row)) is not None), None)
    if len(known) == len(rows) == 2:
        item.delta = item.values[-1] - item.values[0]
        item.better = None if higher is None or item.delta == 0 else (item.delta > 0) == higher
    if higher is not None and item.differs and len(known) > 1:
        item.best = (max if higher else min)(known, key=lambda place: known[place])
    return item


def _about(row: VersionRow) -> dict[str, Any]:
    return {**row.architecture, "kind": row.kind, "num_parameters": row.num_parameters, "size_bytes": row.size_bytes}


def _told(row: VersionRow) -> dict[str, Any]:
    return {**{name: row.lineage.get(name) for name in TOLD}, **_flat(row.hyperparameters)}


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted names."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value
    return found
