"""Registering models and finding them again. Each function works in its caller's unit of work."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from tunesmith.core.acting import current
from tunesmith.core.clock import utc_now
from tunesmith.core.errors import Conflict, InvalidInput, NotFound, PermissionDenied
from tunesmith.core.job_spec import ModelRef
from tunesmith.core.model_kind import Description
from tunesmith.core.version import VERSION
from tunesmith.features.registry.naming import (
    LATEST,
    RESERVED,
    SEMANTIC,
    Bump,
    check_name,
    next_version,
    number_of,
    parse_ref,
)
from tunesmith.features.registry.numbers import storable
from tunesmith.features.registry.repository import (
    AliasRepository,
    HistoryRepository,
    NameRepository,
    UsageRepository,
    VersionRepository,
)
from tunesmith.features.registry.store import Store, Told, digest_of
from tunesmith.features.registry.tables import RegisteredRow, RegistryEventRow, VersionRow
from tunesmith.recipes.catalog import get_kind
from tunesmith.recipes.model_info import CODE_SUFFIXES, PICKLE_SUFFIXES
from tunesmith.settings import Settings
from tunesmith.storage.database import Session

CHAMPION = "champion"
LEFT_OUT = (*PICKLE_SUFFIXES, *CODE_SUFFIXES)
MAX_NAMES = 1000
"""Names that are looked through for one that is nearly the one asked for."""
MAX_TAGS = 50
MAX_TAG = 100


@dataclass(frozen=True)
class NewVersion:
    """A model to register."""

    name: str
    """Under which it is kept; made when there is none yet. See `name_for`."""
    sources: Mapping[str, Path]
    """What belongs to it → folder or file. The one called like the kind is the model itself and lies at the top of the
    version's folder; others, such as `report`, or the `base_model` of an adapter over a merged base, in folders of their own."""
    kind: str
    """The name of its `ModelKind`."""
    job_id: int | None = None
    base_model: str | None = None
    """As the user knows it."""
    lineage: Mapping[str, Any] = field(default_factory=dict)
    """job_id, job_name, method, dataset_id, dataset_name, dataset_digest, base_model, base_path, base_revision."""
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    scores: Mapping[str, Any] = field(default_factory=dict)
    """What was measured on → its scores."""
    tags: Sequence[str] = ()
    notes: str = ""
    version: str | None = None
    """Semantic; the next after the highest when absent."""
    bump: Bump = "minor"
    """Which part of the version rises."""
    within: Path | None = None
    """Links are followed that lead nowhere but into this folder, such as those of the hub's cache; None: links are left out."""
    owner_id: int | None = None
    owner: str | None = None
    visibility: str | None = None
    """Whose it is, for the server's own threads; who asks when absent."""


class Prepared(NamedTuple):
    """Its files, in the store already."""

    files: dict[str, Any]
    description: Description
    left_out: list[str]
    """Files that were there and are not kept: code, and formats that can run it."""


def prepare(settings: Settings, new: NewVersion, told: Told = lambda _bytes: None) -> Prepared:
    """Check a model's files and copy them into the store. Slow for large models, and touches no database: call it outside of
    a transaction. Raises `InvalidInput`, `UnsupportedFormat`, `BadData` or `NotFound` naming what cannot be used."""
    kind, source = get_kind(new.kind), new.sources[new.kind]
    check_name(new.name)
    base = new.sources.get("base_model") or new.lineage.get("base_path")
    base_path = Path(base) if base and Path(base).is_dir() else None
    description = kind.describe(source, base_path)
    store = Store(settings)
    found = {name: path for part, source in new.sources.items() for name, path in _files(part, source, new)}
    left_out = sorted(name for name in found if name.lower().endswith(LEFT_OUT))
    files = {name: store.put(path, told).as_json() for name, path in sorted(found.items()) if name not in left_out}
    return Prepared(files, description, left_out)


def _files(part: str, source: Path, new: NewVersion) -> list[tuple[str, Path]]:
    """Every file of one source but hidden ones: its place in the version, and where it is now."""
    prefix = "" if part == new.kind else f"{part}/"
    if source.is_file():
        return [(prefix + source.name, source)]
    found = []
    for root, names, files in os.walk(source):
        names[:] = sorted(name for name in names if not name.startswith("."))
        for name in sorted(files):
            path = Path(root, name)
            real = path.resolve() if new.within else path
            is_ours = real.is_relative_to(new.within.resolve()) if new.within else not path.is_symlink()
            if is_ours and real.is_file() and not name.startswith("."):
                found.append((prefix + path.relative_to(source).as_posix(), real))
    return found


