"""From any file to UTF-8 text or a known binary format: compression, format, encoding and delimiter are told by the content."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import itertools
import json
import lzma
import re
import struct
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any, NamedTuple

import pyarrow as pa

from tunesmith.core.errors import BadData, TooLarge, UnsupportedFormat

CHUNK_BYTES = 1024 * 1024
SAMPLE_BYTES = 256 * 1024
MAX_RATIO = 200
"""Most that compressed data may grow; real data stays under 100."""
FEW_HIGH_BYTES = 200
OTHER_ENCODINGS = (
    "cp1251",
    "koi8_r",
    "cp932",
    "shift_jis",
    "gb18030",
    "gb2312",
    "big5",
    "euc_jp",
    "euc_kr",
    "cp949",
    "cp1253",
    "cp1255",
    "cp1256",
)
REFUSED = {
    b"%PDF": ("A PDF is not read here.", "Save its text as .txt, or its tables as CSV."),
    b"\xd0\xcf\x11\xe0": ("This is an old Office file, which is not read here.", "Save the sheet as .xlsx or CSV."),
    b"\x1f\x8b": ("The file is compressed twice.", "Unpack it once and upload it again."),
    b"\x28\xb5\x2f\xfd": ("The file is compressed twice.", "Unpack it once and upload it again."),
}
"""First bytes of what is known and not read."""
MAX_ENTRIES = 200_000
"""Of a ZIP archive."""
END_BYTES = 66_000
"""At the end of an archive, where the number of its entries stands."""
DAMAGED_ZIP = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    UnicodeDecodeError,
    RuntimeError,
)
"""What the standard library raises for one; `RuntimeError` for a member that needs a password or a method that is not known."""
PICKLES = (".pkl", ".pickle", ".pt", ".pth", ".bin", ".npy", ".npz", ".joblib", ".h5", ".hdf5")


MAX_CONTROLS = 0.02
"""Share of control characters up to which bytes are text with a few of them in it."""
MAX_LINES_NAMED = 100


class Source(NamedTuple):
    """A file ready to be read."""

    path: Path
    format: str
    """csv, tsv, json, jsonl, parquet, xlsx, text, conll or zip."""
    encoding: str | None
    """What the text was in; the file at `path` is UTF-8."""
    delimiter: str | None
    warnings: list[str]
    nul_lines: list[int]
    """Lines out of which NUL bytes were taken."""
    num_nuls: int = 0


def open_source(
    path: Path,
    file_name: str,
    work_dir: Path,
    max_bytes: int,
    encoding: str | None = None,
    delimiter: str | None = None,
) -> Source:
    """Decompress and transcode into `work_dir` as needed; `encoding` and `delimiter` are detected when they are not given.
    Raises `UnsupportedFormat`, `TooLarge` or `BadData`."""
    path = decompress(path, work_dir, max_bytes)
    name = re.sub(r"\.(gz|gzip|zst|zstd)$", "", file_name.lower())
    head = _head(path)
    if not head:
        raise BadData("The file is empty.", hint="Choose a file with at least one row.")
    for start, (message, hint) in REFUSED.items():
        if head.startswith(start):
            raise UnsupportedFormat(message, hint=hint)
    if head[:4] == b"PAR1":
        return Source(path, "parquet", None, None, [], [])
    if head[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        return Source(path, "xlsx" if _is_xlsx(path) else "zip", None, None, [], [])
    if name.endswith(PICKLES) or head[:2] in (b"\x80\x04", b"\x80\x05", b"\x80\x03", b"\x93N"):
        raise UnsupportedFormat(
            "This format can run code when it is read, so it is not read here.",
            hint="Save the data as Parquet, CSV or JSON Lines.",
        )
    kind = name.rpartition(".")[2]
    if kind in ("parquet", "xlsx", "zip"):
        raise BadData(f"The file is called .{kind} but is none; it may be cut off.", hint="Make or upload it again.")
    path, encoding, warnings = to_utf8(path, work_dir, encoding)
    path, nul_lines, num_nuls = without_nuls(path, work_dir)
    sample = _head(path).decode("utf-8", errors="ignore")
    if not sample.strip() and path.stat().st_size <= SAMPLE_BYTES:
        raise BadData("The file is empty: it holds nothing but blanks.", hint="Choose a file with at least one row.")
    found = "csv" if delimiter else text_format(sample, name)
    if not delimiter:
        delimiter = find_delimiter(sample) if found == "csv" else "\t" if found == "tsv" else None
    return Source(path, "tsv" if delimiter == "\t" else found, encoding, delimiter, warnings, nul_lines, num_nuls)


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(SAMPLE_BYTES)


def _is_xlsx(path: Path) -> bool:
    with open_zip(path) as archive:
        return "xl/workbook.xml" in archive.namelist()


def _num_entries(path: Path) -> int:
    """As the end of the archive says, which may lie; 0 where it says nothing. The directory itself would be long to read."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - END_BYTES))
        tail = file.read()
    end, large = tail.rfind(b"PK\x05\x06"), tail.rfind(b"PK\x06\x06")
    if large >= 0 and len(tail) >= large + 40:
        return int.from_bytes(tail[large + 32 : large + 40], "little")
    return int.from_bytes(tail[end + 10 : end + 12], "little") if end >= 0 else 0


