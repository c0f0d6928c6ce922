"""What runs on NVIDIA GPUs only: flash attention over rows of different lengths, in bf16."""

from __future__ import annotations

import copy

import pytest
import torch

from tests.engine.test_forward import make_model, plain_loss, random_rows
from tunesmith.engine.attention import rows_of
from tunesmith.engine.forward import Forward
from tunesmith.engine.lora import add_lora, linear_names, lora_layers
from tunesmith.engine.packing import pack

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3", "phi3"])
def test_flash_attention_equals_rows_one_by_one(family: str) -> None:
    model = copy.deepcopy(make_model(family)).to("cuda", torch.bfloat16)
    model.set_attn_implementation("eager")
    rows = random_rows([37, 5, 120, 64], 1)
    forward = Forward(model, packing=True)
    assert forward.packed, forward.why
    batch = pack(rows).to(torch.device("cuda"))
    exact = copy.deepcopy(make_model(family))
    exact.set_attn_implementation("eager")
    expected = plain_loss(exact, rows)
    torch.testing.assert_close(forward.loss_sum(batch).cpu(), expected, rtol=2e-2, atol=1.0)


def test_adapters_learn_in_bf16() -> None:
    model = copy.deepcopy(make_model("llama")).to("cuda", torch.bfloat16)
    model.set_attn_implementation("eager")
    add_lora(model, linear_names(model), 8, 16, 0.0)
    model.train()
    forward = Forward(model, packing=True)
    batch = pack(random_rows([60, 30, 90], 2)).to(torch.device("cuda"))
    params = [p for _, layer in lora_layers(model) for p in (layer.lora_a, layer.lora_b)]
    optimizer = torch.optim.AdamW(params, lr=1e-2, fused=True)
    losses = []
    for _ in range(30):
        with rows_of(batch):
            loss = forward.loss_sum(batch) / len(batch.targets)
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss))
    assert losses[-1] < 0.8 * losses[0]