def register(settings: Settings, session: Session, new: NewVersion, prepared: Prepared | None = None) -> VersionRow:
    """One more version of a name. Raises as `prepare`, `Conflict` for a version that is there, `PermissionDenied` for a name
    that is another's. Without what `prepare` has returned it copies the files first."""
    prepared = prepared or prepare(settings, new)
    tags = checked_tags(new.tags)
    names, versions = NameRepository(session), VersionRepository(session)
    names.lock()
    named = _named(names, new)
    last = versions.latest(new.name, everyones=True)
    version = new.version or next_version(last.version if last else None, new.bump)
    number = number_of(version)
    if any(row.number == number for row in versions.of_name(new.name, everyones=True)):
        raise Conflict(
            f"There is a version {version} of {new.name} already.",
            hint="Leave the version out to get the next one; versions never change.",
            details=[{"loc": "version", "message": "taken"}],
        )
    before = max(
        (row for row in versions.of_name(new.name) if row.number < number), key=lambda row: row.number, default=None
    )
    lineage = {"code_version": VERSION, **new.lineage, "parent_version": before.version if before else None}
    if prepared.left_out:
        lineage["left_out"] = prepared.left_out
    row = VersionRow(
        name=new.name, version=version, number=number, kind=new.kind, framework=get_kind(new.kind).framework,
        job_id=new.job_id, base_model=new.base_model, lineage={"job_id": new.job_id, "base_model": new.base_model, **lineage},
        architecture=_architecture(new, prepared.description), hyperparameters=storable(dict(new.hyperparameters)),
        num_parameters=prepared.description.num_parameters, files=prepared.files, digest=digest_of(prepared.files),
        size_bytes=sum(about["size_bytes"] for about in prepared.files.values()), metrics=storable(dict(new.metrics)),
        scores=storable({name: {"scores": dict(one), "job_id": new.job_id} for name, one in new.scores.items()}),
        stage="none", tags=tags, notes=new.notes, created_at=utc_now(),
        owner_id=named.owner_id, owner=named.owner, visibility=named.visibility,
    )  # fmt: skip
    versions.add(row)
    record(session, row.name, row.version, "registered", {"kind": row.kind, "job_id": row.job_id}, by=new.owner)
    return row


def _architecture(new: NewVersion, found: Description) -> dict[str, Any]:
    """What is known of the model besides its files: its task, what it tells apart, what it takes."""
    told: dict[str, Any] = {"task": found.task or get_kind(new.kind).tasks[0]}
    told |= {"labels": list(found.labels)} if found.labels else {}
    told |= {"inputs": [dict(column) for column in found.inputs]} if found.inputs else {}
    return {**found.architecture, **told}


def _named(names: NameRepository, new: NewVersion) -> RegisteredRow:
    """The row of a name, made when there is none."""
    row = names.named(new.name, everyones=True)
    owner_id = new.owner_id if new.owner_id is not None else current().user_id
    if row is not None:
        if row.owner_id != owner_id and (new.owner_id is not None or not current().may_change(row.owner_id)):
            raise PermissionDenied(
                f"The name {new.name} is taken by somebody else.",
                hint="Choose another name, or ask its owner to register the model.",
                details=[{"loc": "name", "message": "taken"}],
            )
        return row
    made = RegisteredRow(name=new.name, description="", created_at=utc_now())
    if new.owner_id is not None:
        made.owner_id, made.owner = new.owner_id, new.owner
    if new.visibility is not None:
        made.visibility = new.visibility
    return names.add(made)


def name_for(session: Session, wanted: str, owner_id: int | None) -> str:
    """`wanted`, where it is free or that account's own; else with the first number that is: `support-bot-2`."""
    names = NameRepository(session)
    for number in range(1, 10_000):
        name = wanted if number == 1 else f"{wanted[:110]}-{number}"
        row = names.named(name, everyones=True)
        if name not in RESERVED and (row is None or row.owner_id == owner_id):
            return name
    raise Conflict(f"No name like {wanted} is free.", hint="Give the model another name.")


def checked_tags(tags: Sequence[str]) -> list[str]:
    """Without repetitions. Raises `InvalidInput`."""
    found = list(dict.fromkeys(tag.strip() for tag in tags))
    if len(found) > MAX_TAGS or any(not 1 <= len(tag) <= MAX_TAG for tag in found):
        raise InvalidInput(
            f"At most {MAX_TAGS} tags of 1 to {MAX_TAG} characters.",
            details=[{"loc": "tags", "message": "too many, empty or too long"}],
        )
    return found


# -- finding ----------------------------------------------------------------------------------------------------------


def find_version(session: Session, ref: str) -> VersionRow:
    """`name@1.2.0`, `name@alias`, `name@latest`; a bare name is its champion, else its latest. Raises `NotFound` saying what
    there is, `InvalidInput` for what is no such name."""
    name, which = parse_ref(ref)
    versions = VersionRepository(session)
    if SEMANTIC.fullmatch(which):
        found = versions.numbered(name, which)
    elif which in ("", LATEST):
        found = (None if which else aliased(session, name, CHAMPION)) or versions.latest(name)
    else:
        found = aliased(session, name, which)
    if found is not None:
        return found
    there = versions.of_name(name)
    if not there:
        raise NotFound(f"There is no registered model {name!r}.", hint="See the list of registered models.")
    known = [*AliasRepository(session).of_names([name]).values()]
    aliases = sorted(alias for group in known for alias in group)
    raise NotFound(
        f"{name} has no version or alias {which!r}.",
        hint=f"Versions: {', '.join(row.version for row in there[:10])}. Aliases: {', '.join([*aliases, LATEST])}.",
    )