def open_zip(path: Path) -> zipfile.ZipFile:
    """The archive with its directory read. Raises `BadData` when it is damaged, `TooLarge` for more than `MAX_ENTRIES`."""
    if (count := _num_entries(path)) > MAX_ENTRIES:
        raise TooLarge(
            f"The archive has {count:,} entries; {MAX_ENTRIES:,} are read.", hint="Split it into several archives."
        )
    try:
        archive = zipfile.ZipFile(path)
    except DAMAGED_ZIP:
        raise BadData("The ZIP archive is damaged or cut off.", hint="Make or upload it again.") from None
    if any(info.header_offset < 0 for info in archive.infolist()):
        raise BadData("The ZIP archive is damaged or cut off.", hint="Make or upload it again.")
    return archive


def decompress(path: Path, work_dir: Path, max_bytes: int) -> Path:
    """The file itself, or what a gzip or zstd file holds, counted while it grows."""
    head = _head(path)[:4]
    try:
        if head[:2] == b"\x1f\x8b":
            with gzip.open(path) as stream:
                return _copy_limited(stream, work_dir / "plain", path.stat().st_size, max_bytes)
        if head == b"\x28\xb5\x2f\xfd":
            # Arrow's reader, because that of `zstandard` does not tell a stream that is cut off from one that ends.
            with pa.input_stream(str(path), compression="zstd") as stream:
                return _copy_limited(stream, work_dir / "plain", path.stat().st_size, max_bytes)
    except (OSError, EOFError, zlib.error) as error:
        if isinstance(error, OSError) and error.errno:
            raise
        raise BadData(
            "The compressed file is damaged or cut off.", hint="Compress it again and upload it again."
        ) from None
    return path


def _copy_limited(stream: IO[bytes] | Any, target: Path, compressed_bytes: int, max_bytes: int) -> Path:
    limit = min(max_bytes, max(64 * CHUNK_BYTES, compressed_bytes * MAX_RATIO))
    total = 0
    with target.open("wb") as out:
        while chunk := stream.read(CHUNK_BYTES):
            total += len(chunk)
            if total > limit:
                raise TooLarge(
                    f"Unpacked, the file exceeds {limit // CHUNK_BYTES} MB.",
                    hint="Split it, or raise TUNESMITH_MAX_UPLOAD_BYTES.",
                )
            out.write(chunk)
    return target


def to_utf8(path: Path, work_dir: Path, wanted: str | None = None) -> tuple[Path, str, list[str]]:
    """`(path of UTF-8 text without byte-order mark, encoding wanted or found, warnings)`."""
    head = _head(path)
    if wanted is not None:
        return _as_wanted(path, work_dir, wanted, head)
    for mark, encoding in (
        (codecs.BOM_UTF8, "utf-8-sig"),
        (codecs.BOM_UTF16_LE, "utf-16"),
        (codecs.BOM_UTF16_BE, "utf-16"),
    ):
        if head.startswith(mark):
            return _transcode(path, work_dir, encoding), encoding.removesuffix("-sig"), []
    if b"\x00" in head:
        wide = _utf16_without_mark(head)
        if wide is None and not _is_text(head):
            raise UnsupportedFormat(
                "This is not a text file.",
                hint="Upload CSV, TSV, JSON, JSONL, Parquet, XLSX, text, CoNLL, or a ZIP of media.",
            )
        if wide is not None:
            return _transcode(path, work_dir, wide), "utf-16", []
    if _is_utf8(path):
        return path, "utf-8", []
    if _mostly_utf8(head):
        warning = "Some characters are not valid UTF-8 and were replaced by \N{REPLACEMENT CHARACTER}."
        return _transcode(path, work_dir, "utf-8"), "utf-8", [warning]
    encoding = guess_single_byte(head)
    warning = f"The text is not UTF-8; it was read as {encoding}. Look at letters with accents in the preview."
    return _transcode(path, work_dir, encoding), encoding, [warning]


