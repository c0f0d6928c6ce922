"""Files that are cut off, wrong, hostile or odd: each is refused with a place and a remedy, or read with the damage named."""

from __future__ import annotations

import gzip
import io
import json
import pickle

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from tests.dataprep.conftest import Child
from tests.dataprep.workbook import MAIN, from_xml, workbook

CSV = b"input,output\n" + b"".join(b"question %d,answer %d\n" % (i, i) for i in range(2000))


def parquet(**columns: object) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


def damaged_in_the_middle(content: bytes) -> bytes:
    half = len(content) // 2
    return content[:half] + bytes(255 - byte for byte in content[half : half + 400]) + content[half + 400 :]


GOOD_PARQUET = parquet(input=[f"question {i * 7919}" for i in range(3000)], output=["x"] * 3000)

REFUSED: dict[str, tuple[str, bytes, tuple[str, ...]]] = {
    "nothing in it": ("a.csv", b"", ("empty",)),
    "only blanks": ("a.csv", b" \n\n  \n", ("empty",)),
    "only a header": ("a.csv", b"input,output\n", ("no rows",)),
    "only a mark": ("a.csv", b"\xef\xbb\xbf", ("empty",)),
    "gzip cut off": ("a.csv.gz", gzip.compress(CSV)[:-200], ("damaged or cut off",)),
    "gzip damaged": ("a.csv.gz", damaged_in_the_middle(gzip.compress(CSV)), ("damaged or cut off",)),
    "gzip of nothing": ("a.csv.gz", gzip.compress(b""), ("empty",)),
    "zstd cut off": ("a.csv.zst", zstandard.ZstdCompressor().compress(CSV)[:-50], ("damaged or cut off",)),
    "gzip bomb": ("a.csv.gz", gzip.compress(b"a,b\n" + b"0" * 100_000_000), ("exceeds",)),
    "gzip in gzip": ("a.csv.gz.gz", gzip.compress(gzip.compress(CSV)), ("compressed twice",)),
    "100,000 columns": ("a.csv", b",".join(b"c%d" % i for i in range(100_000)) + b"\n1\n", ("100000 columns",)),
    "NUL bytes": ("a.csv", b"input,output\n" + b"\x00\x01\x02" * 500, ("not a text file",)),
    "an image": ("a.csv", b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + bytes(range(256)) * 4, ("not a text file",)),
    "a quote never closed": ("a.csv", b'input,output\na,b\n"c,d\n' + b"e,f\n" * 50, ("row 2", "quote")),
    "a pickle": ("a.pkl", pickle.dumps([{"a": 1}]), ("run code",)),
    "a pickle called csv": ("a.csv", pickle.dumps([{"a": 1}]), ("run code",)),
    "JSON cut off": ("a.json", json.dumps([{"input": "a"}] * 50).encode()[:-30], ("line 1",)),
    "JSON of numbers": ("a.json", b"[1, 2, 3]", ("item 1",)),
    "JSON with one odd item": ("a.json", b'[{"a": 1}, [2]]', ("item 2",)),
    "JSON text": ("a.json", b'"hello"', ("list of objects",)),
    "JSON of empty objects": ("a.json", b"[{}, {}]", ("no",)),
    "JSON 100,000 deep": ("a.json", b'[{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}]", ("deep",)),
    "JSONL without an object": ("a.jsonl", b"nope\n1\n", ("line 1",)),
    "JSON of 100,000 fields": ("a.json", json.dumps([{f"f{i}": 1 for i in range(100_000)}]).encode(), ("fields",)),
    "Parquet cut off": ("a.parquet", GOOD_PARQUET[:-100], ("parquet",)),
    "Parquet damaged": ("a.parquet", damaged_in_the_middle(GOOD_PARQUET), ("parquet",)),
    "Parquet only in name": ("a.parquet", b"PAR1" + b"x" * 100 + b"PAR1", ("parquet",)),
    "Parquet without rows": ("a.parquet", parquet(a=pa.array([], pa.string())), ("no rows",)),
    "Parquet without columns": ("a.parquet", parquet(), ("no rows",)),
    "Parquet with 12,000 columns": ("a.parquet", parquet(**{f"c{i}": [1] for i in range(12_000)}), ("12000 columns",)),
    "text that claims to be Parquet": ("a.parquet", b"hello, not parquet\n", ("parquet",)),
    "workbook without rows": ("a.xlsx", workbook([]), ("sheet",)),
    "workbook cut off": ("a.xlsx", workbook([["input", "output"], ["a", "b"]])[:-60], ("damaged",)),
    "workbook with broken XML": ("a.xlsx", from_xml("<worksheet><sheetData><row><c r="), ("workbook",)),
    "workbook bomb": ("a.xlsx", from_xml(f'<worksheet xmlns="{MAIN}"><sheetData>' + " " * 100_000_000), ("unpacked",)),
    "workbook with one far cell": (
        "a.xlsx",
        from_xml(
            f'<worksheet xmlns="{MAIN}"><sheetData><row r="1"><c r="A1"><v>1</v></c></row>'
            '<row r="1048576"><c r="XFD1048576"><v>2</v></c></row></sheetData></worksheet>'
        ),
        ("cells",),
    ),
    "an old workbook": ("a.xls", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), ("old office",)),
    "a PDF": ("a.pdf", b"%PDF-1.7\n" + b"1 0 obj\n" * 40, ("PDF",)),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refused_with_place_and_remedy(ingest: Child, what: str) -> None:
    name, content, words = REFUSED[what]
    ingest(content, name, ok=False).refused(*words)


def test_ragged_lines_are_named_and_the_rest_is_kept(ingest: Child) -> None:
    lines = [f"question {i},answer {i}" for i in range(1, 301)]
    lines[6] = "only one"
    lines[199] = "one,two,three"
    lines[4] = '"two\nlines",answer'
    answer = ingest("input,output\n" + "\n".join(lines) + "\n", "ragged.csv")
    found = answer.finding("ragged_lines")
    assert found["rows"] == [7, 200]
    assert found["count"] == 2
    assert answer.version["num_rows"] == 298
    assert answer.frame["input"][4] == "two\nlines"


def test_ragged_lines_far_into_a_large_file(ingest: Child) -> None:
    lines = [f"{'question ' * 20}{i},answer {i}" for i in range(1, 60_001)]
    lines[54_320] = "cut"
    answer = ingest("input,output\n" + "\n".join(lines) + "\n", "large.csv")
    assert answer.finding("ragged_lines")["rows"] == [54_321]
    assert answer.version["num_rows"] == 59_999


def test_jsonl_with_bad_lines_names_them(ingest: Child) -> None:
    lines = [json.dumps({"input": f"q{i}", "output": f"a{i}"}) for i in range(120)]
    lines[2] = '{"input": "cut'
    lines[9] = "[1, 2]"
    lines[11] = '{"input": "\\ud800 lone", "output": "x", "\\ud800": 1}'
    answer = ingest("\n".join(lines), "bad.jsonl")
    found = answer.finding("bad_json")
    assert found["rows"] == [3, 10]
    assert answer.version["num_rows"] == 118
    assert answer.frame["input"][10 - 1] == "? lone"


def test_json_that_is_deep_is_kept_or_refused(ingest: Child) -> None:
    for depth in (300, 960, 995):
        value = json.loads("[" * 300 + "]" * 300) if depth == 300 else None
        answer = ingest(b'[{"a":' + b"[" * depth + b"]" * depth + b"}]", "a.json", ok=False)
        if answer.code == 2:
            answer.refused("deep")
        else:
            assert len(answer.frame["a"][0]) == 2 * depth
        assert value is None or json.loads(answer.frame["a"][0]) == value


def test_conll_lines_without_a_tag_are_named(ingest: Child) -> None:
    answer = ingest("EU\tB-ORG\nrejects\tO\nbroken\nGerman\tB-MISC\n", "a.conll")
    assert answer.finding("ragged_lines")["rows"] == [3]


def test_parquet_text_that_is_not_utf8(ingest: Child) -> None:
    bad = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\3\0\0\0"), pa.py_buffer(b"\xff\xfe\xfd")]
    )
    ingest(parquet(text=bad), "bytes.parquet", ok=False).refused("utf")


