"""A `.tar.gz` that is made while it is sent: constant memory whatever the size, and the same files give the same bytes, since
names are sorted by who calls and times and owners are fixed.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from tunesmith.core.errors import Conflict

CHUNK_BYTES = 1024 * 1024
GZIP_LEVEL = 1
"""Weights hardly shrink; a higher level would only cost time."""
EPOCH = 0
"""The time stamp of every member."""


class Member(NamedTuple):
    """One file of the archive: its name, and its bytes, the path of a file, or what opens one and gives its descriptor."""

    name: str
    data: bytes | Path | Callable[[], int]


def pack(folder: str, members: Sequence[Member]) -> Iterator[bytes]:
    """The archive of `members` below `folder`, piece by piece, with SHA256SUMS last. Raises `Conflict` when a file changes
    while it is sent."""
    return _compressed(_tar(folder, members))


def _tar(folder: str, members: Sequence[Member]) -> Iterator[bytes]:
    """A POSIX tar, with the checksums last, since they are known last."""
    sums = []
    for member in members:
        digest = hashlib.sha256()
        with _opened(member.data) as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            yield _header(f"{folder}/{member.name}", size)
            for chunk in _chunks(file, size):
                digest.update(chunk)
                yield chunk
        yield _padding(size)
        sums.append(f"{digest.hexdigest()}  {member.name}\n")
    data = "".join(sums).encode()
    yield _header(f"{folder}/SHA256SUMS", len(data)) + data + _padding(len(data))
    yield b"\0" * (2 * tarfile.BLOCKSIZE)


def _header(name: str, size_bytes: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mtime, info.mode = size_bytes, EPOCH, 0o644
    return info.tobuf(format=tarfile.PAX_FORMAT)


def _padding(size_bytes: int) -> bytes:
    return b"\0" * (-size_bytes % tarfile.BLOCKSIZE)


def _opened(data: bytes | Path | Callable[[], int]) -> BinaryIO:
    if isinstance(data, bytes):
        return BytesIO(data)
    return data.open("rb") if isinstance(data, Path) else os.fdopen(data(), "rb")


def _chunks(file: BinaryIO, size_bytes: int) -> Iterator[bytes]:
    """Exactly `size_bytes`, as the header has promised."""
    left = size_bytes
    while left and (chunk := file.read(min(CHUNK_BYTES, left))):
        left -= len(chunk)
        yield chunk
    if left:
        raise Conflict("A file of the model changed while it was being sent.", hint="Download again.")


def _compressed(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Gzip without a time stamp or a file name in its header."""
    packer: Any = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, 31)
    for piece in pieces:
        if out := packer.compress(piece):
            yield out
    yield packer.flush()