def aliased(session: Session, name: str, alias: str) -> VersionRow | None:
    """The version that an alias stands for, or None."""
    row = AliasRepository(session).find(name, alias)
    return VersionRepository(session).find(row.version_id) if row else None


def has_name(session: Session, name: str) -> bool:
    """Whether there is a registered model of that name that may be seen."""
    return NameRepository(session).named(name) is not None


def known_names(session: Session) -> list[str]:
    """Those that may be seen, newest first."""
    return NameRepository(session).newest(MAX_NAMES)


def of_job(session: Session, job_id: int) -> VersionRow | None:
    """The version that a job made, or None."""
    return VersionRepository(session).of_job(job_id)


def all_of_job(session: Session, job_id: int) -> list[VersionRow]:
    """The versions that a job made."""
    return VersionRepository(session).all_of_job(job_id)


def change(session: Session, ref: str) -> VersionRow:
    """A version, locked. Raises `NotFound`, and `PermissionDenied` when it is another's."""
    return VersionRepository(session).get(find_version(session, ref).id, for_update=True)


# -- files ------------------------------------------------------------------------------------------------------------


def verified_folder(settings: Settings, row: VersionRow) -> Path:
    """The version's folder, every file as it was registered. Files that were not touched since they were last read are not
    read again. Raises `Conflict` naming the files that are damaged."""
    store = Store(settings)
    try:
        folder = store.view(row.id, row.files)
        damaged = store.damage(row.id, row.files)
    except FileNotFoundError:
        damaged = store.damage(row.id, row.files)
    if damaged:
        raise Conflict(
            f"{row.name}@{row.version} is damaged: {', '.join(damaged[:5])}.",
            hint="It is not loaded. Repair it with: tunesmith registry verify --repair",
            details=[{"loc": name, "message": "not as it was registered"} for name in damaged[:50]],
        )
    return folder


def model_ref(settings: Settings, row: VersionRow, find_base: Callable[[str], ModelRef]) -> ModelRef:
    """Where a version's weights are, after `verified_folder`: a GGUF version's file, an adapter over its base, a model's
    folder. `find_base` tells where a base model is by its name. Raises what it raises, and `Conflict`."""
    folder = verified_folder(settings, row)
    name = f"{row.name}@{row.version}"
    kind = get_kind(row.kind)
    if not kind.needs_base:
        return ModelRef(name=name, path=str(kind.opens(folder)), kind=kind.name)
    merged, known = folder / "base_model", row.lineage.get("base_path")
    if merged.is_dir():
        return ModelRef(name=name, path=str(merged), kind=kind.name, adapter_path=str(folder))
    if known and Path(known).is_dir():
        return ModelRef(
            name=name, path=known, revision=row.lineage.get("base_revision"), kind=kind.name, adapter_path=str(folder)
        )
    if not row.base_model:
        raise NotFound(
            f"{name} is an adapter, and nobody has said over which model.", hint="Import it with a base_model."
        )
    base = find_base(row.base_model)
    if base.adapter_path:
        raise NotFound(
            f"The model under {name} is itself an adapter and not kept with it.", hint="Register the merged model."
        )
    return base.model_copy(update={"name": name, "kind": kind.name, "adapter_path": str(folder)})


# -- what is added later ----------------------------------------------------------------------------------------------


def add_scores(session: Session, row: VersionRow, name: str, scores: dict[str, Any]) -> None:
    """Keep the scores of one evaluation under its name; those of the same name before are replaced."""
    put_scores(session, row, name, scores)
    record(session, row.name, row.version, "scores", {"evaluation": name})


def lock_scores(session: Session, row: VersionRow) -> None:
    """One at a time from here to the end of the transaction: two evaluations may end at once."""
    session.refresh(row, ["scores"], with_for_update=True)


def put_scores(session: Session, row: VersionRow, name: str, scores: dict[str, Any] | None) -> None:
    """As `add_scores`, without a line in the history; None takes them away."""
    lock_scores(session, row)
    others = {known: told for known, told in row.scores.items() if known != name}
    row.scores = others if scores is None else {**others, name: storable(scores)}
    session.flush()


def record_use(
    session: Session, version_id: int, *, requests: int, errors: int, latency_sum_s: float, tokens: int = 0,
    at: datetime | None = None,
) -> None:  # fmt: skip
    """Count requests that a version has answered, in the hour of `at` (now when absent). A version that is gone is left out."""
    if VersionRepository(session).find(version_id) is None:
        return
    hour = (at or utc_now()).replace(minute=0, second=0, microsecond=0)
    counts = {"requests": requests, "errors": errors, "tokens": tokens, "latency_sum_s": latency_sum_s}
    UsageRepository(session).add(version_id, hour, counts)


def record(
    session: Session, name: str, version: str | None, event: str, details: dict[str, Any], *, by: str | None = None
) -> None:
    """A line of the name's history."""
    row = RegistryEventRow(
        name=name, version=version, event=event, details=details, by=by or current().name, at=utc_now()
    )
    HistoryRepository(session).add(row)
