"""The report on a version: what is wrong, in which rows, in which words; and its statistics."""

from __future__ import annotations

import json
import statistics as plain
from pathlib import Path

from tests.dataprep.conftest import Child


def rows_csv(pairs: list[tuple[str, str]], header: str = "input,output") -> str:
    return header + "\n" + "".join(f'"{a}","{b}"\n' for a, b in pairs)


def test_empty_rows_are_counted_and_numbered(ingest: Child) -> None:
    pairs = [(f"question {i}", f"answer {i}") for i in range(1, 201)]
    for number in (3, 50, 51, 120, 199):
        pairs[number - 1] = (f"question {number}", " \t " if number % 2 else "")
    finding = ingest(rows_csv(pairs), "a.csv").finding("empty_rows")
    assert finding["message"] == "5 empty rows"
    assert finding["rows"] == [3, 50, 51, 120, 199]
    assert (finding["level"], finding["count"]) == ("error", 5)


def test_wholly_empty_rows_of_a_plain_table(ingest: Child) -> None:
    answer = ingest("height,width\n1,2\n,\n,3\n", "a.csv")
    assert answer.finding("empty_rows")["rows"] == [2]


def test_duplicates_and_near_duplicates(ingest: Child) -> None:
    pairs = [(f"how do I reach the {w} desk", "call them") for w in ("first", "second", "third")]
    pairs += [
        pairs[1],
        ("call them", "how do I reach the first desk"),
        ("How do I reach the THIRD desk?", "Call them!"),
    ]
    answer = ingest(rows_csv(pairs), "a.csv")
    assert answer.finding("duplicates")["rows"] == [4]
    assert answer.finding("near_duplicates")["rows"] == [6]


def test_near_duplicates_beyond_ascii_and_across_blocks(ingest: Child) -> None:
    pairs = [
        (f"{'wer weiß ' * (i % 7)} {chr(97 + i // 676)}{chr(97 + i // 26 % 26)}{chr(97 + i % 26)}", "x")
        for i in range(17_000)
    ]
    pairs[16_999] = ("GRÖSSE – 12", "ÄH…")
    pairs += [
        ("größe", "x"),
        ("grösse", "äh"),
        ("", ""),
        ("grosse", "ah"),
        ("don’t", "no"),
        ("Don't", "no!"),
        ("ab", "c"),
        ("a", "bc"),
    ]
    assert ingest(rows_csv(pairs), "a.csv").finding("near_duplicates")["rows"] == [17_002, 17_006]


def test_every_row_is_named_up_to_ten_thousand_and_the_count_is_whole(ingest: Child) -> None:
    finding = ingest(rows_csv([("a", "b")] * 10_500), "a.csv").finding("duplicates")
    assert finding["rows"] == list(range(2, 10_002)) and finding["count"] == 10_499


def test_few_rows(ingest: Child) -> None:
    few, enough = ([(f"q {i}", f"a {i}") for i in range(n)] for n in (99, 100))
    assert ingest(rows_csv(few), "a.csv").finding("few_rows")["count"] == 99
    assert "few_rows" not in ingest(rows_csv(enough), "a.csv").codes()


def test_lengths_in_characters_and_tokens(ingest: Child) -> None:
    pairs = [("ü" * (10 * i), "b" * 8) for i in range(1, 201)]
    answer = ingest(rows_csv(pairs), "a.csv", limits={"max_context_tokens": 400})
    lengths = answer.report["lengths"]["input"]
    expected = [10 * i for i in range(1, 201)]
    assert lengths["characters"]["max"] == 2000
    assert lengths["characters"]["mean"] == plain.mean(expected)
    assert abs(lengths["characters"]["p95"] - expected[189]) <= 10
    assert lengths["tokens"]["max"] == 1500  # a letter beyond ASCII counts for more than one in it
    assert lengths["share_over_context"] == 147 / 200
    assert "73.5%" in answer.finding("long_texts")["message"]
    assert answer.report["lengths"]["output"]["tokens"]["p50"] == 2


