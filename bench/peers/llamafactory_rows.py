"""Rows for LLaMA-Factory's `tokenized_path`: `python llamafactory_rows.py ROWS.jsonl FOLDER`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from datasets import Dataset, DatasetDict


def main() -> None:
    rows = [json.loads(line) for line in Path(sys.argv[1]).read_text().splitlines()]
    whole = [{**row, "attention_mask": [1] * len(row["input_ids"])} for row in rows]
    DatasetDict({"train": Dataset.from_list(whole)}).save_to_disk(sys.argv[2])


if __name__ == "__main__":
    main()
