"""Signed manifests, beside the files that they name."""

from __future__ import annotations

import json
from pathlib import Path

from tunesmith.core.errors import NotFound, TooLarge
from tunesmith.core.job_dir import durable_folder, write_atomic
from tunesmith.features.registry.signing import MAX_BUNDLE_BYTES, SIGNATURES, check_manifest
from tunesmith.features.registry.store import Store
from tunesmith.features.registry.tables import VersionRow
from tunesmith.schemas.registry import Signature
from tunesmith.settings import Settings


def signature(settings: Settings, row: VersionRow) -> Signature:
    """Raises `NotFound`."""
    try:
        return Signature(bundle=json.loads(_place(settings, row).read_bytes()))
    except FileNotFoundError:
        raise NotFound(
            f"{row.name}@{row.version} is not signed.", hint="Sign it with: tunesmith registry sign --key key.pem"
        ) from None


def keep_signature(settings: Settings, row: VersionRow, body: Signature) -> Signature:
    """Raises `InvalidInput` for a manifest that names other files, `TooLarge`."""
    check_manifest(body.bundle, {name: about["sha256"] for name, about in row.files.items()})
    text = body.model_dump_json()
    if len(text) > MAX_BUNDLE_BYTES:
        raise TooLarge(f"A signed manifest has at most {MAX_BUNDLE_BYTES >> 20} MiB.")
    place = _place(settings, row)
    durable_folder(place.parent, mode=0o700)
    write_atomic(place, json.dumps(body.bundle))
    return body


def _place(settings: Settings, row: VersionRow) -> Path:
    return Store(settings).root / SIGNATURES / f"{row.id}.json"