def test_tokens_by_a_real_tokenizer(ingest: Child, tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "word": 1}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    path = tmp_path / "tokenizer.json"
    tokenizer.save(str(path))
    pairs = [("word " * 7, "word")] * 3
    lengths = ingest(rows_csv(pairs), "a.csv", limits={"tokenizer": str(path)}).report["lengths"]
    assert lengths["input"]["tokens"]["max"] == 7
    assert "tokenizer" in lengths["input"]["tokens_from"]


def test_a_broken_tokenizer_is_named_and_lengths_are_estimated(ingest: Child, tmp_path: Path) -> None:
    """Cut off, absent, or without a token for the words at hand: the dataset is ready all the same."""
    from tokenizers import Tokenizer, models

    path = tmp_path / "model" / "tokenizer.json"
    path.parent.mkdir()
    whole = Tokenizer(models.WordLevel({"word": 0}, unk_token="[UNK]")).to_str()
    for content in (whole, whole[:40], "", None):
        path.unlink() if content is None else path.write_text(content)
        answer = ingest(rows_csv([("seventeen letters", "b")] * 3), "a.csv", limits={"tokenizer": str(path)})
        finding = answer.finding("broken_tokenizer")
        assert (finding["level"], finding["message"].split()[0]) == ("warning", "model/tokenizer.json")
        assert finding["hint"]
        assert answer.report["lengths"]["input"]["tokens"]["max"] == 5
        assert "4 characters" in answer.report["lengths"]["input"]["tokens_from"]


def test_class_balance(ingest: Child) -> None:
    pairs = [(f"text {i}", "common" if i % 20 else "rare") for i in range(200)]
    answer = ingest(rows_csv(pairs, "text,label"), "a.csv")
    assert answer.report["class_balance"] == {"common": 190, "rare": 10}
    assert "'rare' has 10" in answer.finding("imbalanced_classes")["message"]
    one = ingest(rows_csv([(f"t{i}", "x") for i in range(5)], "text,label"), "a.csv")
    assert "one_class" in one.codes()


def test_bad_conversations_and_tags_are_numbered(ingest: Child) -> None:
    good = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    lines = [json.dumps({"messages": turns}) for turns in (good, [{"role": "wizard", "content": "x"}], good, good[:1])]
    finding = ingest("\n".join(lines), "a.jsonl").finding("bad_conversation")
    assert finding["rows"] == [2, 4]
    assert "wizard" in finding["message"]
    lines = [json.dumps({"tokens": ["a", "b"], "tags": tags}) for tags in (["O", "O"], ["O"])]
    assert ingest("\n".join(lines), "b.jsonl").finding("tags_do_not_fit")["rows"] == [2]


def test_text_decoded_wrongly_is_named(ingest: Child) -> None:
    pairs = [("Größe?", "groß"), ("Größe?".encode().decode("cp1252"), "groß"), ("’s".encode().decode("cp1252"), "x")]
    assert ingest(rows_csv(pairs), "a.csv").finding("mojibake")["rows"] == [2, 3]


def test_statistics_of_each_column(ingest: Child) -> None:
    rows = [
        {"text": f"t{i % 3}", "n": i, "x": i / 2, "flag": i % 2 == 0, "gap": None if i % 4 else "here"}
        for i in range(20)
    ]
    told = ingest("\n".join(json.dumps(row) for row in rows), "a.jsonl").statistics
    assert (told["total_rows"], told["total_columns"]) == (20, 5)
    columns = told["columns"]
    assert [columns[name]["type"] for name in ("text", "n", "x", "flag", "gap")] == [
        "string",
        "integer",
        "float",
        "boolean",
        "string",
    ]
    assert columns["text"]["unique"] == 3
    assert columns["text"]["examples"] == ["t0", "t1", "t2"]
    assert columns["gap"]["nulls"] == 15
    assert (columns["n"]["min"], columns["n"]["max"], columns["n"]["mean"]) == (0, 19, 9.5)
    as_csv = "a,b,c,d\n1,1.5,true,x\n2,2,false,\n"
    columns = ingest(as_csv, "a.csv").statistics["columns"]
    assert [columns[name]["type"] for name in "abcd"] == ["integer", "float", "boolean", "string"]