def _as_wanted(path: Path, work_dir: Path, wanted: str, head: bytes) -> tuple[Path, str, list[str]]:
    """Decoded as is asked for; that not all bytes fit is a warning."""
    if wanted in ("utf-8", "ascii") and not head.startswith(codecs.BOM_UTF8) and _is_utf8(path):
        return path, wanted, []
    if wanted == "utf-8" and head.startswith(codecs.BOM_UTF8):
        wanted = "utf-8-sig"
    if wanted == "utf-16" and not head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        wanted = _utf16_without_mark(head) or "utf-16-le"
    is_whole = True
    try:
        with path.open(encoding=wanted, errors="strict") as text:
            while text.read(CHUNK_BYTES):
                pass
    except UnicodeError:
        is_whole = False
    warning = f"Some bytes are not valid {wanted} and were replaced by \N{REPLACEMENT CHARACTER}. Try another encoding."
    try:
        return _transcode(path, work_dir, wanted), wanted.removesuffix("-sig"), [] if is_whole else [warning]
    except UnicodeError:
        raise BadData(
            f"The text is not {wanted}.", hint="Choose another encoding, or leave it to be detected."
        ) from None


def _is_text(head: bytes) -> bool:
    """Whether bytes with NULs among them are text but for a few."""
    controls = sum(head.count(byte) for byte in range(32) if byte not in b"\t\n\r\f")
    return controls <= max(1, MAX_CONTROLS * len(head))


def without_nuls(path: Path, work_dir: Path) -> tuple[Path, list[int], int]:
    """`(the text without its NUL bytes, the first lines that had one, how many there were)`."""
    with path.open("rb") as raw:
        if not any(b"\0" in chunk for chunk in iter(lambda: raw.read(CHUNK_BYTES), b"")):
            return path, [], 0
    target = work_dir / "no_nuls"
    lines: list[int] = []
    total = 0
    with path.open("rb") as raw, target.open("wb") as out:
        for number, line in enumerate(raw, start=1):
            if count := line.count(0):
                total += count
                if len(lines) < MAX_LINES_NAMED:
                    lines.append(number)
                line = line.replace(b"\0", b"")
            out.write(line)
    return target, lines, total


def _is_utf8(path: Path) -> bool:
    decoder = codecs.getincrementaldecoder("utf-8")()
    with path.open("rb") as file:
        try:
            while chunk := file.read(CHUNK_BYTES):
                decoder.decode(chunk)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return False
    return True


def _mostly_utf8(head: bytes) -> bool:
    """Whether the letters beyond ASCII are UTF-8 but for a few bytes: in no other encoding do they look so by chance."""
    text = head.decode("utf-8", errors="replace")
    broken = text.count("\N{REPLACEMENT CHARACTER}")
    return sum(not character.isascii() for character in text) - broken > 9 * broken


