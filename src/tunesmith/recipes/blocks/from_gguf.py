"""`python -m tunesmith.recipes.blocks.from_gguf MODEL.gguf FOLDER`: a GGUF model as dense bf16 safetensors with its tokenizer."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from tunesmith.recipes.gguf import check_gguf


def convert(gguf: Path, folder: Path) -> None:
    """Dequantise `gguf` and save it to `folder` as plain transformers would. Raises as `check_gguf`."""
    check_gguf(gguf)
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    if tokenizer.chat_template and "<|im_end|>" in tokenizer.chat_template:
        tokenizer.eos_token = "<|im_end|>"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    model: Any = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, quantization_config=GgufConfig(dequantize=True), dtype=torch.bfloat16
    )
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    output, embedding = model.get_output_embeddings().weight, model.get_input_embeddings().weight
    model.config.tie_word_embeddings = output is embedding or bool(torch.equal(output, embedding))
    model.tie_weights()
    for config in (model.config, model.generation_config):
        config.eos_token_id, config.pad_token_id = tokenizer.eos_token_id, tokenizer.pad_token_id
        config.bos_token_id = tokenizer.bos_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
