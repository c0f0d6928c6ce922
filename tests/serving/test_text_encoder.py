"""Encoders answer with vectors: the same as transformers' own, whatever they are asked beside."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.tiny import make_tokenizer
from tunesmith.core.errors import InvalidInput
from tunesmith.recipes.blocks.text_encoder import load
from tunesmith.recipes.catalog import kind_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("encoder") / "tiny-bert"
    config = BertConfig(vocab_size=400, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48,
                        max_position_embeddings=64)  # fmt: skip
    BertModel(config, add_pooling_layer=False).save_pretrained(path)
    make_tokenizer().save_pretrained(path)
    return path


def test_vectors_are_those_of_transformers_whatever_stands_beside(folder: Path) -> None:
    from transformers import AutoModel, AutoTokenizer

    kind = kind_of(folder)
    assert (kind.name, kind.tasks) == ("text-encoder", ("feature-extraction",))
    encoder = load(folder, 1)
    texts = ["a short one", "a text that is quite a bit longer than the short one", "x"]
    found = encoder.predict(texts, {"normalize": False})
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    for text, vector in zip(texts, found, strict=True):
        with torch.no_grad():
            expected = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0)
        assert torch.allclose(torch.tensor(vector), expected, atol=1e-5)
    (unit,) = encoder.predict(["a short one"], {})
    assert torch.tensor(unit).norm().item() == pytest.approx(1, abs=1e-5)
    with pytest.raises(InvalidInput, match=r"inputs\.1"):
        encoder.predict(["fine", 3], {})
    with pytest.raises(InvalidInput, match="tokens"):
        encoder.predict(["word " * 200], {"truncate": False})
