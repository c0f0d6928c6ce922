"""Public data sets as they come: counts and cells must be those of a plain reader."""

from __future__ import annotations

import csv
import hashlib
import json
import zipfile
from pathlib import Path

from tests.dataprep.conftest import Child


def test_gsm8k_jsonl_is_question_and_answer(ingest: Child, data_dir: Path) -> None:
    path = data_dir / "gsm8k" / "train.jsonl"
    answer = ingest(path)
    assert answer.version["shape"] == "question_answer"
    assert answer.version["mapping"] == {"question": "question", "answer": "answer"}
    assert (answer.version["format"], answer.version["type"]) == ("jsonl", "text")
    rows = [json.loads(line) for line in path.open()]
    assert answer.frame.to_dicts() == rows
    assert answer.statistics["total_rows"] == 7473
    assert answer.statistics["columns"]["question"]["unique"] == len({row["question"] for row in rows})
    assert answer.report["valid"]
    characters = sorted(len(row["question"]) for row in rows)
    assert answer.report["lengths"]["question"]["characters"]["max"] == characters[-1]
    assert abs(answer.report["lengths"]["question"]["characters"]["p50"] - characters[len(rows) // 2]) <= 1


def test_banking77_csv_keeps_commas_quotes_and_line_breaks(ingest: Child, data_dir: Path) -> None:
    path = data_dir / "banking77" / "train.csv"
    answer = ingest(path)
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert any("\n" in row["text"] for row in rows), "the file is known for its line breaks"
    assert answer.frame.to_dicts() == rows
    assert answer.version["shape"] == "text_label"
    assert answer.version["mapping"] == {"text": "text", "label": "category"}
    assert len(answer.report["class_balance"]) == 77
    assert sum(answer.report["class_balance"].values()) == 10_003


def test_wnut17_columns_of_tokens_and_tags(ingest: Child, data_dir: Path) -> None:
    for name, sentences in (("wnut17train.conll", 3394), ("emerging.test.annotated", 1287)):
        path = data_dir / "wnut17" / name
        answer = ingest(path)
        assert (answer.version["format"], answer.version["shape"]) == ("conll", "tokens_tags")
        assert answer.version["num_rows"] == sentences
        tokens = [token for cell in answer.frame["tokens"] for token in json.loads(cell)]
        expected = [line.split("\t")[0] for line in path.read_text().splitlines() if line.strip()]
        assert tokens == expected
        assert "tags_do_not_fit" not in answer.codes()


def test_bccd_zip_with_coco_annotations(ingest: Child, data_dir: Path) -> None:
    path = data_dir / "bccd_coco.zip"
    answer = ingest(path)
    assert (answer.version["type"], answer.version["shape"]) == ("image", "image")
    assert answer.version["num_rows"] == 205 + 87 + 72
    frame = answer.frame
    assert frame["split"].value_counts().sort("split").rows() == [("test", 72), ("train", 205), ("val", 87)]
    with zipfile.ZipFile(path) as archive:
        for split in ("train", "val", "test"):
            coco = json.loads(
                archive.read(next(n for n in archive.namelist() if n.startswith(f"{split}/") and n.endswith(".json")))
            )
            ours = [box for cell in frame.filter(split=split)["objects"] for box in json.loads(cell)]
            assert len(ours) == len(coco["annotations"])
            assert {box["category"] for box in ours} == {c["name"] for c in coco["categories"]}
        row = frame.row(100, named=True)
        assert (answer.media / row["media"]).read_bytes() == archive.read(row["file_name"])
    assert len(list(answer.media.iterdir())) == 364


def test_fsdd_zip_with_one_folder_a_class(ingest: Child, data_dir: Path) -> None:
    answer = ingest(data_dir / "fsdd_subset.zip")
    assert (answer.version["type"], answer.version["shape"]) == ("audio", "audio")
    assert answer.version["mapping"] == {"media": "media", "label": "label"}
    assert answer.version["num_rows"] == 360
    assert set(answer.report["class_balance"]) == set(answer.frame["label"].unique())
    assert len(answer.report["class_balance"]) >= 6
    assert all((answer.media / name).read_bytes()[:4] == b"RIFF" for name in answer.frame["media"])


def test_the_original_is_not_touched(ingest: Child, data_dir: Path) -> None:
    path = data_dir / "banking77" / "test.csv"
    before = hashlib.sha256(path.read_bytes()).hexdigest()
    ingest(path)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == before


def test_real_train_and_test_split_overlap(ingest: Child, data_dir: Path) -> None:
    """banking77's two halves share a few questions; a copy of twenty rows with other case and stops is found too."""
    from tunesmith.dataprep.overlap import overlap

    train = ingest(data_dir / "banking77" / "train.csv")
    held_out = ingest(data_dir / "banking77" / "test.csv")
    real = {f.code: f.count for f in overlap(train.out / "data.parquet", held_out.out / "data.parquet", ["text"])}
    assert sum(real.values()) < 300
    texts = [text for text in train.frame["text"] if len(text.split()) > 8][:20]
    own = ingest("text\n" + "\n".join(f'"{t.upper().replace(chr(34), "")}!!"' for t in texts), "copied.csv")
    found = {f.code: f for f in overlap(train.out / "data.parquet", own.out / "data.parquet", ["text"])}
    assert found["held_out_in_training"].count == 20
    assert found["held_out_in_training"].rows == list(range(1, 21))
    long = sorted(train.frame["text"].to_list(), key=len)[-20:]  # 50 words and more, so that two more change little
    near = "\n".join(f'"{t.replace(chr(34), "")} thank you"' for t in long)
    nearly = ingest("text\n" + near, "nearly.csv")
    found = {f.code: f for f in overlap(train.out / "data.parquet", nearly.out / "data.parquet", ["text"])}
    assert found["held_out_nearly_in_training"].count >= 18
