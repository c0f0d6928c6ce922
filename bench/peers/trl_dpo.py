"""TRL's DPOTrainer as its documentation shows it, on tokens that are made already: `python trl_dpo.py REQUEST.json`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from marks import Marks
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer

from datasets import Dataset


class TokensAreGiven(DPOTrainer):
    """Takes rows of `prompt_ids`, `chosen_ids` and `rejected_ids` as they are."""

    def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
        return dataset


class PairMarks(Marks):
    """Notes how many pairs the trainer will go through, and their tokens."""

    def on_train_begin(self, *_: Any, train_dataloader: Any = None, **__: Any) -> None:
        rows = train_dataloader.dataset
        tokens = sum(2 * len(row["prompt_ids"]) + len(row["chosen_ids"]) + len(row["rejected_ids"]) for row in rows)
        self._mark("train_begin", num_rows=len(rows), tokens=tokens, supervised=0)


def main() -> None:
    request = json.loads(Path(sys.argv[1]).read_text())
    rows = [json.loads(line) for line in Path(request["rows"]).read_text().splitlines()]
    trainer = TokensAreGiven(
        model=AutoModelForCausalLM.from_pretrained(request["model"], dtype=request["dtype"]),
        args=DPOConfig(**request["dpo"]),
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(request["model"]),
        peft_config=LoraConfig(task_type="CAUSAL_LM", **request["lora"]) if request["lora"] else None,
        callbacks=[PairMarks(Path(request["marks"]))],
    )
    trainer.train()
    trainer.save_model(request["dpo"]["output_dir"])


if __name__ == "__main__":
    main()
