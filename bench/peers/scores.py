"""What an adapter is worth on rows that it has not seen, by plain transformers and PEFT alone."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.nn import functional as F

BATCH_ROWS = 20
MAX_NEW_TOKENS = 200


class Scores(NamedTuple):
    """Of one adapter."""

    num_rows: int
    loss: float
    """Nats an answer's token."""
    accuracy: float
    """Share of the answers' tokens that were the first choice."""
    right: int
    answered: int


def score_adapter(model_path: Path, adapter: Path, rows: list[dict[str, str]], num_answers: int) -> Scores:
    """`rows` hold question and answer; the first `num_answers` of them are answered greedily, and right when the number is."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_path, padding_side="left")
    model = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32), str(adapter)
    )
    merged: Any = model.merge_and_unload()
    merged.eval()
    total, correct, count = 0.0, 0, 0
    with torch.inference_mode():
        for row in rows:
            talk = [{"role": "user", "content": row["question"]}, {"role": "assistant", "content": row["answer"]}]
            prompt = tokenizer.apply_chat_template(talk[:1], add_generation_prompt=True, tokenize=False)
            begin = len(tokenizer(prompt)["input_ids"])
            ids = torch.tensor(tokenizer(tokenizer.apply_chat_template(talk, tokenize=False).rstrip())["input_ids"])
            logits, targets = merged(input_ids=ids[None]).logits[0, begin - 1 : -1].float(), ids[begin:]
            total += float(F.cross_entropy(logits, targets, reduction="sum"))
            correct += int((logits.argmax(-1) == targets).sum())
            count += len(targets)
        right = sum(
            _num_right(merged, tokenizer, rows[at : min(at + BATCH_ROWS, num_answers)])
            for at in range(0, num_answers, BATCH_ROWS)
        )
    return Scores(len(rows), total / count, correct / count, right, num_answers)


def _num_right(model: Any, tokenizer: Any, rows: list[dict[str, str]]) -> int:
    prompts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": row["question"]}], add_generation_prompt=True, tokenize=False
        )
        for row in rows
    ]
    asked = tokenizer(prompts, return_tensors="pt", padding=True)
    said = model.generate(**asked, max_new_tokens=MAX_NEW_TOKENS, do_sample=False)[:, asked["input_ids"].shape[1] :]
    texts = tokenizer.batch_decode(said, skip_special_tokens=True)
    return sum(_number(text) == _number(row["answer"]) is not None for text, row in zip(texts, rows, strict=True))


def _number(text: str) -> str | None:
    found = re.search(r"####\s*(-?[\d,.]+)", text)
    return found.group(1).replace(",", "").rstrip(".") if found else None
