"""TRL's SFTTrainer as its documentation shows it: `python trl_sft.py REQUEST.json` (made by `configs.trl_request`)."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from marks import Marks
from peft import LoraConfig, PeftModel
from transformers import AutoModelForCausalLM, BitsAndBytesConfig
from trl import SFTConfig, SFTTrainer

from datasets import Dataset


def main() -> None:
    request = json.loads(Path(sys.argv[1]).read_text())
    if request["bf16_products"]:  # what stays in fp32 may be multiplied in bf16
        torch.set_float32_matmul_precision("medium")
    rows = [json.loads(line) for line in Path(request["rows"]).read_text().splitlines()]
    four_bit = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16 if request["sft"]["bf16"] else torch.float32,
    )
    model, adapter = request["model"], request["lora"]
    if start := request.get("adapter"):  # go on from an adapter instead of making one
        base = AutoModelForCausalLM.from_pretrained(model, **request["sft"].pop("model_init_kwargs"))
        model, adapter = PeftModel.from_pretrained(base, start, is_trainable=True), None
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(**request["sft"]),
        train_dataset=Dataset.from_list(rows),
        peft_config=LoraConfig(task_type="CAUSAL_LM", **adapter) if adapter else None,
        quantization_config=four_bit if request["four_bit"] else None,
        callbacks=[Marks(Path(request["marks"]))],
    )
    trainer.train()
    trainer.save_model(request["sft"]["output_dir"])


if __name__ == "__main__":
    main()
