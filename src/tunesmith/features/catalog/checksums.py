"""SHA-256 of a model's files: from the hub's cache where it is in the blob's name, else computed once and remembered."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import threading
from pathlib import Path

from tunesmith.core.job_dir import write_atomic
from tunesmith.schemas.models import ModelFile
from tunesmith.settings import Settings

SHA256 = re.compile(r"[0-9a-f]{64}")
_one_at_a_time = threading.Lock()


def model_files(settings: Settings, folder: Path, *, compute: bool) -> list[ModelFile]:
    """Every file below `folder` by name, or the one GGUF file that it is; checksums that are not known yet only with
    `compute` (about a second a GB)."""
    if folder.is_file():
        return [
            ModelFile(path=folder.name, size_bytes=folder.stat().st_size, sha256=_checksum(settings, folder, compute))
        ]
    found = []
    for root, names, files in os.walk(folder):
        names[:] = sorted(name for name in names if not name.startswith("."))
        for name in sorted(files):
            path = Path(root, name)
            with contextlib.suppress(FileNotFoundError):  # deleted while we looked, or a link to nothing
                size = path.stat().st_size
                shown = path.relative_to(folder).as_posix()
                found.append(ModelFile(path=shown, size_bytes=size, sha256=_checksum(settings, path, compute)))
    return found


def _checksum(settings: Settings, path: Path, compute: bool) -> str | None:
    real = path.resolve()
    if path.is_symlink() and SHA256.fullmatch(real.name):  # the hub's cache names large files so
        return real.name
    about = real.stat()
    key = hashlib.sha256(f"{real}\n{about.st_size}\n{about.st_mtime_ns}".encode()).hexdigest()
    note = settings.cache_dir / "checksums" / key
    with contextlib.suppress(FileNotFoundError):
        return note.read_text()
    if not compute:
        return None
    with _one_at_a_time, real.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    note.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(note, digest)
    return digest
