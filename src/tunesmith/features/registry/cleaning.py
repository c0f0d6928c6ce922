"""Clean-up by policy: never what has an alias, is in production, or is used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta

from tunesmith.core.acting import current
from tunesmith.core.clock import utc_now
from tunesmith.features.registry.changing import take_away, why_needed
from tunesmith.features.registry.numbers import parse_condition
from tunesmith.features.registry.repository import NameRepository, VersionRepository
from tunesmith.features.registry.tables import VersionRow
from tunesmith.schemas.registry import Cleaned, CleanItem, CleanPolicy, KeptItem
from tunesmith.settings import Settings
from tunesmith.storage.database import Session


def clean(settings: Settings, session: Session, policy: CleanPolicy, used_by: Mapping[int, Sequence[str]]) -> Cleaned:
    """What goes, or would go. Only what who asks may change. Raises `InvalidInput` for what is no condition."""
    NameRepository(
        session
    ).lock()  # nothing gets an alias meanwhile: SQLite has one writer, and aliases wait for the lock
    rows = [row for row in VersionRepository(session).all() if current().may_change(row.owner_id)]
    chosen = choose(rows, policy)
    needed = why_needed(settings, session, chosen, used_by)
    going = [row for row in chosen if row.id not in needed]
    freed = _only_theirs(going, VersionRepository(session).all(everyones=True))
    done = Cleaned(
        dry_run=policy.dry_run,
        removed=[CleanItem(ref=_ref(row), size_bytes=row.size_bytes, created_at=row.created_at) for row in going],
        kept=[KeptItem(ref=_ref(row), why=", ".join(needed[row.id])) for row in chosen if row.id in needed],
        freed_bytes=freed,
    )
    if not policy.dry_run:
        for row in going:
            take_away(settings, session, row)
    return done


def choose(rows: Sequence[VersionRow], policy: CleanPolicy) -> list[VersionRow]:
    """Versions to which all that the policy says applies; none when it says nothing."""
    condition = parse_condition(policy.metric) if policy.metric else None
    says_something = policy.keep_last is not None or policy.older_than_days is not None or condition or policy.stage
    if not says_something:
        return []
    found = [row for row in rows if policy.name in (None, row.name)]
    if policy.keep_last is not None:
        kept: dict[str, int] = {}
        highest_first = sorted(found, key=lambda row: -row.number)
        found = []
        for row in highest_first:
            kept[row.name] = kept.get(row.name, 0) + 1
            found += [row] if kept[row.name] > policy.keep_last else []
    if policy.older_than_days is not None:
        before = utc_now() - timedelta(days=policy.older_than_days)
        found = [row for row in found if row.created_at < before]
    if policy.stage is not None:
        found = [row for row in found if row.stage == policy.stage]
    if condition is not None:
        found = [row for row in found if condition.holds(row)]
    return sorted(found, key=lambda row: (row.name, row.number))


def _only_theirs(going: Sequence[VersionRow], everything: Sequence[VersionRow]) -> int:
    """Bytes of contents that only the versions have that go."""
    ids = {row.id for row in going}
    stays = {about["sha256"] for row in everything if row.id not in ids for about in row.files.values()}
    goes = {about["sha256"]: int(about["size_bytes"]) for row in going for about in row.files.values()}
    return sum(size for sha256, size in goes.items() if sha256 not in stays)


def _ref(row: VersionRow) -> str:
    return f"{row.name}@{row.version}"
