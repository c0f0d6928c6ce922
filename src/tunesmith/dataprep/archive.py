"""ZIPs of images, audio or video: checked before anything is unpacked, then rows of `media` (relative path) and what is told of it."""

from __future__ import annotations

import csv
import io
import json
import stat
import unicodedata
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa

from tunesmith.core.errors import BadData, TooLarge
from tunesmith.core.words import plural
from tunesmith.dataprep.shapes import SPLITS
from tunesmith.dataprep.source import DAMAGED_ZIP, MAX_ENTRIES, open_zip
from tunesmith.dataprep.tables import FileReading, tables

MAX_RATIO = 200
FREE_BYTES = 64 * 1024**2
"""What any archive may grow to, whatever the ratio."""
KINDS = {
    "image": (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff"),
    "audio": (".wav", ".flac", ".mp3", ".ogg", ".m4a", ".opus"),
    "video": (".mp4", ".webm", ".mov", ".mkv", ".avi"),
}
OWN_COLUMNS = (None, "media", "file_name", "split")
"""Columns that are ours to fill: a metadata file must not choose which stored file a row means. None: cells past the header."""
METADATA = ("metadata.csv", "metadata.jsonl")


def media_kind(name: str) -> str | None:
    return next((kind for kind, endings in KINDS.items() if name.lower().endswith(endings)), None)


def check_archive(archive: zipfile.ZipFile, max_bytes: int, size_bytes: int) -> list[zipfile.ZipInfo]:
    """The files to unpack. Raises `BadData` or `TooLarge` before a single byte is written. `size_bytes` is the archive's
    own: entries may share one compressed stream, so that each alone looks harmless."""
    max_bytes = min(max_bytes, max(FREE_BYTES, size_bytes * MAX_RATIO))
    entries = archive.infolist()
    if len(entries) > MAX_ENTRIES:
        raise TooLarge(f"The archive has {len(entries):,} entries; {MAX_ENTRIES:,} are read.", hint="Split it.")
    seen: set[str] = set()
    total = 0
    files = []
    for info in entries:
        path = PurePosixPath(info.filename)
        mode = info.external_attr >> 16
        odd = "\\" in info.filename or "\x00" in info.filename or (len(info.filename) > 1 and info.filename[1] == ":")
        if path.is_absolute() or ".." in path.parts or odd:
            raise BadData(
                f"The archive names a path outside itself: {info.filename[:120]!r}.", hint="Make the ZIP again."
            )
        if mode and not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_IFMT(mode) == 0):
            raise BadData(
                f"The archive holds a link or device: {info.filename[:120]!r}.",
                hint="Put the files themselves into it.",
            )
        if info.flag_bits & 1:
            raise BadData("The archive is encrypted.", hint="Make it without a password.")
        if info.is_dir() or path.name.startswith(".") or "__MACOSX" in path.parts:
            continue
        folded = unicodedata.normalize("NFC", info.filename).casefold()
        if folded in seen:
            raise BadData(
                f"The archive holds {info.filename[:120]!r} twice.", hint="Give every file a name of its own."
            )
        seen.add(folded)
        total += info.file_size
        if info.file_size > max(1 << 24, info.compress_size * MAX_RATIO) or total > max_bytes:
            raise TooLarge(
                f"Unpacked, the archive exceeds its limit at {info.filename[:120]!r}.", hint="Split it into parts."
            )
        files.append(info)
    return files


def read_archive(
    path: Path, media_dir: Path, max_bytes: int, reading: FileReading, most: int | None = None
) -> tuple[str, Iterator[pa.Table]]:
    """`(image | audio | video, tables)`. Media are unpacked to `media_dir` under names of their own, bytes counted; not
    more than `most` of them."""
    archive = open_zip(path)
    files = check_archive(archive, max_bytes, path.stat().st_size)
    counts = Counter(kind for info in files if (kind := media_kind(info.filename)))
    if not counts:
        raise BadData(
            "The archive holds no images, audio or video.",
            hint="Put them in it, one folder a class, or add a metadata.csv.",
        )
    kind = counts.most_common(1)[0][0]
    told = _metadata(archive, files)
    _report_absent(told, files, reading)
    media = [info for info in sorted(files, key=lambda i: i.filename) if media_kind(info.filename) == kind]
    rows = list(_rows(archive, media[:most], told, media_dir, reading))
    kinds = reading.kinds()
    for row in rows:
        kinds.note(row)
    return kind, tables(rows, kinds, reading)