def test_parquet_that_grows_a_thousandfold(ingest: Child) -> None:
    """One long text, named by every row: a few kilobytes that would be forty gigabytes."""
    one = pa.array(["x" * 10_000_000])
    content = parquet(text=pa.DictionaryArray.from_arrays(pa.array([0] * 4000, pa.int32()), one))
    assert len(content) < 3_000_000
    ingest(content, "bomb.parquet", ok=False, limit_bytes=1 << 30).refused()


def test_parquet_of_more_rows_than_allowed(ingest: Child) -> None:
    content = parquet(n=pa.repeat(pa.scalar(1, pa.int8()), 3_000_000))
    assert len(content) < 20_000
    ingest(content, "rows.parquet", ok=False, limits={"max_rows": 1_000_000}).refused("1000000 rows")


def test_size_over_the_limit_names_the_limit(ingest: Child) -> None:
    error = ingest(b"a,b\n" + b"1,2\n" * 600_000, "big.csv", ok=False, limits={"max_bytes": 2 << 20}).refused()
    assert error["message"] == "File exceeds 2MB limit"
    error = ingest(b"x" * (50 * 1024**2 + 1), "big.txt", ok=False, limits={"max_bytes": 50 << 20}).refused()
    assert error["message"] == "File exceeds 50MB limit"
    squeezed = gzip.compress(b"".join(b"%d,%d\n" % (i, i * i) for i in range(200_000)))
    ingest(squeezed, "grows.csv.gz", ok=False, limits={"max_bytes": 2 << 20}).refused("exceeds 2 MB")


def test_memory_that_is_not_there_is_an_answer_too(ingest: Child) -> None:
    content = json.dumps([{"input": "x" * 50, "output": str(i)} for i in range(300_000)]).encode()
    ingest(content, "large.json", ok=False, limit_bytes=300 << 20).refused("memory")


def test_a_disk_that_is_full_is_an_answer_too(ingest: Child) -> None:
    content = b"input,output\n" + b"".join(b"question %d,%d\n" % (i, i * i * 7919) for i in range(100_000))
    answer = ingest(content, "a.csv", ok=False, disk_bytes=200_000)
    assert answer.refused("disk is full")["error"] == "disk_full"
