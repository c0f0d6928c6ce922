"""Small models with heads for labels, their tokenizers, and rows that can be told apart by one word."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from tests.tiny import make_tiny_model

WORDS = [
    "the",
    "a",
    "my",
    "card",
    "money",
    "bank",
    "please",
    "can",
    "you",
    "i",
    "want",
    "need",
    "how",
    "where",
    "today",
    "account",
    "order",
    "late",
    "again",
    "still",
    "not",
]
TOPICS = {"billing": ("invoice", "charged"), "delivery": ("parcel", "courier"), "login": ("password", "locked")}
SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
         "max_position_embeddings": 128, "pad_token_id": 0, "initializer_range": 0.2}  # fmt: skip


def rows_of(count: int, seed: int = 0, topics: dict[str, tuple[str, str]] = TOPICS) -> list[dict[str, Any]]:
    """Texts of 3 to 14 words, one of which gives the label away."""
    rng = random.Random(seed)
    rows = []
    for number in range(count):
        label = list(topics)[number % len(topics)]
        words = [*rng.choices(WORDS, k=rng.randint(2, 13)), rng.choice(topics[label])]
        rng.shuffle(words)
        rows.append({"text": " ".join(words), "label": label})
    return rows


ROWS = rows_of(60)


def word_tokenizer() -> Any:
    """Every word is a token, between [CLS] and [SEP]."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    known = [*WORDS, *(word for pair in TOPICS.values() for word in pair)]
    vocabulary = {word: n for n, word in enumerate(["[PAD]", "[CLS]", "[SEP]", "[UNK]", *known])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]", unk_token="[UNK]",
        model_max_length=126,
    )  # fmt: skip


def encoder_config(family: str, vocab_size: int = 64, **more: Any) -> Any:
    """A configuration of `family` with two small layers."""
    import transformers

    sizes = {**SIZES, "vocab_size": vocab_size, **more}
    if family == "bert":
        return transformers.BertConfig(**sizes)
    if family == "roberta":
        return transformers.RobertaConfig(**{**sizes, "pad_token_id": 1, "max_position_embeddings": 130})
    if family == "distilbert":
        return transformers.DistilBertConfig(
            dim=32, hidden_dim=48, n_layers=2, n_heads=4, vocab_size=vocab_size, max_position_embeddings=128, **more
        )
    if family == "modernbert":
        return transformers.ModernBertConfig(
            **sizes, local_attention=8, cls_token_id=1, sep_token_id=2, bos_token_id=1, eos_token_id=2
        )
    if family == "deberta":
        return transformers.DebertaV2Config(**sizes)
    if family == "llama":
        return transformers.LlamaConfig(**sizes, num_key_value_heads=2)
    raise ValueError(family)


def make_encoder(folder: Path, family: str = "bert", seed: int = 0) -> Path:
    """Write an encoder without a head for labels, and its tokenizer, to `folder`."""
    import torch
    from transformers import AutoModel

    tokenizer = word_tokenizer()
    torch.manual_seed(seed)
    AutoModel.from_config(encoder_config(family, len(tokenizer))).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_causal(folder: Path) -> Path:
    """A tiny Llama with its head for tokens."""
    return make_tiny_model(folder)
