"""Moving aliases and stages, notes and tags, taking versions away. What it was made of never changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tunesmith.core.acting import Role, current
from tunesmith.core.errors import Conflict, InUse, InvalidInput, NotFound, PermissionDenied
from tunesmith.features.registry import listing, service
from tunesmith.features.registry.naming import check_alias
from tunesmith.features.registry.repository import AliasRepository, NameRepository, VersionRepository
from tunesmith.features.registry.store import Store
from tunesmith.features.registry.tables import AliasRow, RegisteredRow, VersionRow
from tunesmith.schemas.registry import AliasRead, RegisteredUpdate, VersionUpdate
from tunesmith.settings import Settings
from tunesmith.storage.database import Session, after_commit

Gate = Callable[[Session, VersionRow, str], str | None]
"""Why a version may not become `alias:champion` or `stage:production`; None when it may."""
GATED_STAGES = ("staging", "production")


def set_alias(session: Session, name: str, alias: str, which: str, *, gate: Gate, force: bool = False) -> AliasRead:
    """Let an alias stand for a version, given by its number or another alias. Raises `NotFound`, `Conflict` when the gate
    refuses, `PermissionDenied` for what is another's or for `force` by who is no administrator."""
    check_alias(alias)
    named = _own_name(session, name)
    row = service.find_version(session, f"{name}@{which}")
    _check_gate(session, row, f"alias:{alias}", gate, force)
    was = AliasRepository(session).move(named.name, alias, row.id)
    before = VersionRepository(session).find(was) if was else None
    details = {"alias": alias, "from": before.version if before else None, "to": row.version, "forced": force}
    service.record(session, name, row.version, "alias", details)
    return read_alias(session, name, alias)


def roll_back(session: Session, name: str, alias: str) -> AliasRead:
    """Let an alias stand for what it stood for before. Versions that are gone are passed over. Raises `NotFound`, `Conflict`
    when there is nothing before."""
    _own_name(session, name)
    aliases, versions = AliasRepository(session), VersionRepository(session)
    row = _alias(session, name, alias)
    before = list(row.before)
    while before:
        target = versions.find(before.pop())
        if target is None or target.id == row.version_id:
            continue
        was = versions.find(row.version_id)
        row.before = before
        aliases.move(name, alias, target.id, back=True)
        details = {"alias": alias, "from": was.version if was else None, "to": target.version, "rollback": True}
        service.record(session, name, target.version, "alias", details)
        return read_alias(session, name, alias)
    raise Conflict(
        f"{alias} of {name} has stood for no other version that is still there.",
        hint="Set it to the version that you want.",
    )


def remove_alias(session: Session, name: str, alias: str) -> None:
    """Raises `NotFound`."""
    _own_name(session, name)
    row = _alias(session, name, alias)
    was = VersionRepository(session).find(row.version_id)
    AliasRepository(session).remove(row)
    service.record(
        session,
        name,
        was.version if was else None,
        "alias",
        {"alias": alias, "from": was.version if was else None, "to": None},
    )


def read_aliases(session: Session, name: str) -> list[AliasRead]:
    """By name; those whose version may be seen. Raises `NotFound`."""
    listing.named(session, name)
    versions = VersionRepository(session)
    rows = [row for row in AliasRepository(session).all(name) if versions.find(row.version_id)]
    return [read_alias(session, name, row.alias) for row in rows]


def read_alias(session: Session, name: str, alias: str) -> AliasRead:
    """Raises `NotFound`."""
    row = _alias(session, name, alias)
    version = VersionRepository(session).get(row.version_id)
    return AliasRead(
        name=name, alias=alias, version=version.version, version_id=version.id, moved_at=row.moved_at,
        can_roll_back=any(VersionRepository(session).find(old) for old in row.before if old != version.id),
    )  # fmt: skip


def set_stage(session: Session, ref: str, stage: str, *, gate: Gate, force: bool = False) -> VersionRow:
    """Raises `NotFound`, `PermissionDenied`, `Conflict` when the gate refuses."""
    row = service.change(session, ref)
    if stage in GATED_STAGES and stage != row.stage:
        _check_gate(session, row, f"stage:{stage}", gate, force)
    if stage != row.stage:
        service.record(session, row.name, row.version, "stage", {"from": row.stage, "to": stage, "forced": force})
        row.stage = stage
        session.flush()
    return row


