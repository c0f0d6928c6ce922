"""Whether everything is as it was registered: reading every byte, putting right what can be, and the state at a glance."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tunesmith.core.job_dir import JobDir
from tunesmith.features.registry import service
from tunesmith.features.registry.repository import AliasRepository, NameRepository, UsageRepository, VersionRepository
from tunesmith.features.registry.store import Store, Told, sha256_of
from tunesmith.features.registry.tables import VersionRow
from tunesmith.schemas.registry import Damage, RegistryHealth, Verified
from tunesmith.settings import Settings
from tunesmith.storage.database import Database, Session

MOST_NAMED = 50


def chosen(session: Session, refs: Sequence[str]) -> list[VersionRow]:
    """The versions of these names; all that may be seen when there are none. Raises `NotFound`, `InvalidInput`."""
    return [service.find_version(session, ref) for ref in refs] if refs else VersionRepository(session).all()


def verify(
    settings: Settings, rows: Sequence[VersionRow], *, repair: bool, told: Told = lambda _bytes: None
) -> Verified:
    """Read every byte of these versions, whatever was read before. With `repair`, damaged files are put right from wherever
    the same content is still to be found. Slow, and touches no database."""
    damaged = []
    for row in rows:
        found = Store(settings).damage(row.id, row.files, fresh=True, told=told)
        if not found:
            continue
        mended = _repair(settings, row, found) if repair else []
        left = [name for name in found if name not in mended]
        damaged.append(Damage(ref=f"{row.name}@{row.version}", files=left, repaired=mended))
    return Verified(
        versions=len(rows),
        files=sum(len(row.files) for row in rows),
        size_bytes=sum(row.size_bytes for row in rows),
        damaged=damaged,
    )


def _repair(settings: Settings, row: VersionRow, damaged: Sequence[str]) -> list[str]:
    """Names of the files that are right now. The version's folder is made anew from the contents."""
    store = Store(settings)
    for name in damaged:
        if name not in row.files:
            continue
        sha256, blob = row.files[name]["sha256"], store.blob(row.files[name]["sha256"])
        if blob.is_file() and sha256_of(blob, fresh=True) == sha256:
            continue
        for path in _candidates(settings, row, name):
            if path.is_file() and not path.is_symlink() and sha256_of(path, fresh=True) == sha256:
                store.put(path)
                break
    store.forget(row.id)
    with contextlib.suppress(FileNotFoundError):  # a content is gone; what is left is told below
        store.view(row.id, row.files)
    still = store.damage(row.id, row.files, fresh=True)
    return [name for name in damaged if name not in still]


def _candidates(settings: Settings, row: VersionRow, name: str) -> Iterator[Path]:
    """Where the same content may still lie: the version's own folder, the job that made it, other versions."""
    store = Store(settings)
    yield store.folder(row.id) / name
    if row.job_id is not None:
        artifacts = JobDir(settings.jobs_dir / str(row.job_id)).artifacts
        yield artifacts / name
        for folder in sorted(artifacts.iterdir()) if artifacts.is_dir() else ():
            yield folder / name
    for other in sorted(store.versions.glob("[0-9]*")):
        yield other / name


def health(settings: Settings, session: Session) -> RegistryHealth:
    """The registry at a glance, as far as who asks may see it. Files that were not touched since they were last read are
    not read again."""
    store, versions = Store(settings), VersionRepository(session)
    rows = versions.all()
    named = versions.digests()
    contents = list(store.contents())
    orphans = [size for sha256, size in contents if sha256 not in named]
    aliases = AliasRepository(session).all()
    stages = {row.id: row.stage for row in rows}
    used = UsageRepository(session).last_used([row.id for row in rows])
    damaged = [
        Damage(ref=f"{row.name}@{row.version}", files=found)
        for row in rows
        if (found := store.damage(row.id, row.files))
    ]
    return RegistryHealth(
        names=NameRepository(session).count(),
        versions=len(rows),
        size_bytes=sum(row.size_bytes for row in rows),
        stored_bytes=sum(size for _, size in contents),
        orphan_files=len(orphans),
        orphan_bytes=sum(orphans),
        damaged=damaged,
        without_scores=[f"{row.name}@{row.version}" for row in rows if not row.scores][:MOST_NAMED],
        stale_aliases=[f"{row.name}@{row.alias}" for row in aliases if stages.get(row.version_id) == "archived"],
        unused=sum(row.id not in used for row in rows),
    )


def sweep(settings: Settings, database: Database, *, is_alone: bool = False) -> int:
    """Remove what kills left behind, and contents that no version has had for a day; the bytes."""

    def ask(what: Callable[[VersionRepository], set]) -> Callable[[], set]:
        def answer() -> set:
            with database.unit_of_work(readonly=True) as session:
                return what(VersionRepository(session))

        return answer

    return Store(settings).sweep(ask(VersionRepository.digests), ask(VersionRepository.ids), is_alone=is_alone)
