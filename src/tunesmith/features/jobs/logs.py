"""A job's log: read on, read back, filter by level, and search. It may have any size; each call reads a bounded part of it."""

from __future__ import annotations

import codecs
import os
import re
from pathlib import Path

from tunesmith.core.job_dir import open_plain
from tunesmith.core.log_lines import LogFilter, is_wanted
from tunesmith.schemas.jobs import LogChunk, LogMatch, LogSearch

SEARCHED_BYTES = 16 * 1024 * 1024
"""Most that one search looks through."""
FILTERED_BYTES = 4 * 1024 * 1024
"""Most that one filtered read looks through."""
MAX_LINE_BYTES = 2000
"""Most that is shown of a line on either side of a match."""


def read_log(
    path: Path, offset: int, limit: int, *, whole_lines: bool = False, level: LogFilter | None = None
) -> LogChunk:
    """At most `limit` bytes of text from `offset`; a character that is cut at the end waits for the next call, and so does a
    line that goes on, with `whole_lines`, unless it is longer than `limit`.

    With `level` only lines that pass it, found in the next `FILTERED_BYTES`: the text may be empty and `next_offset` further.
    """
    if level:
        return _filtered(path, offset, limit, level)
    try:
        with open_plain(path) as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(min(offset, size))
            data = file.read(limit)
            start = min(offset, size)
    except FileNotFoundError:
        return LogChunk(text="", next_offset=0, size_bytes=0)
    if whole_lines and start + len(data) < size:
        data = data[: data.rfind(b"\n") + 1] or data
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    text = decoder.decode(data)
    waiting = len(decoder.getstate()[0])
    if waiting == len(data):  # nothing but the start of a character: the file ends in it
        text, waiting = decoder.decode(b"", final=True), 0
    return LogChunk(text=text, offset=start, next_offset=start + len(data) - waiting, size_bytes=size)


def _filtered(path: Path, offset: int, limit: int, level: LogFilter) -> LogChunk:
    """Forwards, whole lines only, but for one at the very end."""
    chunk, data = _block(path, offset, FILTERED_BYTES)
    if chunk.offset + len(data) < chunk.size_bytes:
        data = data[: data.rfind(b"\n") + 1] or data
    kept, place = bytearray(), 0
    for line in _lines(data):
        if is_wanted(line, level):
            if kept and len(kept) + len(line) > limit:
                break
            kept += line
        place += len(line)
    return chunk.model_copy(update={"text": kept.decode(errors="replace"), "next_offset": chunk.offset + place})


def _filtered_before(path: Path, before: int, limit: int, level: LogFilter) -> LogChunk:
    """Backwards from the end of a line; `offset` is where to go on from, and 0 when all has been looked through."""
    whole = read_before(path, before, FILTERED_BYTES)
    _, data = _block(path, whole.offset, whole.next_offset - whole.offset)
    kept: list[bytes] = []
    size, start = 0, whole.next_offset
    for line in reversed(_lines(data)):
        if is_wanted(line, level):
            if kept and size + len(line) > limit:
                break
            kept.append(line)
            size += len(line)
        start -= len(line)
    return whole.model_copy(update={"text": b"".join(reversed(kept)).decode(errors="replace"), "offset": start})


def _block(path: Path, offset: int, size: int) -> tuple[LogChunk, bytes]:
    """Where a part of the log stands, and its bytes."""
    try:
        with open_plain(path) as file:
            size_bytes = os.fstat(file.fileno()).st_size
            start = min(offset, size_bytes)
            file.seek(start)
            return LogChunk(text="", offset=start, next_offset=start, size_bytes=size_bytes), file.read(size)
    except FileNotFoundError:
        return LogChunk(text="", next_offset=0, size_bytes=0), b""


def _lines(data: bytes) -> list[bytes]:
    """With their ends."""
    return [line for line in re.split(rb"(?<=\n)", data) if line]


def read_before(path: Path, before: int, limit: int, level: LogFilter | None = None) -> LogChunk:
    """At most `limit` bytes of text that end at `before`, from the beginning of a line where there is one.

    With `level` only lines that pass it, found in the `FILTERED_BYTES` before: the text may be empty and `offset` further.
    """
    if level:
        return _filtered_before(path, before, limit, level)
    try:
        with open_plain(path) as file:
            size = os.fstat(file.fileno()).st_size
            end = min(before, size)
            start = max(0, end - limit)
            file.seek(start)
            data = file.read(end - start)
    except FileNotFoundError:
        return LogChunk(text="", next_offset=0, size_bytes=0)
    skipped = 0
    if start > 0:
        newline = data.find(b"\n", 0, len(data) - 1)
        inside = next((n for n, byte in enumerate(data[:4]) if byte & 0xC0 != 0x80), 0)
        skipped = inside if newline < 0 else newline + 1
    text = data[skipped:].decode(errors="replace")
    return LogChunk(text=text, offset=start + skipped, next_offset=end, size_bytes=size)


def search(path: Path, text: str, offset: int, limit: int, level: LogFilter | None = None) -> LogSearch:
    """Lines that hold `text`, whatever the case of ASCII letters, from byte `offset` on: at most `limit` of them, each once; with
    `level` those that pass it."""
    wanted = text.encode().lower()
    try:
        with open_plain(path) as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(min(offset, size))
            data = file.read(SEARCHED_BYTES)
    except FileNotFoundError:
        return LogSearch(matches=[], next_offset=None)
    found: list[LogMatch] = []
    place, lower = 0, data.lower()
    while len(found) < limit and (at := lower.find(wanted, place)) >= 0:
        start = max(data.rfind(b"\n", 0, at) + 1, at - MAX_LINE_BYTES)
        end = data.find(b"\n", at + len(wanted))
        place = end if end >= 0 else len(data)
        if level and not is_wanted(data[data.rfind(b"\n", 0, at) + 1 : place], level):
            continue
        line = data[start : min(place, at + MAX_LINE_BYTES)]
        found.append(LogMatch(offset=min(offset, size) + start, line=line.decode(errors="replace")))
    begin, reached = min(offset, size), place
    if len(found) < limit:
        if begin + len(data) >= size:
            return LogSearch(matches=found, next_offset=None)
        reached = max(place, len(data) - len(wanted) + 1)  # a match may lie across the end of what was read
    return LogSearch(matches=found, next_offset=begin + reached if begin + reached < size else None)
