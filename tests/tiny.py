"""Small models with random weights, of several architectures, and a small tokenizer made on the spot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 512}  # fmt: skip


def make_tokenizer() -> Any:
    """A byte-level BPE tokenizer of 400 entries with the ChatML template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["the question and the answer of user and assistant " * 20], trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|im_end|>", bos_token="<|im_start|>"
    )
    fast.chat_template = CHATML
    return fast


def tiny_config(family: str, vocab_size: int = 400) -> Any:
    """A configuration of `family` with two small layers."""
    import transformers

    sizes = {**SIZES, "vocab_size": vocab_size, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
    if family == "llama":
        return transformers.LlamaConfig(**sizes, tie_word_embeddings=True)
    if family == "mistral":
        return transformers.MistralConfig(**sizes, sliding_window=8)
    if family == "qwen2":
        return transformers.Qwen2Config(**sizes)
    if family == "qwen3":
        return transformers.Qwen3Config(**sizes)
    if family == "gemma2":
        return transformers.Gemma2Config(**sizes, sliding_window=8, query_pre_attn_scalar=16)
    if family == "gemma3":
        return transformers.Gemma3TextConfig(**sizes, sliding_window=8, query_pre_attn_scalar=16)
    if family == "phi3":
        return transformers.Phi3Config(**sizes)
    if family == "gpt2":
        return transformers.GPT2Config(
            vocab_size=vocab_size, n_embd=64, n_layer=2, n_head=4, n_positions=512, bos_token_id=1, eos_token_id=2,
            attn_pdrop=0.0, resid_pdrop=0.0, embd_pdrop=0.0,
        )  # fmt: skip
    raise ValueError(family)


FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "phi3", "gpt2")


def make_tiny_model(folder: Path, family: str = "llama", seed: int = 0) -> Path:
    """Write model and tokenizer as safetensors to `folder`."""
    import torch
    from transformers import AutoModelForCausalLM

    tokenizer = make_tokenizer()
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(tiny_config(family, len(tokenizer)), dtype=torch.float32)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
