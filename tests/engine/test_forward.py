"""Packed equals padded equals plain transformers, over architectures and random lengths."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from transformers import AutoModelForCausalLM

from tests.tiny import FAMILIES, tiny_config
from tunesmith.engine.attention import rows_of
from tunesmith.engine.forward import Forward
from tunesmith.engine.fusing import fuse
from tunesmith.engine.packing import IGNORE, PackedBatch, pack

MODELS: dict[str, torch.nn.Module] = {}


def make_model(family: str) -> torch.nn.Module:
    if family not in MODELS:
        torch.manual_seed(1)
        MODELS[family] = AutoModelForCausalLM.from_config(tiny_config(family), dtype=torch.float32).eval()
    return MODELS[family]


def random_rows(lengths: list[int], seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(seed)
    rows = []
    for length in lengths:
        ids = rng.integers(3, 400, length)
        rows.append((ids, np.where(rng.random(length) < 0.5, ids, IGNORE)))
    return rows


def plain_loss(model: torch.nn.Module, rows: list[tuple[np.ndarray, np.ndarray]]) -> torch.Tensor:
    """One row at a time through the model's own forward, nothing of ours."""
    total = torch.zeros(())
    for ids, labels in rows:
        logits = model(input_ids=torch.tensor(ids)[None]).logits[0, :-1]
        total = total + F.cross_entropy(logits.float(), torch.tensor(labels)[1:], ignore_index=IGNORE, reduction="sum")
    return total


def learn(model: torch.nn.Module, batch: PackedBatch, steps: int) -> list[float]:
    """Train the adapters of `model` on one batch; the mean loss of each step."""
    model.train()
    forward = Forward(model, packing=True)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2, fused=True)
    losses = []
    for _ in range(steps):
        with rows_of(batch):
            loss = forward.loss_sum(batch) / len(batch.targets)
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss))
    return losses


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
@given(lengths=st.lists(st.integers(2, 40), min_size=1, max_size=6), seed=st.integers(0, 10**6))
def test_losses_and_gradients_equal_plain_transformers(family: str, lengths: list[int], seed: int) -> None:
    model = make_model(family)
    rows = random_rows(lengths, seed)
    batch = pack(rows)
    model.set_attn_implementation("eager")
    expected = plain_loss(model, rows)
    gradients = torch.autograd.grad(expected, list(model.parameters()), allow_unused=True) if len(batch.targets) else ()
    ours = copy.deepcopy(model)
    fuse(ours)
    for packing in (True, False):
        ours.set_attn_implementation("eager")
        forward = Forward(ours, packing=packing)
        assert forward.packed == packing, forward.why
        got = forward.loss_sum(batch)
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
        if not len(batch.targets):
            continue
        found = torch.autograd.grad(got, list(ours.parameters()), allow_unused=True)
        for mine, theirs in zip(found, gradients, strict=True):
            if theirs is not None:
                torch.testing.assert_close(mine, theirs, rtol=2e-3, atol=2e-4)


def test_a_row_never_sees_its_neighbour() -> None:
    model = make_model("llama")
    model.set_attn_implementation("eager")
    forward = Forward(model, packing=True)
    first, second, other = random_rows([20, 15, 15], 3)
    with torch.no_grad():
        together = forward._hidden(pack([first, second]))
        changed = forward._hidden(pack([first, other]))
    assert torch.equal(together[:20], changed[:20]) and not torch.equal(together[20:], changed[20:])


def test_an_architecture_that_is_not_known_falls_back_and_says_why() -> None:
    model = make_model("llama")
    model.set_attn_implementation("eager")
    type(model)._supports_attention_backend, before = False, type(model)._supports_attention_backend
    try:
        forward = Forward(model, packing=True)
    finally:
        type(model)._supports_attention_backend = before
    assert not forward.packed and "cannot be exchanged" in forward.why


def test_a_filled_batch_has_one_of_few_sizes_and_the_same_loss() -> None:
    model = make_model("llama")
    forward = Forward(model, packing=True)
    sizes = set()
    for lengths in ([5, 9, 2], [30, 7], [40, 40, 40, 40, 40]):
        rows = random_rows(lengths, 3)
        filled = pack(rows, fill=True)
        sizes.add((len(filled.input_ids), len(filled.cu_seqlens), filled.length_bound))
        torch.testing.assert_close(forward.loss_sum(filled), forward.loss_sum(pack(rows)))
    assert sizes == {(1024, 9, 1024)}
