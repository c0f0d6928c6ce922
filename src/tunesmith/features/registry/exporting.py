"""A version as one `.tar.gz` with checksums, made while it is sent."""

from __future__ import annotations

import json
from collections.abc import Iterator

from tunesmith.core.packing import Member, pack
from tunesmith.features.registry import listing, service
from tunesmith.features.registry.signing import FILE_NAME, SIGNATURES
from tunesmith.features.registry.store import Store
from tunesmith.features.registry.tables import VersionRow
from tunesmith.settings import Settings

ABOUT = "version.json"
"""What the registry knows of the version: metrics, lineage, scores, digests."""


def export(settings: Settings, row: VersionRow) -> Iterator[bytes]:
    """The archive, piece by piece. Raises `Conflict` before the first byte when a file is damaged."""
    folder = service.verified_folder(settings, row)
    members = [Member(name, folder / name) for name in row.files]
    about = listing.read(row).model_dump(mode="json") | {"files": row.files}
    taken = set(row.files)
    if ABOUT not in taken:
        members.append(Member(ABOUT, json.dumps(about, indent=1, sort_keys=True).encode()))
    signature = Store(settings).root / SIGNATURES / f"{row.id}.json"
    if signature.is_file() and FILE_NAME not in taken:
        members.append(Member(FILE_NAME, signature))
    return pack(f"{row.name}-{row.version}", sorted(members, key=lambda member: member.name))
