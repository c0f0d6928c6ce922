"""transformers and PEFT in a plain loop, every step written out: `python plain_sft.py REQUEST.json` (made by `configs.trl_request`)."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM

IGNORE = -100


def loss_of(model: Any, rows: list[dict[str, list[int]]]) -> tuple[torch.Tensor, int]:
    """`(summed loss, supervised tokens)` of rows padded to the longest."""
    ids, labels = (
        pad_sequence([torch.tensor(row[name]) for row in rows], True, fill)
        for name, fill in (("input_ids", 0), ("labels", IGNORE))
    )
    mask = pad_sequence([torch.ones(len(row["input_ids"]), dtype=torch.long) for row in rows], True)
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits.float()
    loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORE, reduction="sum")
    return loss, int((labels[:, 1:] != IGNORE).sum())


def main() -> None:
    request = json.loads(Path(sys.argv[1]).read_text())
    sft = request["sft"]
    dtype = torch.bfloat16 if sft["bf16"] else torch.float32
    base = AutoModelForCausalLM.from_pretrained(request["model"], dtype=dtype)
    model = PeftModel.from_pretrained(base, request["adapter"], is_trainable=True)
    model.train()
    trained = [param for param in model.parameters() if param.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=sft["learning_rate"], weight_decay=0.0)
    rows = [json.loads(line) for line in Path(request["rows"]).read_text().splitlines()]
    size = sft["per_device_train_batch_size"]
    with Path(request["marks"]).open("w", buffering=1) as marks:

        def mark(event: str, **what: Any) -> None:
            marks.write(json.dumps({"at": time.time(), "event": event, **what}) + "\n")

        mark("train_begin", tokens=0, supervised=0)
        for step in range(sft["max_steps"]):
            mark("step_begin")
            with torch.autocast("cpu", dtype, enabled=sft["bf16"]):
                total, count = loss_of(model, rows[step * size : (step + 1) * size])
            (total / count).backward()
            torch.nn.utils.clip_grad_norm_(trained, sft["max_grad_norm"])
            optimizer.step()
            optimizer.zero_grad()
            mark("step_end")
            mark("loss", loss=float(total) / count)
    model.save_pretrained(sft["output_dir"])


if __name__ == "__main__":
    main()
