"""Images, sounds and films of a dataset, each under the name that its row tells in `media`."""

from __future__ import annotations

import re
from pathlib import Path

from tunesmith.core.errors import NotFound
from tunesmith.features.datasets import files
from tunesmith.settings import Settings

MEDIA_TYPES = {
    "jpg": "image/jpeg", "jpeg": "image/jpeg", "png": "image/png", "gif": "image/gif", "bmp": "image/bmp",
    "webp": "image/webp", "tif": "image/tiff", "tiff": "image/tiff",
    "wav": "audio/wav", "flac": "audio/flac", "mp3": "audio/mpeg", "ogg": "audio/ogg", "m4a": "audio/mp4",
    "opus": "audio/ogg",
    "mp4": "video/mp4", "webm": "video/webm", "mov": "video/quicktime", "mkv": "video/x-matroska",
    "avi": "video/x-msvideo",
}  # fmt: skip
"""Told by the name that we gave the file, never by its content: whatever is in it, it is no page and no script."""
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; sandbox",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "private, max-age=3600",
}


def find_media(settings: Settings, dataset_id: int, name: str) -> tuple[Path, str]:
    """`(file, media type)`. Raises `NotFound`."""
    named = re.fullmatch(r"[0-9]{1,12}\.([a-z0-9]{2,5})", name)
    path = files.dataset_dir(settings, dataset_id) / "media" / name
    if named is None or named[1] not in MEDIA_TYPES or not path.is_file():
        raise NotFound(f"Dataset {dataset_id} has no such file.", hint="Its rows name the files in the column media.")
    return path, MEDIA_TYPES[named[1]]
