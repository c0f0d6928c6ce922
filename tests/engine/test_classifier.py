"""Rows laid end to end give the logits and the gradients of padded ones, whatever the architecture."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests.recipes.text_classifiers import encoder_config
from tunesmith.engine.bidirectional import blocks_of
from tunesmith.engine.classifier import Classifier, pack_texts

LENGTHS = (30, 3, 3, 4, 12, 60, 31, 1, 7, 7)


def make(family: str, **more: Any) -> Any:
    from transformers import AutoModelForSequenceClassification

    torch.manual_seed(0)
    return AutoModelForSequenceClassification.from_config(encoder_config(family, num_labels=5, **more)).eval()


def gradients(model: Any, classifier: Classifier, batch: Any, target: torch.Tensor) -> tuple[torch.Tensor, Any]:
    model.zero_grad()
    with classifier.around(batch):
        logits = classifier.logits(batch)
        torch.nn.functional.cross_entropy(logits, target, reduction="sum").backward()
    return logits.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    ("family", "more"),
    [
        ("bert", {}), ("roberta", {}), ("distilbert", {}), ("modernbert", {}),
        ("modernbert", {"classifier_pooling": "mean"}), ("llama", {}),
    ],
)  # fmt: skip
def test_laid_end_to_end_is_padded(family: str, more: dict[str, Any]) -> None:
    model = make(family, **more)
    packed, padded = Classifier(model), Classifier(make(family, **more), packing=False)
    assert packed.packed and not padded.packed and packed.why == "rows are laid end to end"
    rng = np.random.default_rng(1)
    batch = pack_texts([rng.integers(5, 64, n) for n in LENGTHS])
    target = torch.arange(len(LENGTHS)) % 5
    ours, our_gradients = gradients(model, packed, batch, target)
    theirs, their_gradients = gradients(padded.model, padded, batch, target)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert our_gradients.keys() == their_gradients.keys()
    for name, expected in their_gradients.items():
        torch.testing.assert_close(our_gradients[name], expected, rtol=1e-3, atol=1e-4, msg=name)


def test_no_row_sees_another() -> None:
    classifier = Classifier(make("bert"))
    rng = np.random.default_rng(2)
    rows = [rng.integers(5, 64, n) for n in LENGTHS]
    with torch.no_grad():
        together = classifier.logits(pack_texts(rows))
        alone = torch.cat([classifier.logits(pack_texts([row])) for row in rows])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_what_cannot_be_packed_is_padded_and_says_why() -> None:
    classifier = Classifier(make("deberta"))
    assert not classifier.packed and classifier.has_features and "attention" in classifier.why
    rows = [np.array([5, 6, 7]), np.array([8, 9, 10, 11, 12])]
    with torch.no_grad():
        together = classifier.logits(pack_texts(rows))
        alone = torch.cat([classifier.logits(pack_texts([row])) for row in rows])
    torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-4)


def test_head_reads_features() -> None:
    for family in ("bert", "distilbert", "llama"):
        classifier = Classifier(make(family))
        batch = pack_texts([np.arange(5, 5 + n) for n in (4, 9)])
        with torch.no_grad():
            torch.testing.assert_close(classifier.head(classifier.features(batch)), classifier.logits(batch))
        inside = sum(p.numel() for p in classifier.base.parameters())
        pooler = sum(p.numel() for p in classifier.pooler.parameters()) if classifier.pooler is not None else 0
        whole = sum(p.numel() for p in classifier.model.parameters())
        assert sum(p.numel() for p in classifier.head_parameters()) == whole - inside + pooler


def test_rows_of_like_length_share_a_block() -> None:
    blocks = blocks_of((8, 8, 9, 20, 20, 3), torch.device("cpu"))
    assert [(b.num_rows, b.longest, b.span.start, b.span.stop) for b in blocks] == [
        (3, 9, 0, 25), (2, 20, 25, 65), (1, 3, 65, 68),
    ]  # fmt: skip
    assert blocks[1].pad_index is None and blocks[0].pad_index is not None