def _report_absent(told: dict[str, dict[str, Any]], files: list[zipfile.ZipInfo], reading: FileReading) -> None:
    """Name what the metadata tells of files that are not there."""
    there = {info.filename for info in files} | {PurePosixPath(info.filename).name for info in files}
    absent = [number for number, name in enumerate(told, start=1) if name not in there]
    if absent:
        first = list(told)[absent[0] - 1][:120]
        message = f"{plural(len(absent), 'file')} named in the metadata but missing from the archive, first {first!r}"
        reading.report("missing_media", message, absent)


def _rows(
    archive: zipfile.ZipFile,
    media: list[zipfile.ZipInfo],
    told: dict[str, dict[str, Any]],
    media_dir: Path,
    reading: FileReading,
) -> Iterator[dict[str, Any]]:
    media_dir.mkdir(parents=True, exist_ok=True)
    damaged: list[int] = []
    by_folder = not told
    for number, info in enumerate(media, start=1):
        path = PurePosixPath(info.filename)
        target = f"{number:07d}{path.suffix.lower()}"
        if not _unpack(archive, info, media_dir / target):
            damaged.append(number)
        folders = [part for part in path.parts[:-1] if part.lower() not in SPLITS]
        split = next((part.lower() for part in path.parts[:-1] if part.lower() in SPLITS), None)
        row: dict[str, Any] = {"media": target, "file_name": info.filename}
        if split:
            row["split"] = split
        if by_folder and folders:
            row["label"] = folders[-1]
        yield row | told.get(info.filename, told.get(path.name, {}))
    if damaged:
        reading.report("damaged_media", f"{plural(len(damaged), 'unreadable file')} in the archive", damaged)


def _unpack(archive: zipfile.ZipFile, info: zipfile.ZipInfo, target: Path) -> bool:
    """Copy one member, counting what really comes out; whether it was whole. One without a byte leaves no file."""
    left = info.file_size
    if left == 0:
        return False
    try:
        with archive.open(info) as source, target.open("wb") as out:
            while chunk := source.read(1 << 20):
                left -= len(chunk)
                if left < 0:
                    raise BadData(
                        f"{info.filename[:120]!r} is larger than the archive says.", hint="Make the ZIP again."
                    )
                out.write(chunk)
    except DAMAGED_ZIP:
        return False
    except OSError as error:
        if error.errno:
            raise
        return False  # bzip2's word for damage
    return True


def _metadata(archive: zipfile.ZipFile, files: list[zipfile.ZipInfo]) -> dict[str, dict[str, Any]]:
    """What metadata.csv, metadata.jsonl or COCO JSON files tell of each media file, by its path in the archive or its name."""
    told: dict[str, dict[str, Any]] = {}
    for info in files:
        path = PurePosixPath(info.filename)
        if path.name not in METADATA and not path.name.endswith(".json"):
            continue
        if info.file_size > 512 << 20:
            raise TooLarge(f"{path.name} has {info.file_size >> 20} MB; 512 MB are read.")
        prefix = f"{path.parent}/" if str(path.parent) != "." else ""
        try:
            text = archive.read(info).decode("utf-8-sig", errors="replace")
            entries = _entries(path.name, text)
        except (*DAMAGED_ZIP, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise BadData(
                f"{info.filename[:120]} cannot be read: {str(error)[:200]}.",
                hint="It should name each file in `file_name`, one row or line a file, or be COCO JSON.",
            ) from None
        for name, values in entries:
            told[prefix + name] = {key: value for key, value in values.items() if key not in OWN_COLUMNS}
    return told


def _entries(file_name: str, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    if file_name.endswith(".csv"):
        rows: list[dict[str, Any]] = list(csv.DictReader(io.StringIO(text)))
    elif file_name.endswith(".jsonl"):
        rows = [json.loads(line) for line in text.splitlines() if line.strip()]
    else:
        value = json.loads(text)
        if isinstance(value, dict) and {"images", "annotations"} <= set(value):
            return iter(list(_coco(value)))
        return iter(())
    return iter([(str(row.pop("file_name")), row) for row in rows])


def _coco(value: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """COCO: boxes as `[x, y, width, height]` in pixels, with the category's name."""
    names = {category["id"]: str(category["name"]) for category in value.get("categories", [])}
    boxes: dict[Any, list[dict[str, Any]]] = {}
    for annotation in value["annotations"]:
        category = names.get(annotation["category_id"], str(annotation["category_id"]))
        boxes.setdefault(annotation["image_id"], []).append({"bbox": annotation["bbox"], "category": category})
    for image in value["images"]:
        size = {"width": image.get("width"), "height": image.get("height")}
        yield str(image["file_name"]), {**size, "objects": boxes.get(image["id"], [])}
