"""ZIP archives that are hostile or damaged: nothing is written outside the media folder, nothing grows without bound."""

from __future__ import annotations

import io
import stat
import zipfile
from pathlib import Path

import pytest

from tests.dataprep.conftest import Child

PNG = b"\x89PNG\r\n\x1a\n" + b"pixels" * 20


def archive(*entries: tuple[str | zipfile.ZipInfo, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        for name, content in entries:
            file.writestr(name, content)
    return buffer.getvalue()


def link(name: str, target: bytes, kind: int = stat.S_IFLNK) -> tuple[zipfile.ZipInfo, bytes]:
    info = zipfile.ZipInfo(name)
    info.create_system = 3
    info.external_attr = (kind | 0o777) << 16
    return info, target


def encrypted() -> bytes:
    content = bytearray(archive(("a/x.png", PNG)))
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.find(signature) + offset] |= 1
    return bytes(content)


def said_to_be_small() -> bytes:
    """The directory says 10 bytes; a hundred megabytes come out."""
    content = bytearray(archive(("a/x.png", b"\0" * 100_000_000)))
    for signature, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        at = content.find(signature) + offset
        content[at : at + 4] = (10).to_bytes(4, "little")
    return bytes(content)


REFUSED: dict[str, tuple[bytes, tuple[str, ...]]] = {
    "parent folder": (archive(("a/x.png", PNG), ("../evil.png", PNG)), ("outside", "../evil.png")),
    "parent folder inside": (archive(("a/../../evil.png", PNG)), ("outside",)),
    "absolute path": (archive(("/tmp/evil.png", PNG)), ("outside",)),
    "drive letter": (archive(("C:/evil.png", PNG)), ("outside",)),
    "backslashes": (archive(("a\\..\\..\\evil.png", PNG)), ("outside",)),
    "symbolic link": (archive(("a/x.png", PNG), link("a/link.png", b"/etc/passwd")), ("link", "a/link.png")),
    "device": (archive(link("a/null.png", b"", stat.S_IFCHR)), ("link or device",)),
    "bomb": (archive(("a/x.png", b"\0" * 100_000_000)), ("exceeds",)),
    "same name twice": (archive(("a/x.png", PNG), ("A/X.png", PNG)), ("twice",)),
    "encrypted": (encrypted(), ("encrypted",)),
    "no media": (archive(("readme.md", b"hello")), ("no images",)),
    "empty": (archive(), ("no images",)),
    "cut off": (archive(("a/x.png", PNG * 100))[:-40], ("damaged or cut off",)),
    "metadata not JSON": (archive(("x.png", PNG), ("metadata.jsonl", b"nope\n")), ("metadata.jsonl",)),
    "metadata of numbers": (archive(("x.png", PNG), ("metadata.jsonl", b"1\n")), ("metadata.jsonl",)),
    "metadata without names": (archive(("x.png", PNG), ("metadata.csv", b"a,b\n1,2\n")), ("metadata.csv", "file_name")),
    "COCO of wrong kinds": (
        archive(("x.png", PNG), ("c.json", b'{"images": [[1]], "annotations": [{"image_id": []}]}')),
        ("c.json",),
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refused_before_anything_is_written(ingest: Child, tmp_path: Path, what: str) -> None:
    content, words = REFUSED[what]
    answer = ingest(content, "media.zip", ok=False)
    answer.refused(*words)
    assert not list(tmp_path.rglob("*evil*"))
    assert not answer.media.exists() or not list(answer.media.iterdir())


def test_size_is_counted_while_unpacking(ingest: Child) -> None:
    """An archive that lies about its sizes gives at most what it said, and is named as damaged."""
    answer = ingest(said_to_be_small(), "liar.zip", ok=False)
    if answer.code == 2:
        answer.refused()
    else:
        assert answer.finding("damaged_media")["rows"] == [1]
    assert sum(path.stat().st_size for path in answer.media.rglob("*") if path.is_file()) <= 10


def test_a_damaged_picture_is_named_and_the_rest_is_kept(ingest: Child) -> None:
    content = archive(("a/1.png", PNG), ("a/2.png", b"second" + PNG), ("b/3.png", PNG), compression=zipfile.ZIP_STORED)
    answer = ingest(content.replace(b"second", b"SECOND"), "media.zip")
    assert answer.finding("damaged_media")["rows"] == [2]
    assert not answer.report["valid"]
    assert answer.version["num_rows"] == 3


def test_metadata_cannot_choose_which_file_is_served(ingest: Child) -> None:
    """A column named `media` must not replace the stored file's name, nor may a ragged line break the reading."""
    content = archive(
        ("x.png", PNG), ("metadata.csv", b"file_name,media,label\nx.png,../../../etc/passwd,cat,more,and more\n")
    )
    answer = ingest(content, "media.zip")
    assert answer.frame["media"].to_list() == ["0000001.png"]
    assert (answer.media / "0000001.png").read_bytes() == PNG
    assert answer.report["class_balance"] == {"cat": 1}


def test_damaged_metadata_is_named(ingest: Child) -> None:
    content = archive(("x.png", PNG), ("metadata.csv", b"file_name,label\nx.png,cat\n"), compression=zipfile.ZIP_STORED)
    ingest(content.replace(b"x.png,cat", b"x.png,CAT"), "media.zip", ok=False).refused("metadata.csv")


def test_files_that_only_the_metadata_has_are_named(ingest: Child) -> None:
    content = archive(("x.png", PNG), ("metadata.csv", b"file_name,label\nx.png,cat\nlost.png,dog\n"))
    finding = ingest(content, "media.zip").finding("missing_media")
    assert finding["rows"] == [2]
    assert "lost.png" in finding["message"]


def test_damage_anywhere_is_an_answer(ingest: Child) -> None:
    """A directory that points before the file, a version nobody reads: what the library raises is not always its own."""
    content = archive(("a/x.png", PNG), ("metadata.csv", b"file_name\na/x.png\n"))
    directory = content.find(b"PK\x01\x02")
    version = content[: directory + 6] + b"\x60" + content[directory + 7 :]
    start = content.rfind(b"PK\x05\x06") + 16
    points_before = content[:start] + (directory + 50).to_bytes(4, "little") + content[start + 4 :]
    for damaged in (version, points_before):
        ingest(damaged, "media.zip", ok=False).refused("damaged")
        ingest(damaged, "book.xlsx", ok=False).refused("damaged")


def test_files_of_the_system_are_passed_over(ingest: Child) -> None:
    content = archive(("a/x.png", PNG), ("__MACOSX/a/._x.png", b"junk"), ("a/.DS_Store", b"junk"), ("a/", b""))
    assert ingest(content, "mac.zip").frame["file_name"].to_list() == ["a/x.png"]