def update(session: Session, ref: str, body: VersionUpdate) -> VersionRow:
    """Notes and tags. Raises `NotFound`, `PermissionDenied`, `InvalidInput`."""
    row = service.change(session, ref)
    given = body.model_dump(exclude_unset=True)
    if empty := [name for name, value in given.items() if value is None]:
        raise InvalidInput(details=[{"loc": name, "message": "must not be null; leave it out"} for name in empty])
    if "tags" in given:
        given["tags"] = service.checked_tags(given["tags"])
    for name, value in given.items():
        was = getattr(row, name)
        if was != value:
            setattr(row, name, value)
            details = {"from": was, "to": value} if name == "tags" else {}
            service.record(session, row.name, row.version, name, details)
    session.flush()
    return row


def update_name(session: Session, name: str, body: RegisteredUpdate) -> RegisteredRow:
    """Description, and who sees the name with all its versions. Raises `NotFound`, `PermissionDenied`."""
    row = _own_name(session, name)
    given = body.model_dump(exclude_unset=True)
    if any(value is None for value in given.values()):
        raise InvalidInput(
            details=[{"loc": name, "message": "must not be null"} for name in given if given[name] is None]
        )
    for field, value in given.items():
        setattr(row, field, value)
    if "visibility" in given:
        for version in VersionRepository(session).of_name(name, everyones=True):
            version.visibility = row.visibility
    service.record(session, name, None, "changed", {field: given[field] for field in given if field != "description"})
    session.flush()
    return row


def delete(settings: Settings, session: Session, ref: str, used_by: Mapping[int, Sequence[str]]) -> None:
    """Take a version away, and the name with its last one. Raises `NotFound`, `PermissionDenied`, and `InUse` for a version
    that has an alias, is in production, or is used."""
    NameRepository(session).lock()
    row = service.change(session, ref)
    if reasons := why_needed(settings, session, [row], used_by).get(row.id):
        raise InUse(
            f"{row.name}@{row.version} is needed: {', '.join(reasons[:5])}.",
            hint="Move the alias, change the stage or undeploy it first.",
        )
    take_away(settings, session, row)


def why_needed(
    settings: Settings, session: Session, rows: Sequence[VersionRow], used_by: Mapping[int, Sequence[str]]
) -> dict[int, list[str]]:
    """Versions that must stay → why, in words."""
    aliases = AliasRepository(session).of_names({row.name for row in rows})
    above: dict[Path, list[str]] = {}
    for other in VersionRepository(session).all(everyones=True):
        path = Path(other.lineage.get("base_path") or "/")
        for folder in (path, path.parent):  # an adapter's version keeps its merged base in a folder of its own
            above.setdefault(folder, []).append(f"{other.name}@{other.version}")
    store = Store(settings)
    found = {}
    for row in rows:
        reasons = [f"alias {alias}" for alias in aliases.get(row.id, ())]
        reasons += ["stage production"] if row.stage == "production" else []
        reasons += [f"base of {name}" for name in above.get(store.folder(row.id), ())]
        reasons += list(used_by.get(row.id, ()))
        if reasons:
            found[row.id] = reasons
    return found


def take_away(settings: Settings, session: Session, row: VersionRow) -> None:
    """Without asking whether it is needed."""
    store, versions, row_id = Store(settings), VersionRepository(session), row.id
    versions.remove(row)
    service.record(session, row.name, row.version, "deleted", {"digest": row.digest})
    if not versions.of_name(row.name, everyones=True):
        names = NameRepository(session)
        if named := names.named(row.name, everyones=True):
            names.remove(named)
    after_commit(session, lambda: store.forget(row_id))


def _own_name(session: Session, name: str) -> RegisteredRow:
    """The name, locked. Raises `NotFound`, `PermissionDenied`."""
    names = NameRepository(session)
    names.lock()
    return names.get(listing.named(session, name).id, for_update=True)


def _alias(session: Session, name: str, alias: str) -> AliasRow:
    listing.named(session, name)
    row = AliasRepository(session).find(name, alias)
    if row is None:
        raise NotFound(f"{name} has no alias {alias[:60]!r}.", hint="See the aliases of the model.")
    return row


def _check_gate(session: Session, row: VersionRow, target: str, gate: Gate, force: bool) -> None:
    if force and current().role != Role.ADMIN:
        raise PermissionDenied(
            "Only an administrator may go past the regression gate.", hint="Leave force out, or ask an administrator."
        )
    why = None if force else gate(session, row, target)
    if why:
        raise Conflict(
            f"{row.name}@{row.version} may not become {target.partition(':')[2]}: {why}",
            hint="Train or evaluate further; an administrator may go past the gate with force.",
            details=[{"loc": "version", "message": why}],
        )