def _utf16_without_mark(head: bytes) -> str | None:
    even, odd = head[0::2].count(0), head[1::2].count(0)
    half = max(1, len(head) // 2)
    if odd > 0.4 * half and even < 0.05 * half:
        return "utf-16-le"
    if even > 0.4 * half and odd < 0.05 * half:
        return "utf-16-be"
    return None


def guess_single_byte(head: bytes) -> str:
    """Windows-1252 unless the bytes say otherwise; the bytes 0x80-0x9f are letters and quotes there, controls in Latin-1."""
    western = "cp1252" if any(0x80 <= byte <= 0x9F for byte in head) else "latin-1"
    if sum(byte >= 0x80 for byte in head) < FEW_HIGH_BYTES:
        return western  # too little to tell by: Western European is by far the likeliest
    from charset_normalizer import from_bytes

    best = from_bytes(head).best()
    return best.encoding if best and best.encoding in OTHER_ENCODINGS else western


def _transcode(path: Path, work_dir: Path, encoding: str) -> Path:
    target = work_dir / "utf8"
    try:
        with (
            path.open(encoding=encoding, errors="strict", newline="") as text,
            target.open("w", encoding="utf-8", newline="") as out,
        ):
            while chunk := text.read(CHUNK_BYTES):
                out.write(chunk)
    except UnicodeError:
        with (
            path.open(encoding=encoding, errors="replace", newline="") as text,
            target.open("w", encoding="utf-8", newline="") as out,
        ):
            while chunk := text.read(CHUNK_BYTES):
                out.write(chunk)
    return target


def text_format(sample: str, name: str) -> str:
    """csv, tsv, json, jsonl, conll or text: by content where that is plain, by the name's ending where it is not."""
    start = sample.lstrip()
    first_line = start.partition("\n")[0].strip()
    if start[:1] == "[" and not name.endswith((".csv", ".tsv", ".txt", ".conll")):
        return "jsonl" if _are_lists(first_line, start.partition("\n")[2].lstrip(), name) else "json"
    if start[:1] == "{" and not name.endswith((".csv", ".tsv", ".txt", ".conll")):
        second = start.partition("\n")[2].lstrip()[:1]  # many a file called .json holds one object a line
        lines = _is_json(first_line) and (second == "{" or not name.endswith(".json"))
        return "jsonl" if lines or name.endswith((".jsonl", ".ndjson")) else "json"
    if name.endswith((".json", ".jsonl", ".ndjson")):
        return "jsonl" if name.endswith(("l", ".ndjson")) else "json"
    if name.endswith((".conll", ".iob", ".bio", ".annotated")) or (
        not name.endswith((".csv", ".tsv")) and _is_conll(sample)
    ):
        return "conll"
    if name.endswith(".tsv"):
        return "tsv"
    if name.endswith(".csv"):
        return "csv"
    if name.endswith((".txt", ".text", ".md")):
        return "text"
    widths = _widths(sample, find_delimiter(sample))
    usual = max(set(widths), key=widths.count, default=0)
    tabular = len(widths) > 1 and usual > 1 and widths.count(usual) > 0.6 * len(widths)
    return "csv" if tabular else "text"


def _are_lists(first_line: str, rest: str, name: str) -> bool:
    """Whether each line is a list: the first is whole and another follows, or it alone holds cells and the name says lines."""
    if not _is_json(first_line):
        return False
    return rest[:1] == "[" or (
        name.endswith((".jsonl", ".ndjson")) and not rest and not first_line[1:].lstrip().startswith(("{", "["))
    )


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _is_conll(sample: str) -> bool:
    """Two columns of token and BIO tag, sentences apart by blank lines."""
    lines = [line for line in sample.splitlines()[:500] if line.strip()]
    tags = [line.split()[-1] for line in lines if len(line.split()) >= 2]
    return (
        len(lines) > 3
        and len(tags) == len(lines)
        and sum(bool(re.fullmatch(r"O|[BIESLU]-\S+", t)) for t in tags) > 0.95 * len(tags)
    )


def find_delimiter(sample: str) -> str:
    """The one that splits most of the first lines alike; lines above the table may not have it."""
    best, best_score = ",", -1.0
    for delimiter in (",", "\t", ";", "|"):
        widths = _widths(sample, delimiter)
        wide = [width for width in widths if width > 1]
        if not wide:
            continue
        usual = max(set(wide), key=wide.count)
        score = wide.count(usual) / len(widths) + min(usual, 20) / 100
        if score > best_score:
            best, best_score = delimiter, score
    return best


def _widths(sample: str, delimiter: str) -> list[int]:
    """Cells in each of the first rows; the last line of a sample may be cut and is left out."""
    lines = sample.splitlines(keepends=True)
    whole = "".join(lines[:-1] if len(lines) > 1 and not sample.endswith("\n") else lines)
    try:
        rows = list(itertools.islice(csv.reader(io.StringIO(whole), delimiter=delimiter), 50))
    except csv.Error:
        return []
    return [len(row) for row in rows if row]
